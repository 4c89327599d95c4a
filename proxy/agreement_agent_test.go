package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// A pairOutcome is all that is compared of what becomes of a request in the proxy.
type pairOutcome struct {
	status  int
	refusal string // the header Sidekey-Refusal
	sent    string // what the upstream got: method, URL, X-A and body
	record  pairRecord
}

// A pairRecord is the intent or the denial in the trail.
type pairRecord struct {
	Event                                  audit.Event
	Entrance, Method, Scheme, Host         string
	Port                                   uint16
	Path, Route, Reason, WouldDeny, Detail string
	Status                                 int
}

// wanted is what should become of r if d decides it.
func wanted(r policy.Request, d policy.Decision) pairOutcome {
	o := pairOutcome{status: 200, record: pairRecord{
		Event: audit.RequestIntent, Entrance: "connect-h1",
		Method: r.Method, Scheme: r.Target.Scheme, Host: r.Target.Host, Port: r.Target.Port,
		Path: r.Target.Path, Detail: d.Detail,
	}}
	if r.Target.Scheme == "http" {
		o.record.Entrance = "http"
	}
	if d.Allow {
		o.sent = sentForm(r.Method, r.Target.Scheme, strings.TrimSuffix(r.Target.Authority.String(), defaultPort(r.Target.Scheme)), r.Target.RequestURI(), r.Header["X-A"], bodyText(r))
		o.record.Path, o.record.Route, o.record.WouldDeny = d.Path, d.Route.Name, string(d.Reported)
		return o
	}
	o.status, o.refusal = 403, string(d.Reason)
	if d.Reason == policy.EncodedSlashNotAllowed || d.Reason == policy.EncodedPercentNotAllowed {
		o.status = 400
	}
	o.record.Event, o.record.Reason, o.record.Status = audit.RequestDenied, o.refusal, o.status
	return o
}

func defaultPort(scheme string) string {
	return map[string]string{"https": ":443", "http": ":80"}[scheme]
}

func sentForm(method, scheme, host, uri string, xa []string, body string) string {
	return fmt.Sprintf("%s %s://%s%s %q %q", method, scheme, host, uri, xa, body)
}

func bodyText(r policy.Request) string {
	if r.Body == nil {
		return ""
	}
	b, _ := r.Body.Bytes() // of a text
	return string(b)
}

// A pairWorker is an agent that sends one request after another to a proxy of its own.
type pairWorker struct {
	p     *piped
	conns map[policy.Authority]*pairConn // tunnels; the zero Authority is the listener itself
	open  *policy.Policy                 // under which no host is tunnelled
	now   *policy.Policy

	mu   sync.Mutex
	sent []string // what the upstream got
	last pairTrail
}

func newPairWorker(t *testing.T) *pairWorker {
	w := &pairWorker{conns: map[policy.Authority]*pairConn{}}
	w.open = must(policy.Parse("open", []byte("version: 1\nrole: random\nroutes:\n- {name: open, host: open.test, access: read-only, paths: [/]}\n")))(t)
	trail := must(audit.New(audit.Config{Sink: &w.last, Session: audit.Session{ID: "s-1", Role: "random"}}))(t)
	w.p = newPiped(t, roundTrip(w.upstream), func(cfg *proxy.Config) {
		cfg.Trail = promptTrail{trail}
	})
	t.Cleanup(w.close)
	return w
}

// upstream says yes to everything.
func (w *pairWorker) upstream(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	w.mu.Lock()
	w.sent = append(w.sent, sentForm(req.Method, req.URL.Scheme, req.URL.Host, req.URL.RequestURI(), req.Header["X-A"], string(body)))
	w.mu.Unlock()
	resp := answering(req, http.NoBody)
	resp.ContentLength = 0
	return resp, nil
}

// serve has the proxy decide by p.
func (w *pairWorker) serve(t *rapid.T, p *policy.Policy) {
	w.now = p
	w.swap(t, p)
}

// swap makes a generation each time: one that was retired cannot come back.
func (w *pairWorker) swap(t *rapid.T, p *policy.Policy) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("there is no network") }
	if _, err := w.p.srv.SetGeneration(&proxy.Generation{Policy: p, Plain: w.p.upstream, Dial: dial}); err != nil {
		t.Fatal(err)
	}
}

// send sends r and returns what became of it.
func (w *pairWorker) send(t *rapid.T, r policy.Request) pairOutcome {
	var tunnel policy.Authority
	if r.Target.Scheme == "https" {
		tunnel = r.Target.Authority
	}
	c := w.conns[tunnel]
	if c == nil {
		c = w.connect(t, tunnel)
	}
	w.last.take()
	o, last, err := c.exchange(r)
	if err != nil {
		w.close()
		t.Fatalf("%s %s: %v", r.Method, r.Target, err)
	}
	if last {
		c.pipe.Close()
		delete(w.conns, tunnel)
	}
	if o.record, err = w.last.take(); err != nil {
		w.close()
		t.Fatalf("%s %s: %v", r.Method, r.Target, err)
	}
	w.mu.Lock()
	o.sent, w.sent = strings.Join(w.sent, "; "), w.sent[:0]
	w.mu.Unlock()
	return o
}

// connect opens a connection or, if tunnel is not zero, a tunnel. The policy may pass new tunnels
// through; then it is one from before.
func (w *pairWorker) connect(t *rapid.T, tunnel policy.Authority) *pairConn {
	agent, end := net.Pipe()
	w.p.ln.conns <- &pipeEnd{end, tcpAddr("127.0.0.1:15001"), tcpAddr("127.0.0.1:40000")}
	c := &pairConn{pipe: agent, conn: agent}
	if tunnel != (policy.Authority{}) {
		if w.now.Tunnel(tunnel) != nil {
			w.swap(t, w.open)
			defer w.swap(t, w.now)
		}
		fmt.Fprintf(agent, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", tunnel, tunnel)
		resp, err := http.ReadResponse(bufio.NewReader(agent), &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("CONNECT %s: %v %v", tunnel, resp, err)
		}
		inner := tls.Client(agent, &tls.Config{
			ServerName: tunnel.Host, RootCAs: w.p.roots, NextProtos: []string{"http/1.1"},
			CurvePreferences: []tls.CurveID{tls.CurveP256}, // the fastest: there are many handshakes
		})
		if err := inner.Handshake(); err != nil {
			t.Fatalf("CONNECT %s: %v", tunnel, err)
		}
		c.conn = inner
	}
	c.in = bufio.NewReader(c.conn)
	w.conns[tunnel] = c
	return c
}

func (w *pairWorker) close() {
	for _, c := range w.conns {
		c.pipe.Close()
	}
	clear(w.conns)
}

// A pairConn is a connection on which requests are sent by hand: net/http's client would be the
// slowest part of all.
type pairConn struct {
	pipe net.Conn
	conn net.Conn // pipe, or TLS on it
	in   *bufio.Reader
	out  bytes.Buffer
}

// exchange sends r and returns the status and the refusal. last says that the connection ends.
func (c *pairConn) exchange(r policy.Request) (o pairOutcome, last bool, err error) {
	c.out.Reset()
	target := r.Target.RequestURI()
	if r.Target.Scheme == "http" {
		target = "http://" + r.Target.Authority.String() + target
	}
	fmt.Fprintf(&c.out, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, target, r.Target.Authority)
	for name, values := range r.Header {
		for _, v := range values {
			c.out.WriteString(name + ": " + v + "\r\n")
		}
	}
	if r.WebSocket {
		c.out.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	}
	body := bodyText(r)
	if r.Body != nil {
		c.out.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	c.out.WriteString("\r\n" + body)
	if _, err := c.conn.Write(c.out.Bytes()); err != nil {
		return o, true, err
	}
	return c.answer()
}

func (c *pairConn) answer() (o pairOutcome, last bool, err error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return o, true, err
	}
	status, _, _ := strings.Cut(strings.TrimPrefix(line, "HTTP/1.1 "), " ")
	if o.status, err = strconv.Atoi(status); err != nil {
		return o, true, err
	}
	length := -1
	for {
		if line, err = c.in.ReadString('\n'); err != nil {
			return o, true, err
		}
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
		switch {
		case !ok && length < 0:
			return o, true, errors.New("an answer of no declared length")
		case !ok:
			_, err = c.in.Discard(length)
			return o, last, err
		case name == "Sidekey-Refusal":
			o.refusal = value
		case name == "Content-Length":
			length, err = strconv.Atoi(value)
		case name == "Connection":
			last = value == "close"
		}
		if err != nil {
			return o, true, err
		}
	}
}

// A pairTrail keeps intents and denials until they are taken.
type pairTrail struct {
	mu    sync.Mutex
	lines [][]byte
}

func (l *pairTrail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p) {
		for _, event := range []audit.Event{audit.RequestIntent, audit.RequestDenied} {
			if bytes.Contains(line, []byte(`"event":"`+string(event)+`"`)) {
				l.lines = append(l.lines, slices.Clone(line))
			}
		}
	}
	return len(p), nil
}

func (l *pairTrail) Sync() error  { return nil }
func (l *pairTrail) Close() error { return nil }

// take returns the one record that there should be, and forgets it.
func (l *pairTrail) take() (pairRecord, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = l.lines[:0]
	if len(lines) != 1 {
		return pairRecord{}, fmt.Errorf("the trail has %d records of it: %q", len(lines), lines)
	}
	var r audit.Record
	if err := json.Unmarshal(lines[0], &r); err != nil {
		return pairRecord{}, err
	}
	return pairRecord{r.Event, r.Entrance, r.Method, r.Scheme, r.Host, r.Port, r.Path, r.Route, r.Reason, r.WouldDeny, r.Detail, r.Status}, nil
}
