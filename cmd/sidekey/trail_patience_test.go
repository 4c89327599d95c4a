package main

import (
	"errors"
	"net/http/httptest"
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

// trailTo is a trail as serve has it.
func trailTo(t *testing.T, sink audit.Sink) *trail {
	t.Helper()
	tr := newTrail(audit.Asserted, newMetrics("tester"), zerolog.Nop())
	l, err := audit.New(audit.Config{Sink: sink, Session: audit.Session{ID: "s"}, Posted: tr.posted})
	if err != nil {
		t.Fatal(err)
	}
	tr.Log = l
	return tr
}

// While the sink stands still what needs a record is refused, what does not goes on, and neither holds
// more than so much.
func TestTrailPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newGatedSink()
		tr := trailTo(t, sink)
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

// A sink that only posted records wait for stands still as any other.
func TestTrailPatienceWithPosted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newGatedSink()
		tr := trailTo(t, sink)
		sink.set(true)
		outcome := audit.Record{Event: audit.RequestOutcome, Intent: 1}
		if err := tr.Post(outcome); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sinkPatience + time.Second)
		if _, err := tr.Append(audit.Record{Event: audit.RequestIntent}); !errors.Is(err, audit.ErrSink) {
			t.Errorf("Append: %v, want ErrSink", err)
		}
		sink.set(false)
		synctest.Wait()
		if _, err := tr.Append(audit.Record{Event: audit.RequestIntent}); err != nil {
			t.Errorf("Append when the sink moves again: %v", err)
		}
		tr.Close()
		if err := tr.Post(outcome); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("Post after Close: %v, want ErrClosed", err)
		}
		counted := httptest.NewRecorder()
		opsHandler(&state{}, tr.metrics).ServeHTTP(counted, httptest.NewRequest("GET", "/metrics", nil))
		for _, want := range []string{"sidekey_audit_write_errors_total 2", `sidekey_audit_records_total{event="request.outcome"} 1`} {
			if !strings.Contains(counted.Body.String(), want+"\n") {
				t.Errorf("/metrics does not say %s", want)
			}
		}
	})
}

// A sleepySink takes long for everything, and takes everything.
type sleepySink struct{ *gatedSink }

func (s sleepySink) Write(p []byte) (int, error) { time.Sleep(sinkPatience / 2); return len(p), nil }

// A slow sink does not stand still, whatever it is that it takes.
func TestTrailSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := trailTo(t, sleepySink{newGatedSink()})
		if err := tr.Post(audit.Record{Event: audit.RequestOutcome, Intent: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		go tr.Append(audit.Record{Event: audit.RequestIntent})
		time.Sleep(sinkPatience)
		if _, err := tr.Append(audit.Record{Event: audit.RequestIntent}); err != nil {
			t.Error(err)
		}
		tr.Close()
	})
}

// The first records after an idle time are taken, however they meet.
func TestTrailAfterIdling(t *testing.T) {
	tr := trailTo(t, newGatedSink())
	tr.began = time.Now().Add(-time.Hour)
	for range 150_000 {
		tr.moved.Store(0)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if _, err := tr.Append(audit.Record{Event: audit.RequestIntent}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
	}
	tr.Close()
}
