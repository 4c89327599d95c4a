package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

// What the listener refuses by itself. Nothing is dialled, nothing injected, one record is left.
func TestListenerRefuses(t *testing.T) {
	for _, tt := range []struct{ request, want string }{
		{"GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 not_a_proxy_request"},
		{"GET https://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 use_connect"},
		{"GET http:api.test/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET ftp://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET http://u:p@api.test/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET http://api.test./v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET http://2130706433/ HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET http://api.test/v1/../x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 bad_request"},
		{"TRACE http://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_request"},
		{"GET http://api.test/v1/x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "400 upgrade_refused"},
		{"GET http://api.test/v1/x HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", "400 override_refused"},
		{"GET http://api.test/v1/x HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", "400 bad_request"},
		{"CONNECT api.test HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_connect"},
		{"CONNECT api.test:0443 HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_connect"},
		{"CONNECT user@api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_connect"},
		{"CONNECT http://api.test:443/ HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 bad_connect"},
		{"CONNECT [::1%25lo]:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", "400 "},
		{"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n\r\nabc", "400 bad_connect"},
		{"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", "403 host_not_allowed"},
	} {
		r := newRig(t, standardPolicy, ok)
		if got := r.raw(tt.request); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%.60q: got %.80q, want %s", tt.request, got, tt.want)
		}
		if len(r.got()) != 0 {
			t.Errorf("%.60q reached the upstream", tt.request)
		}
		if strings.Contains(tt.want, "_") && len(r.trail.records(audit.RequestDenied)) != 1 {
			t.Errorf("%.60q left %d records", tt.request, len(r.trail.records(audit.RequestDenied)))
		}
	}
}

// I2: inside a tunnel the request is for the tunnel's host, in origin form.
func TestTunnelRefuses(t *testing.T) {
	for _, tt := range []struct{ request, want string }{
		{"GET /v1/x HTTP/1.1\r\nHost: open.test:PORT\r\n\r\n", "421 host_mismatch"},
		{"GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", "421 host_mismatch"}, // port 443 is another port
		{"GET /v1/x HTTP/1.1\r\nHost: api.test:PORT,open.test\r\n\r\n", "400 bad_request"},
		{"GET /v1/x HTTP/1.1\r\nHost:\r\n\r\n", "400 bad_request"},
		{"GET http://api.test:PORT/v1/x HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "400 bad_request"},
		{"GET https://open.test:PORT/v1/x HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "421 host_mismatch"},
		{"CONNECT open.test:PORT HTTP/1.1\r\nHost: open.test:PORT\r\n\r\n", "400 bad_request"},
		{"GET //open.test/x HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "400 bad_request"},
		{"GET /v1/%2e%2e/x HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "400 bad_request"},
		{"GET /v1/x#y HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "400 bad_request"},
		{"get /v1/x HTTP/1.1\r\nHost: api.test:PORT\r\n\r\n", "400 bad_request"},
	} {
		r := newRig(t, standardPolicy, ok)
		conn, err := r.tunnel("api.test:"+r.port, "api.test")
		if err != nil {
			t.Fatal(err)
		}
		if got := exchangeRaw(t, conn, strings.ReplaceAll(tt.request, "PORT", r.port)); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%.60q: got %.80q, want %s", tt.request, got, tt.want)
		}
		if len(r.got()) != 0 {
			t.Errorf("%.60q reached the upstream", tt.request)
		}
	}
}

// I2, I14: a tunnel that does not become TLS for its own host is closed and recorded.
func TestTunnelHandshakeRefused(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	if _, err := r.tunnel("api.test:"+r.port, "open.test"); err == nil {
		t.Error("SNI of another host was accepted")
	}
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT api.test:%s HTTP/1.1\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n", r.port)
	io.ReadAll(conn)
	r.stopAndWait()
	var reasons []string
	for _, rec := range r.trail.records(audit.ConnectionRefused) {
		reasons = append(reasons, fmt.Sprint(rec["reason"]))
	}
	slices.Sort(reasons)
	if fmt.Sprint(reasons) != "[not_tls sni_mismatch]" || len(r.got()) != 0 {
		t.Errorf("records %v, upstream got %d requests", reasons, len(r.got()))
	}
}

func (r *rig) stopAndWait() {
	r.stop()
	err := <-r.stopped
	r.stopped <- err
}

// A ClientHello that comes in one piece with the CONNECT is not lost.
func TestEarlyClientHello(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	early := &earlyConn{Conn: conn, head: fmt.Sprintf("CONNECT api.test:%s HTTP/1.1\r\nHost: x\r\n\r\n", r.port)}
	resp := handshakeAndGet(t, r, early)
	if !strings.HasPrefix(resp, "HTTP/1.1 200") {
		t.Errorf("got %q", resp)
	}
}

// I9: nothing private is dialled unless the config opens it, and some things never are.
func TestDialGuard(t *testing.T) {
	for _, tt := range []struct{ addr, allow, want string }{
		{"127.0.0.1", "127.0.0.0/8", ""},
		{"127.0.0.1", "10.0.0.0/8", "502 address_refused"},
		{"169.254.169.254", "0.0.0.0/0", "502 address_refused"},
		{"fd00:ec2::254", "::/0", "502 address_refused"},
		{"::ffff:169.254.169.254", "0.0.0.0/0", "502 address_refused"},
		{"10.1.2.3", "127.0.0.0/8", "502 address_refused"},
		{"64:ff9b::a9fe:a9fe", "127.0.0.0/8", "502 address_refused"},
		{"0.0.0.0", "0.0.0.0/0", "502 address_refused"},
		{"100.64.0.1", "127.0.0.0/8", "502 address_refused"},
		{"169.254.42.42", "169.254.0.0/16", "502 address_refused"},
		{"64:ff9b::a9fe:a9fe", "64:ff9b::/96", "502 address_refused"},
		{"64:ff9b::7f00:1", "64:ff9b::/96", "502 address_refused"},
		{"64:ff9b:1::a9fe:a9fe", "::/0", "502 address_refused"},
		{"2002:a9fe:a9fe::1", "::/0", "502 address_refused"},
		{"::a9fe:a9fe", "::/0", "502 address_refused"},
	} {
		r := newRig(t, standardPolicy, ok, func(_ *proxy.Config, o *rigOptions) {
			o.resolve["api.test"] = netip.MustParseAddr(tt.addr)
			o.allow = []netip.Prefix{netip.MustParsePrefix(tt.allow)}
		})
		resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
		got := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Sidekey-Refusal"))
		if tt.want == "" && resp.StatusCode != 200 || tt.want != "" && got != tt.want {
			t.Errorf("%s with %s open: %s", tt.addr, tt.allow, got)
		}
		if strings.Contains(body, tt.addr) {
			t.Errorf("%s: the answer names the address", tt.addr)
		}
	}
}

// I1, 9.01: an upstream whose certificate does not verify gets nothing.
func TestUpstreamCertificate(t *testing.T) {
	r := newRig(t, standardPolicy, ok, func(_ *proxy.Config, o *rigOptions) {})
	r.upstream.TLS.GetCertificate = nil // httptest's own certificate is for example.com
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "upstream_tls" || len(r.got()) != 0 {
		t.Errorf("got %s %s", resp.Status, resp.Header.Get("Sidekey-Refusal"))
	}
}

func TestUpstreamUnreachable(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	r.upstream.Close()
	resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "upstream_unreachable" || strings.Contains(body, "127.0.0.1") {
		t.Errorf("got %s %s", resp.Status, body)
	}
	if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "upstream_unreachable" {
		t.Errorf("outcomes %v", out)
	}
}

// A body that nobody read is not taken for the next request.
func TestDeniedBodyEndsTheConnection(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	smuggled := "GET /v1/x HTTP/1.1\r\nHost: api.test:" + r.port + "\r\n\r\n"
	fmt.Fprintf(conn, "POST /denied HTTP/1.1\r\nHost: api.test:%s\r\nContent-Length: %d\r\n\r\n%s", r.port, len(smuggled), smuggled)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 403 || !resp.Close {
		t.Fatalf("got %v %v", resp, err)
	}
	io.Copy(io.Discard, resp.Body)
	if _, err := http.ReadResponse(br, nil); err == nil || len(r.got()) != 0 {
		t.Errorf("the body was served as a request")
	}
}

// The transport must not send a POST twice, even if the agent calls it idempotent.
func TestNoSilentReplay(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "POST" {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "ok")
	}, func(*proxy.Config, *rigOptions) {})
	c := r.client(true)
	r.do(c, "GET", r.at("api.test", "/v1/items"), nil, nil) // so that the POST meets a used connection
	resp, _ := r.do(c, "POST", r.at("api.test", "/v1/items"), http.Header{"Idempotency-Key": {"1"}}, nil)
	posts := 0
	for _, s := range r.got() {
		if strings.HasPrefix(s.line, "POST") {
			posts++
		}
	}
	if resp.StatusCode != 502 || posts != 1 {
		t.Errorf("got %s; the upstream got the POST %d times", resp.Status, posts)
	}
}

// I14: what net/http answers by itself leaves a record too, once.
func TestUnparsedRequestsAreRecorded(t *testing.T) {
	for _, tt := range []struct{ bytes, reason string }{
		{"GET http://api.test/ HTTP/9.9\r\n\r\n", "not_http"},
		{"\x00\x01\x02\r\n\r\n", "not_http"},
		{"GET http://api.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "not_http"},
		{"POST http://api.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "not_http"},
		{"GET http://api.test/ HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "not_http"},
		{"SSH-2.0-x\r\n", "not_http"},
	} {
		r := newRig(t, standardPolicy, ok)
		r.raw(tt.bytes)
		r.stopAndWait()
		if recs := r.trail.records(audit.ConnectionRefused); len(recs) != 1 || recs[0]["reason"] != tt.reason || len(r.got()) != 0 {
			t.Errorf("%.30q: %v", tt.bytes, recs)
		}
		r = newRig(t, standardPolicy, ok)
		conn, err := r.tunnel("api.test:"+r.port, "api.test")
		if err != nil {
			t.Fatal(err)
		}
		exchangeRaw(t, conn, tt.bytes)
		conn.Close()
		r.stopAndWait()
		if recs := r.trail.records(audit.ConnectionRefused); len(recs) != 1 || recs[0]["reason"] != tt.reason || len(r.got()) != 0 {
			t.Errorf("tunnel: %.30q: %v", tt.bytes, recs)
		}
	}
	r := newRig(t, standardPolicy, ok)
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for deadline := time.Now().Add(5 * time.Second); len(r.trail.records(audit.ConnectionRefused)) == 0 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if recs := r.trail.records(audit.ConnectionRefused); len(recs) != 1 || recs[0]["reason"] != "idle_tunnel" {
		t.Errorf("silent tunnel: %v", recs)
	}
}
