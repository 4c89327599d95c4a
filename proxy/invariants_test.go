package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

// A sent keeps what reaches an upstream: the method, the URL and the Authorization field.
type sent struct {
	mu    sync.Mutex
	lines []string

	held chan struct{} // gets one for each request for /v1/hold, which waits for free to be closed
	free chan struct{}
}

func newSent() *sent { return &sent{held: make(chan struct{}), free: make(chan struct{})} }

func (s *sent) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.lines = append(s.lines, req.Method+" "+req.URL.String()+" "+req.Header.Get("Authorization"))
	s.mu.Unlock()
	if req.URL.Path == "/v1/hold" {
		s.held <- struct{}{}
		<-s.free
	}
	return answering(req, strings.NewReader("hello")), nil
}

// take returns what came since the last time.
func (s *sent) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.lines
	s.lines = nil
	return out
}

// An asker sends a request on one connection through one of the entrances and returns the status and
// the reason of its answer.
type asker func(method, path string) string

// askers opens a connection through each entrance that has requests: the listener, and HTTP/1.1 and
// HTTP/2 in a tunnel. The host is plain.test on the listener and api.test otherwise.
func (p *piped) askers() map[string]asker {
	return map[string]asker{
		"listener": askerH1(p.listener(), "http://plain.test", "plain.test"),
		"h1":       askerH1(p.tunnel("api.test", "http/1.1"), "", "api.test"),
		"h2":       p.h2("api.test").ask,
	}
}

func askerH1(conn net.Conn, prefix, host string) asker {
	br := bufio.NewReader(conn)
	return func(method, path string) string {
		fmt.Fprintf(conn, "%s %s%s HTTP/1.1\r\nHost: %s\r\n\r\n", method, prefix, path, host)
		return answerH1(br, method)
	}
}

func answerH1(br *bufio.Reader, method string) string {
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(br, &http.Request{Method: method})
	}
	if err != nil {
		return "ended"
	}
	if method != http.MethodConnect { // else what follows is the tunnel
		io.Copy(io.Discard, resp.Body)
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Sidekey-Refusal")))
}

func (a *pipedH2) ask(method, path string) string { return a.status(a.send(method, path)) }

// I4: what is ambiguous in any part of a request is refused, and nothing is sent in its place. Each
// part has a clear twin that is sent, as it is.
func TestAmbiguousIsRefusedNotRepaired(t *testing.T) {
	s := newSent()
	p := newPiped(t, s)
	paths := []string{"/v1/../v1/x", "/v1/./x", "/v1//x", "/v1/%2e%2e/x", "/v1/%2E/x", "/v1/a%2fb", "/v1/a%5cb", `/v1/a\b`, "/v1/%c0%ae", "/v1/%252e", "/v1/a;b", "/v1/%", "/v1/%zz", "/v1/\u00e4", "/v1/x#y"}
	queries := []string{"a=%zz", "a=1;b=2", "a=%", "a=\u00e4", "_method=DELETE", "a=1#b"}
	methods := []string{"get", "Get", "TRACE", "TRACK", "DEBUG", "GE(T"}
	fields := []string{"Content_Length: 5", "Transfer.Encoding: chunked", "X-HTTP-Method-Override: DELETE", "X_Original_URL: /a", "X-A : b", "X-A\x00: b", "X-A: b\x01", "Host: api.test"}
	for _, tt := range []struct {
		part, via, request string // § stands for the part
		clear              string
		ambiguous          []string
	}{
		{"host", "listener", "GET http://§/v1/x HTTP/1.1\r\nHost: x\r\n\r\n", "plain.test", []string{"plain.test.", "u@plain.test", "plain.test%00", "plain%2etest", "pl\u00e4in.test", "127.1", "0x7f.1", "2130706433", "[::1%25lo]", "plain..test", ""}},
		{"host", "connect", "CONNECT §:443 HTTP/1.1\r\nHost: x\r\n\r\n", "api.test", []string{"api.test.", "u@api.test", "api.test/", "api%2etest", "\uff41pi.test", "127.1", "017700000001", "::1", "[::1%25lo]", "api..test", ""}},
		{"host", "h1", "GET /v1/x HTTP/1.1\r\nHost: §\r\n\r\n", "api.test", []string{"api.test.", "u@api.test", "api.test,api.test", "api.test/", "127.1", ""}},
		{"port", "listener", "GET http://plain.test§/v1/x HTTP/1.1\r\nHost: x\r\n\r\n", ":80", []string{":080", ":+80", ":", ":80:80", ":0", ":65616", ":http", ":8\u00b2"}},
		{"port", "connect", "CONNECT api.test§ HTTP/1.1\r\nHost: x\r\n\r\n", ":443", []string{"", ":", ":0443", ":+443", ":443:443", ":0", ":65979", ":https"}},
		{"port", "h1", "GET /v1/x HTTP/1.1\r\nHost: api.test§\r\n\r\n", ":443", []string{":", ":0443", ":443:443", ":https"}},
		{"path", "listener", "GET http://plain.test§ HTTP/1.1\r\nHost: x\r\n\r\n", "/v1/x", paths},
		{"path", "h1", "GET § HTTP/1.1\r\nHost: api.test\r\n\r\n", "/v1/x", paths},
		{"path", "h2", "", "GET /v1/x", prefixed("GET ", paths)},
		{"query", "listener", "GET http://plain.test/v1/x?§ HTTP/1.1\r\nHost: x\r\n\r\n", "a=%20b", queries},
		{"query", "h1", "GET /v1/x?§ HTTP/1.1\r\nHost: api.test\r\n\r\n", "a=%20b", queries},
		{"query", "h2", "", "GET /v1/x?a=%20b", prefixed("GET /v1/x?", queries)},
		{"method", "listener", "§ http://plain.test/v1/x HTTP/1.1\r\nHost: x\r\n\r\n", "GET", methods},
		{"method", "h1", "§ /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "GET", methods},
		{"method", "h2", "", "GET /v1/x", suffixed(methods, " /v1/x")},
		{"header", "listener", "GET http://plain.test/v1/x HTTP/1.1\r\nHost: x\r\n§\r\n\r\n", "X-A: b", fields},
		{"header", "h1", "GET /v1/x HTTP/1.1\r\nHost: api.test\r\n§\r\n\r\n", "X-A: b", fields},
	} {
		ask := func(part string) string {
			var conn net.Conn
			switch tt.via {
			case "h2":
				a := p.h2("api.test")
				defer below(a.conn).Close()
				method, path, _ := strings.Cut(part, " ")
				return a.ask(method, path)
			case "h1":
				conn = p.tunnel("api.test", "http/1.1")
			default:
				conn = p.listener()
			}
			defer below(conn).Close()
			go io.WriteString(conn, strings.ReplaceAll(tt.request, "§", part))
			method, _, _ := strings.Cut(tt.request, " ")
			return answerH1(bufio.NewReader(conn), method)
		}
		if got := ask(tt.clear); got != "200" {
			t.Errorf("%s, %s: the clear %q: got %s", tt.part, tt.via, tt.clear, got)
		}
		if got := s.take(); len(got) != 1 && tt.via != "connect" {
			t.Errorf("%s, %s: the clear %q: sent %q", tt.part, tt.via, tt.clear, got)
		}
		for _, part := range tt.ambiguous {
			got := ask(part)
			if !strings.HasPrefix(got, "400") && !(tt.via == "h2" && got == "reset") {
				t.Errorf("%s, %s: %q: got %s", tt.part, tt.via, part, got)
			}
			if got := s.take(); len(got) != 0 {
				t.Errorf("%s, %s: %q: sent %q", tt.part, tt.via, part, got)
			}
		}
	}
}

func prefixed(prefix string, of []string) (out []string) {
	for _, s := range of {
		out = append(out, prefix+s)
	}
	return out
}

func suffixed(of []string, suffix string) (out []string) {
	for _, s := range of {
		out = append(out, s+suffix)
	}
	return out
}

// I8: what a connection has been allowed or denied has no weight for what it asks next.
func TestEachRequestIsDecidedAnew(t *testing.T) {
	for _, via := range []string{"listener", "h1", "h2"} {
		s := newSent()
		p := newPiped(t, s)
		ask := p.askers()[via]
		for i, tt := range []struct{ method, path, want string }{
			{"GET", "/v1/a", "200"},
			{"GET", "/denied", "403"},
			{"GET", "/v1/a", "200"},
			{"DELETE", "/denied", "403"},
			{"GET", "/v1/../denied", "400"},
			{"GET", "/v1/b", "200"},
		} {
			got, arrived := ask(tt.method, tt.path), s.take()
			if !strings.HasPrefix(got, tt.want) || (len(arrived) == 1) != (tt.want == "200") {
				t.Errorf("%s: request %d, %s %s: got %s, and %q arrived; want %s", via, i, tt.method, tt.path, got, arrived, tt.want)
			}
		}
	}
}

// nextPolicy is what [pipedPolicy] may become: other paths, and api.test only.
const nextPolicy = `
version: 1
role: tester
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
  old: {from: {env: {name: Y}}, inject: {bearer: {}}}
routes:
  - {name: read, host: api.test, access: read-only, paths: [/v2/**], credential: api}
  - {name: held, host: api.test, access: read-only, paths: [/v1/hold], credential: old}
  - {name: plain, host: "http://plain.test", access: read-only, paths: [/v2/**]}
`

// I8: a connection that was opened under one generation is decided on the next one, with the next one's
// credentials, from the first request after the change. A request in flight that the next one allows, too, ends as it began.
func TestGenerationIsReadForEachRequest(t *testing.T) {
	s := newSent()
	p := newPiped(t, s)
	before, held := p.askers(), p.h2("api.test")
	gone := askerH1(p.tunnel("open.test", "http/1.1"), "", "open.test")
	for via, ask := range before {
		if got := ask("GET", "/v1/x"); got != "200" {
			t.Fatalf("%s: before: got %s", via, got)
		}
	}
	if got := gone("GET", "/v1/x"); got != "200" {
		t.Fatalf("open.test: before: got %s", got)
	}
	inFlight := make(chan string)
	go func() { inFlight <- held.ask("GET", "/v1/hold") }()
	<-s.held
	if got, want := s.take(), "GET https://api.test/v1/hold Bearer "+canary; len(got) != 5 || got[4] != want {
		t.Fatal("before: not what was sent arrived")
	}

	next := p.generation(nextPolicy, "next-credential")
	next.Bindings["old"] = p.bindings["api"]
	must(p.srv.SetGeneration(next))(t)
	for via, ask := range before {
		if got := ask("GET", "/v1/x"); !strings.HasPrefix(got, "403") {
			t.Errorf("%s: what is allowed no more: got %s", via, got)
		}
		if got := s.take(); len(got) != 0 {
			t.Errorf("%s: what is allowed no more arrived: %d requests", via, len(got))
		}
		if got := ask("GET", "/v2/x"); got != "200" {
			t.Errorf("%s: what is allowed now: got %s", via, got)
		}
		want := []string{"GET https://api.test/v2/x Bearer next-credential"}
		if via == "listener" {
			want = []string{"GET http://plain.test/v2/x "}
		}
		if got := s.take(); !slices.Equal(got, want) {
			t.Errorf("%s: not what is allowed now, with the credential of now, arrived", via)
		}
	}
	if got := gone("GET", "/v1/x"); got != "403 host_not_allowed" {
		t.Errorf("a tunnel to a host that the policy names no more: got %s", got)
	}
	close(s.free)
	if got := <-inFlight; got != "200" {
		t.Errorf("the request in flight: got %s", got)
	}
}

// I15: a connection that does not come from loopback, or did not come to it, is closed before a byte
// of it is read, and recorded. (With route_localnet a bind to loopback does not keep strangers away.)
func TestPeersNotOnLoopbackAreDropped(t *testing.T) {
	for _, tt := range []struct {
		remote, local string
		dropped       bool
	}{
		{"127.0.0.1:40000", "127.0.0.1:15001", false},
		{"127.3.2.1:40000", "127.0.0.9:15001", false},
		{"[::1]:40000", "[::1]:15001", false},
		{"[::ffff:127.0.0.1]:40000", "127.0.0.1:15001", false},
		{"192.0.2.7:40000", "127.0.0.1:15001", true},
		{"10.0.0.5:40000", "127.0.0.1:15001", true},
		{"127.0.0.1:40000", "10.0.0.5:15001", true},
		{"10.0.0.5:40000", "10.0.0.5:15001", true},
		{"0.0.0.0:40000", "127.0.0.1:15001", true},
		{"[2001:db8::7]:40000", "[::1]:15001", true},
		{"[::ffff:192.0.2.7]:40000", "127.0.0.1:15001", true},
		{"[fe80::1]:40000", "[::1]:15001", true},
	} {
		s := newSent()
		p := newPiped(t, s)
		conn := p.connect(tt.remote, tt.local)
		go io.WriteString(conn, "GET http://plain.test/v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
		got, want := answerH1(bufio.NewReader(conn), "GET"), map[bool]string{false: "200", true: "ended"}[tt.dropped]
		if got != want || (len(s.take()) == 0) != tt.dropped {
			t.Errorf("from %s to %s: got %s, want %s", tt.remote, tt.local, got, want)
		}
		conn.Close()
		p.stop()
		refused := p.trail.records(audit.ConnectionRefused)
		if tt.dropped != (len(refused) == 1 && refused[0]["reason"] == "not_loopback") || !tt.dropped && len(refused) != 0 {
			t.Errorf("from %s to %s: records %v", tt.remote, tt.local, refused)
		}
	}
}

// I15: a listener that is not on loopback is not served at all.
func TestListenerHasToBeOnLoopback(t *testing.T) {
	p := newPiped(t, newSent())
	for _, tt := range []struct {
		addr net.Addr
		ok   bool
	}{
		{tcpAddr("127.0.0.1:15001"), true},
		{tcpAddr("[::1]:15001"), true},
		{tcpAddr("0.0.0.0:15001"), false},
		{tcpAddr("[::]:15001"), false},
		{tcpAddr("10.0.0.5:15001"), false},
		{&net.UnixAddr{Name: "/run/sidekey.sock", Net: "unix"}, false},
		{nil, false},
	} {
		_, err := proxy.New(proxy.Config{
			Listener: addressed{p.ln, tt.addr}, CA: p.ca, Trail: promptTrail{p.trail.log}, Generation: p.generation(pipedPolicy, canary),
		})
		if (err == nil) != tt.ok {
			t.Errorf("a listener on %v: %v", tt.addr, err)
		}
	}
}

// An addressed is a listener that says another address.
type addressed struct {
	net.Listener
	addr net.Addr
}

func (l addressed) Addr() net.Addr { return l.addr }
