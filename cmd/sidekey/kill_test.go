package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
)

// A killLog is a valve and a trail that notes what is done to both, in order.
type killLog struct {
	fail bool // the trail does not take records

	mu   sync.Mutex
	list []string
}

func (l *killLog) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, what)
}

func (l *killLog) done() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

func (l *killLog) Kill()   { l.note("shut") }
func (l *killLog) Resume() { l.note("open") }

func (l *killLog) Append(r audit.Record) (audit.Ref, error) {
	if l.fail {
		return audit.Ref{}, audit.ErrSink
	}
	l.note(string(r.Event) + " " + r.Reason + " " + r.By + " " + r.Detail)
	return audit.Ref{}, nil
}

func newTestSwitch(file string) (*killSwitch, *killLog) {
	l := &killLog{}
	return &killSwitch{valve: l, trail: l, file: file, log: zerolog.Nop(), held: map[string]string{}}, l
}

// The switch works before it is recorded, and lets go only after that was.
func TestKillSwitch(t *testing.T) {
	k, l := newTestSwitch("")
	if err := k.release(bySocket, "uid 0", ""); err != nil {
		t.Errorf("releasing what is not engaged: %v", err)
	}
	k.engage(bySocket, "uid 0", "incident")
	k.engage(bySocket, "uid 1", "again")
	if diff := cmp.Diff(map[string]string{bySocket: "uid 0"}, k.by()); diff != "" {
		t.Errorf("held by (-want +got):\n%s", diff)
	}
	if err := k.release(bySocket, "uid 1", "over"); err != nil {
		t.Error(err)
	}
	want := []string{"shut", "kill.engaged admin_socket uid 0 incident", "kill.released admin_socket uid 1 over", "open"}
	if diff := cmp.Diff(want, l.done()); diff != "" || len(k.by()) != 0 {
		t.Errorf("held by %v, done (-want +got):\n%s", k.by(), diff)
	}
}

// What two hold is open only when both have let go, and the file goes first.
func TestKillSwitchHeldTwice(t *testing.T) {
	k, l := newTestSwitch("")
	k.engage(bySocket, "uid 0", "")
	k.engage(byFile, "kill", "")
	if err := k.release(bySocket, "uid 0", ""); !errors.Is(err, errHeldByFile) {
		t.Errorf("released while the file is there: %v", err)
	}
	if err := k.release(byFile, "kill", ""); err != nil || slices.Contains(l.done(), "open") {
		t.Errorf("%v; done %q: open, and the socket holds it", err, l.done())
	}
	if err := k.release(bySocket, "uid 0", ""); err != nil || !slices.Equal(l.done()[len(l.done())-1:], []string{"open"}) {
		t.Errorf("%v; done %q", err, l.done())
	}
}

// Without a trail it can be engaged, and not released.
func TestKillSwitchUnrecorded(t *testing.T) {
	k, l := newTestSwitch("")
	l.fail = true
	k.engage(bySocket, "uid 0", "")
	if err := k.release(bySocket, "uid 0", ""); err == nil || !slices.Equal(l.done(), []string{"shut"}) || len(k.by()) != 1 {
		t.Errorf("release: %v; done %q, held by %v", err, l.done(), k.by())
	}
}

func TestKillFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kill")
	synctest.Test(t, func(t *testing.T) {
		k, l := newTestSwitch(file)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.watchFile(ctx) }()
		within := func(want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if len(l.done()) != want {
				t.Errorf("%d things done, want %d: %q", len(l.done()), want, l.done())
			}
		}
		within(0)
		if err := os.Symlink("nowhere", file); err != nil { // as a ConfigMap's file is a link
			t.Fatal(err)
		}
		within(2)
		within(2)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		within(4)
		cancel()
		<-done
		want := []string{"shut", "kill.engaged kill_file " + file + " ", "kill.released kill_file " + file + " ", "open"}
		if diff := cmp.Diff(want, l.done()); diff != "" {
			t.Errorf("done (-want +got):\n%s", diff)
		}
	})
}

// If nobody can tell whether the file is there, the switch stays as it is.
func TestKillFileUnknown(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k, l := newTestSwitch(filepath.Join(dir, "policy", "kill")) // below a file: ENOTDIR
	k.engage(byFile, "kill", "")
	if err := k.lookAtFile(); err == nil || len(l.done()) != 2 || len(k.by()) != 1 {
		t.Errorf("%v; done %q", err, l.done())
	}
	if none, l := newTestSwitch(""); none.lookAtFile() != nil || len(l.done()) != 0 {
		t.Error("a switch without a file looked at one")
	}
}
