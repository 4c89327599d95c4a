package audit_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
)

// A posting is a log with what it told of posted records.
type posting struct {
	*audit.Log
	sink *memory
	told []string
}

func newPosting(t *testing.T, delay time.Duration) *posting {
	t.Helper()
	p := &posting{sink: &memory{delay: delay}}
	l, err := audit.New(audit.Config{Sink: p.sink, Session: audit.Session{ID: "s"}, Posted: func(ev audit.Event, err error) {
		p.told = append(p.told, fmt.Sprint(ev, " ", errors.Is(err, audit.ErrSink)))
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.Log = l
	return p
}

// post posts an outcome that must be taken.
func (p *posting) post(t *testing.T, intent uint64) {
	t.Helper()
	if err := p.Post(audit.Record{Event: audit.RequestOutcome, Intent: intent}); err != nil {
		t.Error(err)
	}
}

// What is posted is written with the next record, before it, in one write.
func TestPostGoesWithTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosting(t, 0)
		begin := time.Now()
		for range 3 {
			p.post(t, mustAppend(t, p.Log, audit.Record{Event: audit.RequestIntent}).Seq)
			if p.sink.writes == 0 || strings.Count(p.sink.String(), string(audit.RequestOutcome)) == p.sink.writes {
				t.Error("the outcome is in the trail already")
			}
		}
		mustAppend(t, p.Log, audit.Record{Event: audit.RequestDenied})
		if p.sink.writes != 4 || time.Since(begin) != 0 {
			t.Errorf("%d writes in %v, want 4 in no time", p.sink.writes, time.Since(begin))
		}
		if got, want := strings.Join(eventsOf(p.sink.String()), " "), "request.intent request.outcome request.intent request.outcome request.intent request.outcome request.denied"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		mustVerify(t, p.sink.String())
		if got, want := strings.Join(p.told, ", "), "request.outcome false, request.outcome false, request.outcome false"; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
		p.Close()
	})
}

// eventsOf are the events of a trail, in order.
func eventsOf(trail string) (events []string) {
	for line := range strings.Lines(trail) {
		_, rest, _ := strings.Cut(line, `"event":"`)
		event, _, _ := strings.Cut(rest, `"`)
		events = append(events, event)
	}
	return events
}

// If no record follows, what is posted is written soon; and at Close at once.
func TestPostIsFlushed(t *testing.T) {
	for name, wait := range map[string]func(*posting){
		"soon":  func(*posting) { time.Sleep(5 * time.Millisecond); synctest.Wait() },
		"Close": func(p *posting) { p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPosting(t, 0)
				defer p.Close()
				ref := mustAppend(t, p.Log, audit.Record{Event: audit.RequestIntent})
				for range 10 {
					p.post(t, ref.Seq)
				}
				begin := time.Now()
				wait(p)
				if n := strings.Count(p.sink.String(), string(audit.RequestOutcome)); n != 10 || time.Since(begin) > 5*time.Millisecond {
					t.Errorf("%d outcomes after %v, want 10 within 5ms", n, time.Since(begin))
				}
				if p.sink.writes > 2 && name == "soon" || len(p.told) != 10 {
					t.Errorf("%d writes, told of %d", p.sink.writes, len(p.told))
				}
			})
		})
	}
}

// Post does not wait for a sink that stands still, and loses nothing when it moves again.
func TestPostDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosting(t, time.Hour)
		begin := time.Now()
		go func() {
			if _, err := p.Append(audit.Record{Event: audit.RequestIntent}); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		for i := range 100 {
			p.post(t, 1)
			if i%10 == 0 {
				time.Sleep(time.Minute)
			}
		}
		if took := time.Since(begin); took != 10*time.Minute {
			t.Errorf("100 posts take %v", took-10*time.Minute)
		}
		mustAppend(t, p.Log, audit.Record{Event: audit.RequestDenied})
		if took := time.Since(begin); took != 2*time.Hour || p.sink.writes != 2 {
			t.Errorf("%d writes in %v, want 2 in 2h", p.sink.writes, took)
		}
		if n := len(eventsOf(p.sink.String())); n != 102 {
			t.Errorf("%d records, want 102", n)
		}
		p.Close()
	})
}

// Who posts is told what could not be written; what can never be written is refused.
func TestPostFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosting(t, 0)
		ref := mustAppend(t, p.Log, audit.Record{Event: audit.RequestIntent})
		p.sink.write = func([]byte) (int, error) { return 0, errors.New("disk full") }
		p.post(t, ref.Seq)
		if _, err := p.Append(audit.Record{Event: audit.RequestIntent}); !errors.Is(err, audit.ErrSink) {
			t.Errorf("Append after a posted record on a full disk: %v, want ErrSink", err)
		}
		p.sink.write = nil
		p.post(t, ref.Seq)
		for _, r := range []audit.Record{{Event: audit.RequestOutcome}, {Event: audit.SegmentSigned}, {Event: audit.SessionVerified}, {}} {
			if err := p.Post(r); err == nil {
				t.Errorf("a %q is taken", r.Event)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(p.told, ", "), "request.outcome true, request.outcome false"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if err := p.Post(audit.Record{Event: audit.RequestOutcome, Intent: 1}); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("Post after Close: %v, want ErrClosed", err)
		}
		if s := mustVerify(t, p.sink.String()).Sessions[0]; s.Records != 2 {
			t.Errorf("%d records, want 2", s.Records)
		}
	})
}

// A sink that panics for a posted record does not end the process: there is no caller that could
// recover. Nothing is taken any more.
func TestPostPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &posting{sink: &memory{write: func([]byte) (int, error) { panic("sink") }}}
		var problems []string
		l, err := audit.New(audit.Config{
			Sink: p.sink, Session: audit.Session{ID: "s"}, Problem: func(err error) { problems = append(problems, err.Error()) },
			Posted: func(ev audit.Event, err error) {
				p.told = append(p.told, fmt.Sprint(ev, " ", errors.Is(err, audit.ErrSink)))
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Log = l
		p.post(t, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		p.sink.write = nil
		if _, err := p.Append(audit.Record{Event: audit.RequestIntent}); !errors.Is(err, audit.ErrSink) {
			t.Errorf("Append after that: %v, want ErrSink", err)
		}
		if got := strings.Join(append(problems, p.told...), ", "); got != "append to the audit trail: audit sink failed: panic: sink, request.outcome true" {
			t.Errorf("told %q", got)
		}
		p.Close()
	})
}
