package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekey/sidekey/audit"
)

// limited is a file on a disk that gets full after some bytes.
type limited struct {
	*os.File
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		n, _ := l.File.Write(p[:l.left])
		l.left = 0
		return n, syscall.ENOSPC
	}
	l.left -= len(p)
	return l.File.Write(p)
}

func TestFileTakesBackPartOfARecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail")
	f, err := audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(trail(t, "earlier")); err != nil {
		t.Fatal(err)
	}
	sink := &limited{f, 1000}
	l := open(t, sink, "s")
	defer l.Close()
	appended := 0
	for range 20 {
		_, err := l.Append(audit.Record{Event: audit.RequestDenied})
		switch {
		case err == nil:
			appended++
		case errors.Is(err, audit.ErrSink):
			sink.left = 777
		default:
			t.Fatal(err)
		}
	}
	sum := mustVerify(t, read(t, path))
	if n := sum.Sessions[1].Records; n != appended || n < 5 || n > 19 || sum.TornTail {
		t.Errorf("%d records in the trail, %d appended, torn %t", n, appended, sum.TornTail)
	}
}

// When somebody else wrote to the file, cutting would take what is theirs.
func TestFileOfTwoWritersIsNotCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail")
	f, err := audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sink := &limited{f, 1000}
	l := open(t, sink, "s")
	defer l.Close()
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	if _, err := f.WriteString("somebody else's\n"); err != nil {
		t.Fatal(err)
	}
	sink.left = 10
	if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); !errors.Is(err, audit.ErrSink) {
		t.Errorf("Append: %v, want ErrSink", err)
	}
	sink.left = 1000
	if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); !errors.Is(err, audit.ErrSink) {
		t.Errorf("second Append: %v, want ErrSink", err)
	}
	if got := read(t, path); !strings.Contains(got, "somebody else's\n") || !strings.HasSuffix(got, `{"seq":2,"`) {
		t.Errorf("the file was cut:\n%s", got)
	}
}

func TestOpenFileAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail")
	for _, id := range []string{"a", "b", "c"} {
		sink, err := audit.OpenSink(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := open(t, sink, id)
		mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
		mustAppend(t, l, audit.Record{Event: audit.SessionEnded})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if sum := mustVerify(t, read(t, path)); len(sum.Sessions) != 3 {
		t.Errorf("%d sessions, want 3", len(sum.Sessions))
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", fi.Mode(), err)
	}
}

// A process that dies while it writes must not spoil the trail of the next one.
func TestOpenFileAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail")
	whole := trail(t, "a")
	if err := os.WriteFile(path, []byte(whole[:strings.LastIndex(whole, `"event":"session.ended"`)]), 0o600); err != nil {
		t.Fatal(err)
	}
	sink, err := audit.OpenSink(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, sink, "b")
	defer l.Close()
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	sum := mustVerify(t, read(t, path))
	if len(sum.Sessions) != 2 || !sum.TornTail || sum.Sessions[0].Ended || sum.Sessions[1].Records != 1 {
		t.Errorf("summary %+v, want a cut session and a new one", sum)
	}
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	file, link, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.Symlink(file, link), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	held, err := audit.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for path, want := range map[string]string{
		link:                       "symbolic link",
		dir:                        "is a directory",
		fifo:                       "nobody reads",
		file:                       "another process",
		filepath.Join(dir, "x/y"):  "no such file",
		filepath.Join(file, "sub"): "not a directory",
	} {
		if f, err := audit.OpenFile(path); err == nil || !strings.Contains(err.Error(), want) {
			f.Close()
			t.Errorf("OpenFile(%s): %v, want %q", filepath.Base(path), err, want)
		}
	}
}

func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := audit.OpenSink(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.New(audit.Config{Sink: sink, Sync: true, Session: audit.Session{ID: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	buf := make([]byte, 4096)
	n, err := reader.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	mustVerify(t, string(buf[:n]))
	reader.Close()
	if _, err := l.Append(audit.Record{Event: audit.SessionEnded}); !errors.Is(err, audit.ErrSink) {
		t.Errorf("Append without a reader: %v, want ErrSink", err)
	}
	if err := l.Close(); !errors.Is(err, audit.ErrSink) {
		t.Errorf("Close: %v, want ErrSink: what was written is not signed", err)
	}
}

func TestStdoutStaysOpen(t *testing.T) {
	sink, err := audit.OpenSink("-", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.Stat(); err != nil {
		t.Errorf("standard output was closed: %v", err)
	}
	if _, ok := sink.(interface{ Truncate(int64) error }); ok {
		t.Error("standard output could be cut")
	}
}

func TestDevNull(t *testing.T) {
	sink, err := audit.OpenSink("/dev/null", 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.New(audit.Config{Sink: sink, Sync: true, Session: audit.Session{ID: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
