package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const benchPolicy = `version: 1
role: tester
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
routes:
  - {name: read, host: "api.test:PORT", access: read-only, paths: [/v1/**], credential: api}
`

const bodySize = 1024 // of every answer

// An upstream answers every request on a kept-alive TLS connection with 1 KiB. It does as little as it
// can, since it shares the process with what is measured.
type upstream struct {
	ln    net.Listener
	ca    *mitmca.CA
	roots *x509.CertPool
	port  string
	open  sync.WaitGroup
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{ca: ca, roots: x509.NewCertPool()}
	u.roots.AppendCertsFromPEM(ca.CertificatePEM())
	u.ln, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) },
	})
	if err != nil {
		t.Fatal(err)
	}
	_, u.port, _ = net.SplitHostPort(u.ln.Addr().String())
	u.open.Go(func() {
		for {
			conn, err := u.ln.Accept()
			if err != nil {
				return
			}
			u.open.Go(func() { defer conn.Close(); answer(conn) })
		}
	})
	t.Cleanup(func() { u.ln.Close(); u.open.Wait() }) // its connections end with the proxy's
	return u
}

func answer(conn net.Conn) {
	reply := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", bodySize, strings.Repeat("x", bodySize))
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) > len("\r\n") { // what is asked has no body
			continue
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// An agentConn is a tunnel with what was read ahead.
type agentConn struct {
	*tls.Conn
	in      *bufio.Reader
	request []byte
}

// A stage is a proxy with the agents' connections through it.
type stage struct {
	addr  string
	roots *x509.CertPool
	conns []*agentConn
}

// A switchedTrail hands records to one of several trails.
type switchedTrail struct{ now atomic.Pointer[proxy.Trail] }

func (s *switchedTrail) use(t proxy.Trail)                        { s.now.Store(&t) }
func (s *switchedTrail) Append(r audit.Record) (audit.Ref, error) { return (*s.now.Load()).Append(r) }
func (s *switchedTrail) Post(r audit.Record) error                { return (*s.now.Load()).Post(r) }

// noTrail keeps nothing.
type noTrail struct{ seq atomic.Uint64 }

func (n *noTrail) Append(audit.Record) (audit.Ref, error) { return audit.Ref{Seq: n.seq.Add(1)}, nil }
func (n *noTrail) Post(audit.Record) error                { return nil }

// A discardingSink takes what is written for nothing.
type discardingSink struct{}

func (discardingSink) Write(p []byte) (int, error) { return len(p), nil }
func (discardingSink) Sync() error                 { return nil }
func (discardingSink) Close() error                { return nil }

// unrecorded records no issuance: the trail that is measured is that of requests.
type unrecorded struct{}

func (unrecorded) Issued(*credential.Issuance) error   { return nil }
func (unrecorded) Revoked(*credential.Issuance, error) {}
func (unrecorded) Issue(context.Context, string) (*credential.Issuance, error) {
	now := time.Now()
	return &credential.Issuance{Value: credential.NewSecret([]byte("a-value-of-some-length-0123456789")), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, nil
}

// fileSink is a sink as serve has it.
func fileSink(t *testing.T) audit.Sink {
	t.Helper()
	sink, err := audit.OpenSink(filepath.Join(t.TempDir(), "audit.jsonl"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// A ring is a file that is written again from its start when it is full, so that all its pages are in
// memory from the beginning.
type ring struct {
	file *os.File
	at   int64
}

const ringSize = 64 << 20

func newRing(t *testing.T) *ring {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "ring"))
	if err == nil {
		_, err = f.Write(make([]byte, ringSize))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &ring{file: f}
}

func (r *ring) Write(p []byte) (int, error) {
	if r.at+int64(len(p)) > ringSize {
		r.at = 0
	}
	n, err := r.file.WriteAt(p, r.at)
	r.at += int64(n)
	return n, err
}
func (r *ring) Sync() error  { return r.file.Sync() }
func (r *ring) Close() error { return r.file.Close() }

// newTrail is a trail as a pod has it.
func newTrail(t *testing.T, sink audit.Sink) *audit.Log {
	t.Helper()
	log, err := audit.New(audit.Config{
		Sink: sink, Session: audit.Session{ID: "019ab2c3-7d1e-7f6a-9c1b-2f6a1c0b7d1e.1a2b3c4d", Role: "tester", RequestedBy: "alice@example.com", Attribution: audit.VaultVerified},
		Pod: audit.Pod{Namespace: "agents", Name: "tester-7d9c6b5f4-x2x7q", UID: "0b7d1e19-ab2c-4f6a-9c1b-2f6a1c0b7d1e", Node: "node-7", ServiceAccount: "tester"},
	})
	if err != nil {
		t.Fatal(err)
	}
	log.SetPolicy(1, strings.Repeat("ab", 32))
	t.Cleanup(func() { log.Close() })
	return log
}

// newStage starts a proxy before up and opens n tunnels through it.
func newStage(t *testing.T, trail proxy.Trail, up *upstream, n int) *stage {
	t.Helper()
	pol, err := policy.Parse("policy.yaml", []byte(strings.ReplaceAll(benchPolicy, "PORT", up.port)))
	ca, caErr := mitmca.New(mitmca.Config{})
	ln, lnErr := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, caErr, lnErr); err != nil {
		t.Fatal(err)
	}
	upstreamCfg := proxy.UpstreamConfig{
		Roots: up.roots, AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Resolve: map[string]netip.Addr{"api.test": netip.MustParseAddr("127.0.0.1")},
	}
	plain, credentialed := proxy.NewTransport(upstreamCfg), proxy.NewTransport(upstreamCfg)
	cache := credential.NewCache(credential.CacheConfig{Name: "api", Source: unrecorded{}, Recorder: unrecorded{}})
	srv, err := proxy.New(proxy.Config{
		Listener: ln, CA: ca, Trail: trail, DrainGrace: 5 * time.Second,
		Generation: &proxy.Generation{
			Policy: pol, Plain: plain, Dial: plain.DialContext,
			Bindings: map[string]*proxy.Binding{"api": {Credential: cache, Injector: inject.Bearer(), Transport: credentialed}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{addr: ln.Addr().String(), roots: x509.NewCertPool()}
	s.roots.AppendCertsFromPEM(ca.CertificatePEM())
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Run(ctx) }()
	t.Cleanup(func() {
		for _, conn := range s.conns {
			conn.Close()
		}
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		cache.Close(context.Background())
		credentialed.CloseIdleConnections()
	})
	authority := "api.test:" + up.port
	request := fmt.Appendf(nil, "GET /v1/items/4711 HTTP/1.1\r\nHost: %s\r\nUser-Agent: agent/1.0\r\nAccept: application/json\r\n\r\n", authority)
	for range n {
		conn, err := s.tunnel(authority)
		if err != nil {
			t.Fatal(err)
		}
		s.conns = append(s.conns, &agentConn{conn, bufio.NewReader(conn), request})
	}
	return s
}

// tunnel opens a tunnel to authority and speaks TLS in it.
func (s *stage) tunnel(authority string) (*tls.Conn, error) {
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", authority)
	head := make([]byte, 0, 256)
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
		if _, err := io.ReadFull(raw, b); err != nil {
			return nil, err
		}
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 200") {
		return nil, fmt.Errorf("CONNECT: %q", head)
	}
	conn := tls.Client(raw, &tls.Config{ServerName: "api.test", RootCAs: s.roots, NextProtos: []string{"http/1.1"}})
	return conn, conn.Handshake()
}
