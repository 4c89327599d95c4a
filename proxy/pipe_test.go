package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// A piped is a proxy without sockets: agents come through pipes, and upstream is what its transports
// do. In a synctest bubble its clock stands still while anybody is at work, so that a bound can be
// measured however slow the machine is.
type piped struct {
	t        *testing.T
	ln       *pipeListener
	srv      *proxy.Server
	ca       *mitmca.CA
	roots    *x509.CertPool
	trail    *memoryTrail
	bindings map[string]*proxy.Binding // of the first generation
	upstream http.RoundTripper
	stop     func() // ends Run and waits for it
}

// pipedPolicy is [standardPolicy] at the default ports, with a host in the clear.
var pipedPolicy = strings.ReplaceAll(standardPolicy, ":PORT", "") + "  - {name: plain, host: \"http://plain.test\", access: read-write, paths: [/v1/**]}\n"

func newPiped(t *testing.T, upstream http.RoundTripper, opts ...func(*proxy.Config)) *piped {
	t.Helper()
	p := &piped{t: t, ln: newPipeListener(), trail: &memoryTrail{}, upstream: upstream, roots: x509.NewCertPool()}
	p.trail.log = must(audit.New(audit.Config{Sink: p.trail, Session: audit.Session{ID: "s-1", Role: "tester"}}))(t)
	p.ca = must(mitmca.New(mitmca.Config{}))(t)
	p.roots.AppendCertsFromPEM(p.ca.CertificatePEM())
	cfg := proxy.Config{Listener: p.ln, CA: p.ca, Trail: promptTrail{p.trail.log}, DrainGrace: time.Second, Generation: p.generation(pipedPolicy, canary)}
	for _, opt := range opts {
		opt(&cfg)
	}
	p.bindings = cfg.Generation.Bindings
	p.srv = must(proxy.New(cfg))(t)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- p.srv.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		p.stop()
		if strings.Contains(p.trail.text(), canary) {
			t.Error("I10: the credential stands in the trail")
		}
	})
	return p
}

// generation makes a generation of text in which the credential api has the given value.
func (p *piped) generation(text, value string) *proxy.Generation {
	p.t.Helper()
	cache := credential.NewCache(credential.CacheConfig{Name: "api", Source: fixed{value: value}, Recorder: book{p.trail.log}})
	p.t.Cleanup(func() { cache.Close(context.Background()) })
	return &proxy.Generation{
		Policy: must(policy.Parse("policy.yaml", []byte(text)))(p.t), Plain: p.upstream,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, fmt.Errorf("there is no network")
		},
		Bindings: map[string]*proxy.Binding{"api": {Credential: cache, Injector: inject.Bearer(), Transport: p.upstream}},
	}
}

// A roundTrip is an upstream that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answering returns the head of an answer to req whose body is body, of no known length.
func answering(req *http.Request, body io.Reader) *http.Response {
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req,
		ContentLength: -1, Body: io.NopCloser(body),
	}
}

// A pipeListener yields the connections that it is given. Its address is on loopback.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return tcpAddr("127.0.0.1:15001") }

func tcpAddr(s string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", s) // a literal: nothing is resolved
	if err != nil {
		panic(err)
	}
	return a
}

// A pipeEnd is the proxy's end of a pipe, with addresses as a TCP connection has them.
type pipeEnd struct {
	net.Conn
	local, remote net.Addr
}

func (c *pipeEnd) LocalAddr() net.Addr  { return c.local }
func (c *pipeEnd) RemoteAddr() net.Addr { return c.remote }

// connect returns an agent's connection, which seems to come from remote and go to local.
func (p *piped) connect(remote, local string) net.Conn {
	agent, end := net.Pipe()
	p.t.Cleanup(func() { agent.Close() })
	p.ln.conns <- &pipeEnd{end, tcpAddr(local), tcpAddr(remote)}
	return agent
}

// listener returns an agent's connection from loopback.
func (p *piped) listener() net.Conn { return p.connect("127.0.0.1:40000", "127.0.0.1:15001") }

// tunnel returns the inside of an intercepted tunnel to host, at port 443.
func (p *piped) tunnel(host, protocol string) *tls.Conn {
	p.t.Helper()
	conn := p.listener()
	fmt.Fprintf(conn, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host)
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != 200 {
		p.t.Fatalf("CONNECT %s: %v %v", host, resp, err)
	}
	inner := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: p.roots, NextProtos: []string{protocol}})
	if err := inner.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	return inner
}

// below returns the pipe of a connection: without TLS, whose Close wants to be read by the other side.
func below(conn net.Conn) net.Conn {
	if c, ok := conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return conn
}

// oneByte yields one byte at a time, so that a buffered reader takes no more than it must.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// A pipedH2 is an agent that speaks HTTP/2 by hand and reads only when it is told to.
type pipedH2 struct {
	*http2.Framer
	conn   net.Conn
	host   string
	stream uint32 // the last one
}

func (p *piped) h2(host string, settings ...http2.Setting) *pipedH2 {
	conn := p.tunnel(host, "h2")
	a := &pipedH2{Framer: http2.NewFramer(conn, conn), conn: conn, host: host}
	a.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	a.stream--
	io.WriteString(conn, http2.ClientPreface)
	a.WriteSettings(settings...)
	return a
}

// send sends a request without a body and returns its stream.
func (a *pipedH2) send(method, path string) uint32 {
	a.stream += 2
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", a.host}, {":path", path}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	a.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
	return a.stream
}

// status reads until the head of stream's answer and returns its status, or "reset" or "ended".
func (a *pipedH2) status(stream uint32) string {
	for {
		frame, err := a.ReadFrame()
		if err != nil {
			return "ended"
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		}
	}
}
