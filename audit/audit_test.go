package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// memory is a sink in memory that can be told to fail. It is not a file: nothing can be taken
// back from it.
type memory struct {
	bytes.Buffer
	writes, syncs int
	closed        bool

	delay   time.Duration
	write   func(p []byte) (int, error) // nil writes
	syncErr error
}

func (m *memory) Write(p []byte) (int, error) {
	m.writes++
	time.Sleep(m.delay)
	if m.write != nil {
		return m.write(p)
	}
	return m.Buffer.Write(p)
}

func (m *memory) Sync() error  { m.syncs++; return m.syncErr }
func (m *memory) Close() error { m.closed = true; return nil }

func open(t testing.TB, sink audit.Sink, id string) *audit.Log {
	t.Helper()
	l, err := audit.New(audit.Config{
		Sink:    sink,
		Session: audit.Session{ID: id, Role: "reviewer", RequestedBy: "ada@example.com", Attribution: "asserted"},
		Pod:     audit.Pod{Namespace: "agents", Name: "reviewer-0", UID: "9c1f"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustAppend(t testing.TB, l *audit.Log, r audit.Record) audit.Ref {
	t.Helper()
	ref, err := l.Append(r)
	if err != nil {
		t.Fatalf("Append(%s): %v", r.Event, err)
	}
	return ref
}

func mustVerify(t testing.TB, trail string) audit.Summary {
	t.Helper()
	sum, err := audit.Verify(strings.NewReader(trail))
	if err != nil {
		t.Fatalf("Verify: %v\n%s", err, trail)
	}
	return sum
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]audit.Config{
		"no sink":             {Session: audit.Session{ID: "s"}},
		"no session id":       {Sink: &memory{}},
		"a session id like /": {Sink: &memory{}, Session: audit.Session{ID: "a/b"}},
		"a long session id":   {Sink: &memory{}, Session: audit.Session{ID: strings.Repeat("a", 129)}},
		"a session id like é": {Sink: &memory{}, Session: audit.Session{ID: "é"}},
	} {
		if _, err := audit.New(cfg); err == nil {
			t.Errorf("New with %s: no error", name)
		}
	}
}

func TestForm(t *testing.T) {
	sink := &memory{}
	l, err := audit.New(audit.Config{Sink: sink, Session: audit.Session{ID: "s-1", Role: "r"}, Now: func() time.Time {
		return noon.In(time.FixedZone("", 3600))
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	l.SetPolicy(3, "abc")
	ref := mustAppend(t, l, audit.Record{
		Event: audit.CredentialIssued, Issuance: "i", ExpiresAt: noon.Add(time.Hour), Source: &audit.Source{Kind: "vault", Version: 2},
	})
	if ref.Seq != 2 || ref.ID() != "urn:sidekey:s-1:2" {
		t.Errorf("Append = %d %s, want 2 urn:sidekey:s-1:2", ref.Seq, ref.ID())
	}
	zeros := strings.Repeat("0", 64)
	started := mustVerify(t, strings.SplitAfter(sink.String(), "\n")[0]).Sessions[0]
	first := started.Head
	seq, head := l.Anchor()
	want := `{"seq":1,"time":"2026-11-22T12:00:00.000000000Z","prev":"` + zeros + `","hash":"` + first +
		`","event":"session.started","session":{"id":"s-1","role":"r"},"pod":{},"policy":{"generation":0,"sha256":""},"signing_key":"` + started.SigningKey + `"}
{"seq":2,"time":"2026-11-22T12:00:00.000000000Z","prev":"` + first + `","hash":"` + head +
		`","event":"credential.issued","session":{"id":"s-1","role":"r"},"pod":{},"policy":{"generation":3,"sha256":"abc"},` +
		`"issuance":"i","source":{"kind":"vault","version":2},"expires_at":"2026-11-22T13:00:00Z"}
`
	if diff := cmp.Diff(sink.String(), want); diff != "" {
		t.Errorf("the trail is not as documented (-got +want):\n%s", diff)
	}
	if seq != 2 {
		t.Errorf("Anchor: seq %d, want 2", seq)
	}
}

func TestAppendRefuses(t *testing.T) {
	sink := &memory{}
	l := open(t, sink, "s")
	nan := 0.0
	for name, r := range map[string]audit.Record{
		"no event":                   {},
		"an unknown event":           {Event: "request.allowed"},
		"an event with a quote":      {Event: `request.denied","x":"`},
		"an outcome without intent":  {Event: audit.RequestOutcome},
		"an issuance without id":     {Event: audit.CredentialIssued, ExpiresAt: noon},
		"an issuance without expiry": {Event: audit.CredentialIssued, Issuance: "i"},
		"a duration that is NaN":     {Event: audit.RequestIntent, DurationMS: nan / nan},
		"a year beyond RFC 3339":     {Event: audit.RequestIntent, IssuedAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, err := l.Append(r); err == nil || errors.Is(err, audit.ErrSink) {
			t.Errorf("Append of %s: error %v, want one about the record", name, err)
		}
	}
	if sink.writes != 0 {
		t.Errorf("the sink got %q", sink.String())
	}
}

func TestConcurrentAppends(t *testing.T) {
	sink := &memory{}
	l := open(t, sink, "s")
	const workers, each = 16, 50
	seqs := make(chan uint64, workers*each)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				ref, err := l.Append(audit.Record{Event: audit.RequestDenied, Conn: fmt.Sprintf("%d-%d", w, i)})
				if err != nil {
					t.Error(err)
				}
				seqs <- ref.Seq
				l.Anchor()
				l.SetPolicy(uint64(i), "abc")
			}
		})
	}
	wg.Wait()
	close(seqs)
	seen := map[uint64]bool{}
	for seq := range seqs {
		seen[seq] = true
	}
	if len(seen) != workers*each || seen[0] {
		t.Errorf("%d different numbers for %d records", len(seen), workers*each)
	}
	s := mustVerify(t, sink.String()).Sessions[0]
	seq, head := l.Anchor()
	if s.Denied != workers*each || s.Head != head || seq != workers*each {
		t.Errorf("summary %+v, anchor %d %s", s, seq, head)
	}
}

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{delay: time.Second}
		l := open(t, sink, "s")
		const appends = 100
		start := time.Now()
		for range appends {
			go func() {
				if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if sink.writes < 1 || sink.writes > 3 {
			t.Errorf("%d records took %d writes, want at most 3", appends, sink.writes)
		}
		if s := mustVerify(t, sink.String()).Sessions[0]; s.Records != appends {
			t.Errorf("%d records, want %d (since %v)", s.Records, appends, start)
		}
	})
}

func TestAppendWaitsForSync(t *testing.T) {
	sink := &memory{}
	l, err := audit.New(audit.Config{Sink: sink, Sync: true, Session: audit.Session{ID: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied})
		if sink.syncs != i+1 {
			t.Errorf("%d syncs after %d records", sink.syncs, i+1)
		}
	}
	sink.syncErr = errors.New("disk gone")
	for range 2 {
		if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); !errors.Is(err, audit.ErrSink) {
			t.Errorf("Append with a failing sync: %v, want ErrSink", err)
		}
	}
	if sink.writes != 4 {
		t.Errorf("%d writes, want 4: what was not synced cannot be taken back", sink.writes)
	}
}

// A batch fails as a whole, and the next one goes on where the trail ends.
func TestFailedWriteLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{delay: time.Second}
		l := open(t, sink, "s")
		full := errors.New("disk full at /var/log")
		sink.write = func(p []byte) (int, error) {
			if sink.writes == 2 {
				return 0, full
			}
			return sink.Buffer.Write(p)
		}
		var mu sync.Mutex
		var ok, failed int
		for range 3 {
			for range 10 {
				go func() {
					_, err := l.Append(audit.Record{Event: audit.RequestDenied})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						ok++
					case errors.Is(err, audit.ErrSink):
						failed++
					default:
						t.Error(err)
					}
				}()
			}
			time.Sleep(time.Minute)
		}
		mu.Lock()
		defer mu.Unlock()
		if failed == 0 || ok+failed != 30 {
			t.Errorf("%d appended and %d failed, want 30 and some failed", ok, failed)
		}
		if s := mustVerify(t, sink.String()).Sessions[0]; s.Records != ok {
			t.Errorf("the trail has %d records, %d were appended", s.Records, ok)
		}
	})
}

func TestPartOfARecordBreaksAStream(t *testing.T) {
	for name, write := range map[string]func(*memory, []byte) (int, error){
		"short write":          func(m *memory, p []byte) (int, error) { return m.Buffer.Write(p[:7]) },
		"short write, error":   func(m *memory, p []byte) (int, error) { m.Buffer.Write(p[:7]); return 7, errors.New("x") },
		"whole write, error":   func(m *memory, p []byte) (int, error) { m.Buffer.Write(p); return len(p), errors.New("x") },
		"impossible count":     func(m *memory, p []byte) (int, error) { return -1, errors.New("x") },
		"more than was given":  func(m *memory, p []byte) (int, error) { return len(p) + 1, nil },
		"nothing and no error": func(m *memory, p []byte) (int, error) { return -1, nil },
	} {
		sink := &memory{}
		l := open(t, sink, "s")
		mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
		_, before := l.Anchor()
		sink.write = func(p []byte) (int, error) { return write(sink, p) }
		for range 3 {
			if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); !errors.Is(err, audit.ErrSink) {
				t.Errorf("%s: Append: %v, want ErrSink", name, err)
			}
		}
		if _, head := l.Anchor(); head != before || sink.writes != 2 {
			t.Errorf("%s: the head moved, or there were %d writes, want 2", name, sink.writes)
		}
	}
}

func TestSinkPanics(t *testing.T) {
	sink := &memory{write: func([]byte) (int, error) { panic("sink") }}
	l := open(t, sink, "s")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		l.Append(audit.Record{Event: audit.SessionStarted})
	}()
	if _, err := l.Append(audit.Record{Event: audit.SessionStarted}); !errors.Is(err, audit.ErrSink) {
		t.Errorf("Append: %v, want ErrSink", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// When the sink panics, those who wait for the same write must not believe it took place.
func TestSinkPanicsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{delay: time.Second}
		sink.write = func(p []byte) (int, error) {
			if sink.writes > 1 {
				panic("sink")
			}
			return sink.Buffer.Write(p)
		}
		l := open(t, sink, "s")
		var ok, refused, panicked atomic.Int32
		for i := range 20 {
			if i == 1 {
				synctest.Wait() // the first one is in its write, so that the others share another
			}
			go func() {
				defer func() {
					if recover() != nil {
						panicked.Add(1)
					}
				}()
				if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); errors.Is(err, audit.ErrSink) {
					refused.Add(1)
				} else if err == nil {
					ok.Add(1)
				}
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		n := mustVerify(t, sink.String()).Sessions[0].Records
		if int(ok.Load()) != n || panicked.Load() != 1 || ok.Load()+refused.Load() != 19 {
			t.Errorf("%d records; %d appended, %d refused, %d panicked", n, ok.Load(), refused.Load(), panicked.Load())
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{delay: time.Second}
		l := open(t, sink, "s")
		for range 5 {
			go func() {
				if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); err != nil {
					t.Errorf("Append before Close: %v", err)
				}
			}()
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if s := mustVerify(t, sink.String()).Sessions[0]; s.Records != 5 || !sink.closed || sink.syncs != 1 {
			t.Errorf("%d records, closed %t, %d syncs; want 5, true, 1", s.Records, sink.closed, sink.syncs)
		}
		if _, err := l.Append(audit.Record{Event: audit.SessionEnded}); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("Append after Close: %v, want ErrClosed", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// What would no longer be true when it is written is not written, and the log goes on.
func TestAppendTooLate(t *testing.T) {
	now := noon
	var sink memory
	l, err := audit.New(audit.Config{Sink: &sink, Session: audit.Session{ID: "s"}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	use := audit.Record{Event: audit.RequestIntent, NotAfter: noon.Add(time.Second)}
	for _, tt := range []struct {
		at   time.Duration
		want error
	}{{0, nil}, {time.Second - 1, nil}, {time.Second, audit.ErrLate}, {time.Hour, audit.ErrLate}, {0, nil}} {
		now = noon.Add(tt.at)
		if _, err := l.Append(use); err != tt.want {
			t.Errorf("after %v: %v, want %v", tt.at, err, tt.want)
		}
	}
	if got := strings.Count(sink.String(), "\n"); got != 3 || strings.Contains(sink.String(), "NotAfter") {
		t.Errorf("%d records, want 3:\n%s", got, sink.String())
	}
	if s, err := audit.Verify(strings.NewReader(sink.String())); err != nil || s.Sessions[0].Records != 3 {
		t.Errorf("Verify: %+v, %v", s, err)
	}
}

// A record names the policy that decided, also if another is in force by now.
func TestRecordOfAnEarlierGeneration(t *testing.T) {
	var sink memory
	l, err := audit.New(audit.Config{Sink: &sink, Session: audit.Session{ID: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	l.SetPolicy(1, "aaa")
	l.SetPolicy(2, "bbb")
	for _, generation := range []uint64{0, 1, 2, 3} { // 3 was never in force
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Generation: generation})
	}
	var got []string
	for line := range strings.Lines(sink.String()) {
		_, policy, _ := strings.Cut(line, `"policy":`)
		got = append(got, strings.TrimSpace(policy))
	}
	const first, second = `{"generation":1,"sha256":"aaa"}}`, `{"generation":2,"sha256":"bbb"}}`
	if diff := cmp.Diff([]string{second, first, second, second}, got); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
	if _, err := audit.Verify(strings.NewReader(sink.String())); err != nil {
		t.Error(err)
	}
}
