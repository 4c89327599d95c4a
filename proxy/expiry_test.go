package proxy_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

// socketPolicy has a WebSocket of each kind, and a route without a credential.
const socketPolicy = standardPolicy + `
  - {name: long, host: "api.test:PORT", methods: [GET], paths: [/outlive], credential: api, websocket: true, outlive: true}
  - {name: bare, host: "open.test:PORT", methods: [GET], paths: [/ws], websocket: true}
`

// upgraded is an upstream that takes a WebSocket and says nothing, and hands its end to the test.
func upgraded(ends chan<- net.Conn) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		ours, theirs := net.Pipe()
		ends <- theirs
		sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		resp := answering(req, nil)
		resp.StatusCode, resp.Body = http.StatusSwitchingProtocols, ours
		resp.Header.Set("Upgrade", "websocket")
		resp.Header.Set("Sec-Websocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
		return resp, nil
	}
}

// A socket is a WebSocket as its two ends have it.
type socket struct {
	agent    net.Conn
	upstream net.Conn
	ended    chan time.Time // gets when the agent saw its end
}

// openSocket has an agent open a WebSocket.
func openSocket(t *testing.T, p *piped, ends <-chan net.Conn, host, path string) *socket {
	t.Helper()
	agent := p.tunnel(host, "http/1.1")
	go fmt.Fprintf(agent, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5a2V5a2V5a2V5a2V5aw==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, host)
	br := bufio.NewReader(agent)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s%s: %v %v", host, path, resp, err)
	}
	s := &socket{agent: agent, upstream: <-ends, ended: make(chan time.Time, 1)}
	go func() { io.Copy(io.Discard, br); s.ended <- time.Now() }()
	t.Cleanup(func() { s.upstream.Close() })
	return s
}

// open reports whether s has not ended for its agent.
func (s *socket) open() bool {
	synctest.Wait()
	return len(s.ended) == 0
}

// works reports whether bytes of the agent still arrive.
func (s *socket) works() bool {
	b := make([]byte, 1)
	go s.agent.Write(b)
	s.upstream.SetReadDeadline(time.Now().Add(time.Second))
	_, err := io.ReadFull(s.upstream, b)
	return err == nil
}

// A WebSocket ends when the credential expires that it began with, to the moment, unless its route
// says otherwise or it had none.
func TestWebSocketEndsWithCredential(t *testing.T) {
	for _, tt := range []struct {
		host, path string
		ends       bool
	}{{"api.test", "/ws", true}, {"api.test", "/outlive", false}, {"open.test", "/ws", false}} {
		synctest.Test(t, func(t *testing.T) {
			ends := make(chan net.Conn, 1)
			p := newPiped(t, roundTrip(upgraded(ends)), deciding(t, socketPolicy))
			began := time.Now()
			s := openSocket(t, p, ends, tt.host, tt.path)
			time.Sleep(time.Hour - time.Since(began) - 2*time.Second) // what it was issued for
			if !s.works() || !s.open() {
				t.Errorf("%s%s: ended before the credential did", tt.host, tt.path)
			}
			time.Sleep(2 * time.Second)
			if s.open() == tt.ends || s.works() == tt.ends {
				t.Errorf("%s%s: open at the credential's end: %v", tt.host, tt.path, !tt.ends)
			}
			if tt.ends {
				if at := <-s.ended; at.Sub(began) != time.Hour {
					t.Errorf("it ended after %v", at.Sub(began))
				}
			}
			s.agent.Close()
			p.stop()
			want := map[bool]any{true: "credential_expired"}[tt.ends]
			if out := p.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != want || out[0]["status"] != 101.0 {
				t.Errorf("%s%s: outcomes %v", tt.host, tt.path, out)
			}
		})
	}
}

// An answer that is longer than the credential's life goes on: whether to is the upstream's choice.
func TestStreamOutlivesCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, feed := io.Pipe()
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) { return answering(req, stream), nil }))
		resp, err := clientOf(p).Get("https://api.test/v1/x")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.Sleep(3 * time.Hour)
		go func() { io.WriteString(feed, "late"); feed.Close() }()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "late" {
			t.Errorf("got %q %v", b, err)
		}
	})
}

// A lateTrail takes intents, and of the last it says so only when it is told to: its sink stands still.
type lateTrail struct {
	proxy.Trail
	prompt *atomic.Int64 // intents that it does not keep waiting
	says   chan struct{}
}

func (l lateTrail) Append(rec audit.Record) (audit.Ref, error) {
	ref, err := l.Trail.Append(rec)
	if rec.Event == audit.RequestIntent && l.prompt.Add(-1) < 0 {
		<-l.says
	}
	return ref, err
}

// A use whose record gets through when the credential has expired is not sent, and the trail says so,
// also of the second use of a request.
func TestUseRecordedAndTooLate(t *testing.T) {
	for _, sent := range []int64{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			var prompt, reached atomic.Int64
			prompt.Store(sent)
			says := make(chan struct{})
			p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				reached.Add(1)
				resp := answering(req, strings.NewReader("no"))
				resp.StatusCode = http.StatusUnauthorized
				return resp, nil
			}), func(c *proxy.Config) { c.Trail = lateTrail{c.Trail, &prompt, says} })
			got := make(chan string, 1)
			go func() { got <- ask(t, clientOf(p), "https://api.test/v1/x") }()
			synctest.Wait() // for the trail
			time.Sleep(2 * time.Hour)
			close(says)
			if g := <-got; g != "503 credential_unavailable" || reached.Load() != sent {
				t.Errorf("the agent gets %q, the upstream %d requests, want %d", g, reached.Load(), sent)
			}
			intents, outcomes := p.trail.records(audit.RequestIntent), p.trail.records(audit.RequestOutcome)
			if n := int(sent) + 1; len(intents) != n || len(outcomes) != n {
				t.Fatalf("%d intents, %d outcomes, want %d each", len(intents), len(outcomes), n)
			}
			if o := outcomes[sent]; o["error"] != "credential_unavailable" || o["attempts"] != nil || o["protocol"] != nil {
				t.Errorf("outcome %v", o)
			}
		})
	}
}

// A use that stalls on its way into the trail until the credential has expired is neither recorded
// nor sent.
func TestUseRecordedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := make(chan struct{})
		p := newPiped(t, roundTrip(func(*http.Request) (*http.Response, error) {
			t.Error("the upstream was reached")
			return nil, io.ErrUnexpectedEOF
		}), func(c *proxy.Config) { c.Trail = slowTrail{c.Trail, takes} })
		got := make(chan string, 1)
		go func() { got <- ask(t, clientOf(p), "https://api.test/v1/x") }()
		synctest.Wait() // for the trail
		time.Sleep(2 * time.Hour)
		close(takes)
		if g := <-got; g != "503 credential_unavailable" {
			t.Errorf("the agent gets %q", g)
		}
		if n := len(p.trail.records(audit.RequestIntent)); n != 0 {
			t.Errorf("%d intents", n)
		}
	})
}
