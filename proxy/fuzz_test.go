package proxy_test

import (
	"bytes"
	"crypto/tls"
	"flag"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// FuzzPipeline writes bytes into an intercepted HTTP/1.1 tunnel. HOST stands for the tunnel's
// authority. Whatever they are, the upstream sees only requests that the policy allows, each with
// the credential once, the agent sees no credential, nothing panics, and the trail verifies.
func FuzzPipeline(f *testing.F) {
	hurryMinimizing()
	for _, s := range pipelineSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, panics := newFuzzed(t)
		conn, err := g.tunnelTo(g.vars["API"], &tls.Config{ServerName: "api.test", RootCAs: g.roots, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}})
		if err != nil {
			t.Fatal(err)
		}
		got := converse(conn, bytes.ReplaceAll(data, []byte("HOST"), []byte(g.vars["API"])), "GET /v1/last HTTP/1.1\r\nHost: "+g.vars["API"]+"\r\nConnection: close\r\n\r\n")
		g.checkFuzzed(t, "https", g.vars["API"], got, panics)
	})
}

// FuzzConnect does the same on the listener. HOST stands for a host in the clear, TLS for one that
// is to be reached by CONNECT: no bytes at all reach that one, since they are no TLS.
func FuzzConnect(f *testing.F) {
	hurryMinimizing()
	for _, s := range connectSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, panics := newFuzzed(t)
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte("HOST"), []byte(g.vars["PLAIN"]))
		data = bytes.ReplaceAll(data, []byte("TLS"), []byte(g.vars["API"]))
		got := converse(conn, data, "GET http://"+g.vars["PLAIN"]+"/v1/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		g.checkFuzzed(t, "http", g.vars["PLAIN"], got, panics)
	})
}

// hurryMinimizing keeps the engine from spending its time on making inputs smaller: what a server
// executes is never twice the same, so that almost every input looks like news.
func hurryMinimizing() {
	if f := flag.Lookup("test.fuzzminimizetime"); f != nil && f.Value.String() == f.DefValue {
		f.Value.Set("1x")
	}
}

var pipelineSeeds = []string{
	"GET /v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET /v1/x?a=%20b HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer agent\r\nConnection: authorization\r\n\r\n",
	"POST /v1/items HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello",
	"POST /v1/items HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
	"POST /v1/items HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"POST /denied HTTP/1.1\r\nHost: HOST\r\nContent-Length: 9\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET /v1/../x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET /enc/a%2fb HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET https://HOST/v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET /v1/x HTTP/1.1\r\nHost: open.test\r\n\r\n",
	"GET /ws HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x80abcd",
	"POST /pkg.Service/Call HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00",
	"CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"HEAD /v1/x HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\n\r\n",
	"GET /v1/x HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
	"GET /v1/x HTTP/1.1\r\nHost: HOST\r\nX-HTTP-Method-Override: DELETE\r\nX_Api_Key: a\r\n\r\n",
	"\x16\x03\x01\x00\x05hello",
	"\r\n\r\n",
}

var connectSeeds = []string{
	"GET http://HOST/v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
	"CONNECT TLS HTTP/1.1\r\nHost: TLS\r\n\r\n",
	"CONNECT TLS HTTP/1.1\r\nHost: TLS\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: TLS\r\n\r\n",
	"CONNECT TLS HTTP/1.1\r\nHost: TLS\r\n\r\n\x16\x03\x01\x00\x04\x01\x00\x00\x00",
	"CONNECT user@TLS HTTP/1.1\r\nHost: x\r\n\r\n",
	"CONNECT pinned.test:443 HTTP/1.1\r\n\r\n",
	"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n",
	"CONNECT 127.1:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	"GET http://TLS/v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET https://TLS/v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http:HOST/v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET http://a@HOST/v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"GET //HOST/v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n",
	"POST http://HOST/v1/items HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET http://HOST/admin HTTP/1.1\r\n\r\n",
	"GET http://HOST/v1/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"SSH-2.0-x\r\n",
}

// newFuzzed returns a gallery and what tells whether the proxy has recovered from a panic.
func newFuzzed(t *testing.T) (g *gallery, panics func() bool) {
	log := &lockedBuffer{}
	g = newGallery(t, nil, func(c *proxy.Config, _ *rigOptions) { c.Log = zerolog.New(log) })
	return g, func() bool { return strings.Contains(log.String(), "panic") }
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// converse writes data and a last request that closes the connection, and returns what came. Data
// may have swallowed that request; then there is no end to wait for.
func converse(conn net.Conn, data []byte, last string) string {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
	go func() {
		conn.Write(data)
		io.WriteString(conn, last)
	}()
	got, _ := io.ReadAll(conn)
	return string(got)
}

// checkFuzzed holds what [FuzzPipeline] and [FuzzConnect] say. The rig verifies the trail, and that
// each intent has an outcome.
func (g *gallery) checkFuzzed(t *testing.T, scheme, authority, agent string, panics func() bool) {
	t.Helper()
	g.stopAndWait()
	g.quiesce(t)
	if panics() {
		t.Error("a request made the proxy panic")
	}
	a, err := policy.ParseAuthority(authority)
	if err != nil {
		t.Fatal(err)
	}
	arrived := g.took(t, 0) // checks the credentials
	for _, got := range arrived {
		method, uri, _ := strings.Cut(got.line, " ")
		target, err := policy.ParseTarget(scheme, a, uri)
		if err != nil || got.host != a.Host || got.secure != (scheme == "https") {
			t.Errorf("%q arrived at %s: %v", got.line, got.host, err)
			continue
		}
		upgrade := got.header.Get("Upgrade") != ""
		if d := g.policy.Decide(policy.Request{Method: method, Target: target, WebSocket: upgrade}); !d.Allow {
			t.Errorf("%q arrived, and the policy says %s", got.line, d.Reason)
		}
	}
	if intents := len(g.trail.records(audit.RequestIntent)); intents < len(arrived) {
		t.Errorf("%d requests arrived with %d intents", len(arrived), intents)
	}
	g.checkSecrets(t, attack{}, agent, g.trail.text())
}
