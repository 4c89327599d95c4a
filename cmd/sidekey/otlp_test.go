package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
)

// A logReceiver takes OTLP logs over HTTPS. It reads them by the protocol's own definition, and refuses
// what that does not have.
type logReceiver struct {
	*httptest.Server
	caFile, tokenFile string

	mu       sync.Mutex
	answers  []func(w http.ResponseWriter) // for the next calls; after them it takes all
	stuck    chan struct{}                 // it answers only when this is closed; nil for at once
	calls    int
	lines    []string // the bodies
	mistakes []string
}

const receiverToken = "otlp-token-4711"

func newLogReceiver(t *testing.T) *logReceiver {
	t.Helper()
	r := &logReceiver{}
	r.Server = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	dir := t.TempDir()
	r.caFile, r.tokenFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := errors.Join(os.WriteFile(r.caFile, block, 0o600), os.WriteFile(r.tokenFile, []byte(receiverToken+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *logReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	stuck := r.stuck
	r.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck:
		case <-req.Context().Done():
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if len(r.answers) > 0 {
		answer := r.answers[0]
		r.answers = r.answers[1:]
		answer(w)
		return
	}
	if req.URL.Path != "/v1/logs" || req.Method != "POST" || req.Header.Get("Content-Type") != "application/json" {
		r.mistakes = append(r.mistakes, req.Method+" "+req.URL.Path+" "+req.Header.Get("Content-Type"))
	}
	if req.Header.Get("Authorization") != "Bearer "+receiverToken {
		r.mistakes = append(r.mistakes, "it does not have the token")
	}
	r.take(body)
	io.WriteString(w, "{}")
}

// take reads a call. LogsData is ExportLogsServiceRequest under another name.
func (r *logReceiver) take(body []byte) {
	var data logspb.LogsData
	if err := protojson.Unmarshal(body, &data); err != nil {
		r.mistakes = append(r.mistakes, err.Error())
		return
	}
	for _, rl := range data.ResourceLogs {
		if attribute(rl.Resource.Attributes, "service.name").GetStringValue() != "sidekey" {
			r.mistakes = append(r.mistakes, "no service.name")
		}
		for _, sl := range rl.ScopeLogs {
			for _, rec := range sl.LogRecords {
				line := rec.Body.GetStringValue()
				event, session := attribute(rec.Attributes, "sidekey.event"), attribute(rec.Attributes, "sidekey.session")
				want := fmt.Sprintf(`{"seq":%d,"time":"%s"`, attribute(rec.Attributes, "sidekey.seq").GetIntValue(),
					time.Unix(0, int64(rec.TimeUnixNano)).UTC().Format("2006-01-02T15:04:05.000000000Z"))
				if !strings.HasPrefix(line, want) || !strings.Contains(line, `"event":"`+event.GetStringValue()+`"`) ||
					!strings.Contains(line, `"session":{"id":"`+session.GetStringValue()+`"`) || rec.ObservedTimeUnixNano == 0 {
					r.mistakes = append(r.mistakes, "the attributes are not those of "+line)
				}
				r.lines = append(r.lines, line)
			}
		}
	}
}

func attribute(all []*commonpb.KeyValue, key string) *commonpb.AnyValue {
	for _, kv := range all {
		if kv.Key == key {
			return kv.Value
		}
	}
	return nil
}

// text returns what it took as the trail has it, and checks how it came.
func (r *logReceiver) text(t *testing.T) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.mistakes {
		t.Errorf("the receiver: %s", m)
	}
	if len(r.lines) == 0 {
		return ""
	}
	return strings.Join(r.lines, "\n") + "\n"
}

// answering has it give these statuses to the next calls.
func (r *logReceiver) answering(statuses ...int) {
	for _, status := range statuses {
		r.answers = append(r.answers, func(w http.ResponseWriter) { w.WriteHeader(status) })
	}
}

// copied returns a trail in a file whose records are copied to r, and what the copies are sent by.
func (r *logReceiver) copied(t *testing.T, sync bool) (l *audit.Log, x *exporter, path string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(r.Certificate())
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	sink, err := audit.OpenSink(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	session := audit.Session{ID: "s-1"}
	q := newCopyQueue(&tally{})
	x = newExporter(config.OTLP{Endpoint: r.URL, TokenFile: r.tokenFile}, roots, session, audit.Pod{Name: "p"}, q, zerolog.Nop())
	l, err = audit.New(audit.Config{Sink: &copyingSink{Sink: sink, queue: q, synced: sync}, Sync: sync, Session: session})
	if err != nil {
		t.Fatal(err)
	}
	go x.run()
	return l, x, path
}

func appendRecords(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for range n {
		if _, err := l.Append(audit.Record{Event: audit.RequestDenied, Host: "é.example", Path: `/"<&>`, Detail: strings.Repeat("x", 900)}); err != nil {
			t.Fatal(err)
		}
	}
}

// A tally counts what was dropped.
type tally struct{ n atomic.Int64 }

func (t *tally) Add(n float64) { t.n.Add(int64(n)) }

func dropped(q *copyQueue) int { return int(q.dropped.(*tally).n.Load()) }

// The copies are the trail, line by line.
func TestCopies(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sync     bool
		statuses []int
		dropped  int
	}{
		{"taken", false, nil, 0},
		{"synced", true, nil, 0},
		{"unavailable at first", false, []int{503, 429}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newLogReceiver(t)
			r.answering(tt.statuses...)
			l, x, path := r.copied(t, tt.sync)
			appendRecords(t, l, 100)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			x.finish(patience)
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.text(t); got != string(want) {
				t.Errorf("the copies are %d bytes, the trail %d", len(got), len(want))
			}
			if got := dropped(x.queue); got != tt.dropped {
				t.Errorf("%v dropped, want %d", got, tt.dropped)
			}
			if r.calls <= len(tt.statuses) {
				t.Errorf("%d calls", r.calls)
			}
		})
	}
}

// What the endpoint does not want is counted and not sent again.
func TestCopiesRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  func(w http.ResponseWriter)
		dropped int
	}{
		{"no", func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) }, 5},
		{"elsewhere", func(w http.ResponseWriter) {
			w.Header().Set("Location", "/v1/logs")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, 5},
		{"some", func(w http.ResponseWriter) {
			io.WriteString(w, `{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}`)
		}, 2},
		{"some, as a number", func(w http.ResponseWriter) { io.WriteString(w, `{"partialSuccess":{"rejectedLogRecords":2}}`) }, 2},
		{"none, with a warning", func(w http.ResponseWriter) { io.WriteString(w, `{"partialSuccess":{"errorMessage":"slow down"}}`) }, 0},
		{"no JSON", func(w http.ResponseWriter) { io.WriteString(w, "ok") }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newLogReceiver(t)
			q := newCopyQueue(&tally{})
			roots := x509.NewCertPool()
			roots.AddCert(r.Certificate())
			x := newExporter(config.OTLP{Endpoint: r.URL, TokenFile: r.tokenFile}, roots, audit.Session{ID: "s"}, audit.Pod{}, q, zerolog.Nop())
			r.answers = append(r.answers, tt.answer)
			q.add([]byte(strings.Repeat(`{"seq":1,"time":"2026-11-22T10:00:00Z"}`+"\n", 5)))
			go x.run()
			x.finish(patience)
			if got := dropped(q); got != tt.dropped || r.calls != 1 {
				t.Errorf("%v dropped after %d calls, want %v after 1", got, r.calls, tt.dropped)
			}
		})
	}
}

// An endpoint that does not answer holds up neither the trail nor the end, and what it costs is bounded
// and counted.
func TestCopiesStuck(t *testing.T) {
	r := newLogReceiver(t)
	r.stuck = make(chan struct{})
	defer close(r.stuck)
	l, x, path := r.copied(t, false)
	const n = 8 << 10 // more than maxCopies
	appendRecords(t, l, n)
	x.queue.mu.Lock()
	if x.queue.size > maxCopies {
		t.Errorf("%d bytes are queued", x.queue.size)
	}
	x.queue.mu.Unlock()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	x.finish(time.Second)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("finish took %v, want about 1 s", took)
	}
	if text, err := os.ReadFile(path); err != nil || dropped(x.queue) != strings.Count(string(text), "\n") {
		t.Errorf("%v records dropped, want all %d: %v", dropped(x.queue), strings.Count(string(text), "\n"), err)
	}
}

// failingSink fails to write, or to sync, what has the word bad in it.
type failingSink struct{ write, sync, bad bool }

func (s *failingSink) Write(p []byte) (int, error) {
	s.bad = strings.Contains(string(p), "bad")
	if s.write && s.bad {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func (s *failingSink) Sync() error {
	if s.sync && s.bad {
		return errors.New("disk gone")
	}
	return nil
}
func (s *failingSink) Close() error { return nil }

// Only what was written, and synced where records wait for that, is copied.
func TestCopiesAreOfWhatWasWritten(t *testing.T) {
	for _, tt := range []struct {
		sink failingSink
		sync bool
		want string
	}{
		{failingSink{}, false, "good\nbad\ngood\n"},
		{failingSink{}, true, "good\nbad\ngood\n"},
		{failingSink{write: true}, false, "good\ngood\n"},
		{failingSink{write: true}, true, "good\ngood\n"},
		{failingSink{sync: true}, true, "good\ngood\n"},
	} {
		q := newCopyQueue(&tally{})
		s := &copyingSink{Sink: &tt.sink, queue: q, synced: tt.sync}
		for _, line := range []string{"good\n", "bad\n", "good\n"} {
			if _, err := s.Write([]byte(line)); err == nil && tt.sync {
				s.Sync()
			}
		}
		if got := string(q.take(1 << 20)); got != tt.want {
			t.Errorf("%+v synced %t: %q is copied, want %q", tt.sink, tt.sync, got, tt.want)
		}
	}
}

// A real process.
func TestServeCopies(t *testing.T) {
	r := newLogReceiver(t)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	st := newSinkStage(t, realSidekey(t), path, fmt.Sprintf("otlp: {endpoint: %q, ca_file: %q, token_file: %q}", r.URL, r.caFile, r.tokenFile))
	for range 20 {
		if answer, err := st.ask(t.Context()); err != nil || answer != "200" {
			t.Fatal(answer, err)
		}
	}
	st.wantOver(t, 5*time.Second)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st.wantTrail(t, string(want))
	if got := r.text(t); got != string(want) {
		t.Errorf("the copies are not the trail:\n%s\n%s", got, want)
	}
	if strings.Contains(st.stderr.String(), receiverToken) {
		t.Error("I10: the token stands in the log")
	}
}

// Without the endpoint all works as with it.
func TestServeCopiesNobody(t *testing.T) {
	r := newLogReceiver(t)
	st := newSinkStage(t, realSidekey(t), filepath.Join(t.TempDir(), "audit.jsonl"), fmt.Sprintf("otlp: {endpoint: %q, ca_file: %q}", r.URL, r.caFile))
	r.Close()
	for range 20 {
		if answer, err := st.ask(t.Context()); err != nil || answer != "200" {
			t.Fatal(answer, err)
		}
	}
	st.wantOver(t, 6*time.Second)
}
