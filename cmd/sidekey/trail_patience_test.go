package main

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
)

// A gatedSink takes what is written while its gate is open.
type gatedSink struct {
	gate  sync.Cond
	shut  bool
	lines int
}

func newGatedSink() *gatedSink { return &gatedSink{gate: sync.Cond{L: &sync.Mutex{}}} }

func (s *gatedSink) Write(p []byte) (int, error) {
	s.gate.L.Lock()
	defer s.gate.L.Unlock()
	for s.shut {
		s.gate.Wait()
	}
	s.lines += strings.Count(string(p), "\n")
	return len(p), nil
}

func (s *gatedSink) set(shut bool) {
	s.gate.L.Lock()
	defer s.gate.L.Unlock()
	s.shut = shut
	s.gate.Broadcast()
}

func (s *gatedSink) Sync() error  { return nil }
func (s *gatedSink) Close() error { return nil }

// While the sink stands still what needs a record is refused, what does not goes on, and neither holds
// more than so much.
func TestTrailPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newGatedSink()
		l, err := audit.New(audit.Config{Sink: sink, Session: audit.Session{ID: "s"}})
		if err != nil {
			t.Fatal(err)
		}
		tr := newTrail(l, audit.Asserted, newMetrics("tester"), zerolog.Nop())
		rec := audit.Record{Event: audit.RequestDenied}
		timed := func(what string, want time.Duration, do func()) {
			t.Helper()
			begin := time.Now()
			do()
			if took := time.Since(begin); took != want {
				t.Errorf("%s took %v, want %v", what, took, want)
			}
		}
		timed("a note", 0, func() { tr.note(rec) })
		sink.set(true)
		first := make(chan error, 1)
		go func() { _, err := tr.Append(rec); first <- err }()
		synctest.Wait()
		timed("a note while the sink stands still", notePatience, func() { tr.note(rec) })
		time.Sleep(sinkPatience)
		timed("a record", 0, func() {
			if _, err := tr.Append(rec); !errors.Is(err, audit.ErrSink) {
				t.Errorf("Append: %v, want ErrSink", err)
			}
		})
		timed("many notes", 0, func() {
			for range 2 * maxNotes {
				tr.note(rec)
			}
		})
		sink.set(false)
		if err := <-first; err != nil {
			t.Errorf("what waited: %v", err)
		}
		synctest.Wait()
		if _, err := tr.Append(rec); err != nil {
			t.Errorf("Append when the sink moves again: %v", err)
		}
		if want := 1 + 1 + maxNotes + 1; sink.lines != want {
			t.Errorf("%d records were written, want %d", sink.lines, want)
		}
	})
}
