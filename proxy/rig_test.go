package proxy_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
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

const canary = "canary-2f9a1c77e0"

// A rig is a proxy with a real TLS upstream on one side and a client on the other.
type rig struct {
	t             testing.TB
	url           *url.URL // the proxy
	addr          string   // host:port of the proxy
	upstream      *httptest.Server
	port          string // of the upstream
	roots         *x509.CertPool
	upstreamRoots *x509.CertPool
	upstreamCA    *mitmca.CA
	dials         atomic.Int64 // towards upstreams, those that the guard stops included
	connected     atomic.Int64 // dials that succeeded
	dialled       sync.Map     // their local addresses, each with the number of its dial
	upstreams     arrivalCount
	transports    []*http.Transport
	trail         *memoryTrail
	cache         *credential.Cache
	srv           *proxy.Server
	gen           *proxy.Generation
	stop          context.CancelFunc // begins the drain
	stopped       chan error

	mu   sync.Mutex
	seen []seen // what the upstream got
}

// seen is a request as the upstream got it.
type seen struct {
	line   string // method and request-target
	host   string
	proto  string
	header http.Header
}

// memoryTrail is a trail that keeps what it was given and can refuse to.
type memoryTrail struct {
	mu      sync.Mutex
	log     *audit.Log
	buf     bytes.Buffer
	failing bool
}

func (m *memoryTrail) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing {
		return 0, errors.New("disk full")
	}
	return m.buf.Write(p)
}
func (m *memoryTrail) Sync() error  { return nil }
func (m *memoryTrail) Close() error { return nil }
func (m *memoryTrail) fail(on bool) { m.mu.Lock(); defer m.mu.Unlock(); m.failing = on }

func (m *memoryTrail) text() string { m.mu.Lock(); defer m.mu.Unlock(); return m.buf.String() }

// records returns the records of an event as decoded JSON.
func (m *memoryTrail) records(event audit.Event) (out []map[string]any) {
	for line := range strings.Lines(m.text()) {
		var rec map[string]any
		if json.Unmarshal([]byte(line), &rec) == nil && rec["event"] == string(event) {
			out = append(out, rec)
		}
	}
	return out
}

// A promptTrail writes what is posted at once: a test looks for the outcome when it has the answer.
type promptTrail struct{ *audit.Log }

func (p promptTrail) Post(r audit.Record) error { _, err := p.Append(r); return err }

// book records issuances in the trail, as cmd/sidekey does.
type book struct{ log *audit.Log }

func (b book) Issued(iss *credential.Issuance) error {
	_, err := b.log.Append(audit.Record{Event: audit.CredentialIssued, Credential: iss.Credential, Issuance: iss.ID, ExpiresAt: iss.ExpiresAt})
	return err
}

func (b book) Revoked(iss *credential.Issuance, _ error) {
	b.log.Append(audit.Record{Event: audit.CredentialRevoked, Credential: iss.Credential, Issuance: iss.ID})
}

// fixed is a source of one value, the canary if it is not said.
type fixed struct {
	fail  func() error
	value string
}

func (f fixed) Issue(context.Context, string) (*credential.Issuance, error) {
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	return &credential.Issuance{Value: credential.NewSecret([]byte(cmp.Or(f.value, canary))), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, nil
}

var loopback4 = netip.MustParseAddr("127.0.0.1")

type option func(*proxy.Config, *rigOptions)

type rigOptions struct {
	source   credential.Source
	injector inject.Injector
	allow    []netip.Prefix
	resolve  map[string]netip.Addr
	never    func(netip.AddrPort) bool
	more     map[string]moreCredential // beside the one that is called api
}

// moreCredential is a further credential of a rig.
type moreCredential struct {
	injector inject.Injector
	value    string
}

// standardPolicy is the policy of most tests; PORT is the upstream's.
const standardPolicy = `
version: 1
role: tester
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
routes:
  - {name: read, host: "api.test:PORT", access: read-only, paths: [/v1/**], credential: api}
  - {name: write, host: "api.test:PORT", methods: [POST, PUT], paths: [/v1/items], credential: api}
  - {name: grpc, host: "api.test:PORT", methods: [POST], paths: ["/pkg.Service/*"], credential: api}
  - {name: ws, host: "api.test:PORT", methods: [GET], paths: [/ws], credential: api, websocket: true}
  - {name: open, host: "open.test:PORT", access: read-write, paths: [/**]}
`

func newRig(t testing.TB, policyText string, upstream http.HandlerFunc, opts ...option) *rig {
	t.Helper()
	r := &rig{t: t, trail: &memoryTrail{}, stopped: make(chan error, 1)}
	r.upstreamCA = must(mitmca.New(mitmca.Config{}))(t)
	r.upstream = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.note(req)
		upstream(w, req)
	}))
	r.upstream.Listener = countingListener{r.upstream.Listener, &r.upstreams}
	r.upstream.EnableHTTP2 = true
	r.upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.upstream.TLS = &tls.Config{
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return r.upstreamCA.Leaf(h.ServerName) },
	}
	r.upstream.StartTLS()
	t.Cleanup(r.upstream.Close)
	_, r.port, _ = net.SplitHostPort(r.upstream.Listener.Addr().String())

	r.upstreamRoots = x509.NewCertPool()
	r.upstreamRoots.AppendCertsFromPEM(r.upstreamCA.CertificatePEM())
	o := &rigOptions{
		source: fixed{}, injector: inject.Bearer(),
		allow:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		resolve: map[string]netip.Addr{"api.test": loopback4, "open.test": loopback4, "other.test": loopback4},
	}
	cfg := proxy.Config{DrainGrace: 5 * time.Second}
	for _, opt := range opts {
		opt(&cfg, o)
	}

	pol := must(policy.Parse("policy.yaml", []byte(strings.ReplaceAll(policyText, "PORT", r.port))))(t)
	r.trail.log = must(audit.New(audit.Config{Sink: r.trail, Session: audit.Session{ID: "s-1", Role: pol.Role()}}))(t)
	upstreamCfg := proxy.UpstreamConfig{Roots: r.upstreamRoots, AllowCIDRs: o.allow, Resolve: o.resolve, Never: o.never}
	plain, credentialed := r.transport(upstreamCfg), r.transport(upstreamCfg)
	r.cache = credential.NewCache(credential.CacheConfig{Name: "api", Source: o.source, Recorder: book{r.trail.log}})

	ca := must(mitmca.New(mitmca.Config{}))(t)
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM(ca.CertificatePEM())
	if cfg.Listener == nil {
		cfg.Listener = must(net.Listen("tcp", "127.0.0.1:0"))(t)
	}
	r.addr, r.url = cfg.Listener.Addr().String(), &url.URL{Scheme: "http", Host: cfg.Listener.Addr().String()}
	cfg.CA, cfg.Trail = ca, promptTrail{r.trail.log}
	cfg.Generation = &proxy.Generation{
		Policy: pol, Plain: plain, Dial: plain.DialContext,
		Bindings: map[string]*proxy.Binding{"api": {Credential: r.cache, Injector: o.injector, Transport: credentialed}},
	}
	for name, more := range o.more {
		cache := credential.NewCache(credential.CacheConfig{Name: name, Source: fixed{value: more.value}, Recorder: book{r.trail.log}})
		t.Cleanup(func() { cache.Close(context.Background()) })
		cfg.Generation.Bindings[name] = &proxy.Binding{Credential: cache, Injector: more.injector, Transport: r.transport(upstreamCfg)}
	}
	r.srv, r.gen = must(proxy.New(cfg))(t), cfg.Generation
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.stopped <- r.srv.Run(ctx) }()
	t.Cleanup(func() {
		r.stop()
		if err := <-r.stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		r.cache.Close(context.Background())
		r.closeIdle()
		if sum, err := audit.Verify(strings.NewReader(r.trail.text())); err != nil {
			t.Errorf("the trail does not verify: %v", err)
		} else {
			for _, s := range sum.Sessions {
				if s.Indeterminate != 0 {
					t.Errorf("%d intents have no outcome", s.Indeterminate)
				}
			}
		}
		if strings.Contains(r.trail.text(), canary) {
			t.Error("I10: the credential stands in the trail")
		}
	})
	return r
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// transport returns a transport whose dials are counted.
func (r *rig) transport(cfg proxy.UpstreamConfig) *http.Transport {
	tr := proxy.NewTransport(cfg)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		n := r.dials.Add(1)
		conn, err := dial(ctx, network, address)
		if err == nil {
			r.dialled.Store(conn.LocalAddr().String(), n)
			r.connected.Add(1)
		}
		return conn, err
	}
	r.transports = append(r.transports, tr)
	return tr
}

// closeIdle closes the connections to upstreams that are not in use.
func (r *rig) closeIdle() {
	for _, tr := range r.transports {
		tr.CloseIdleConnections()
	}
}

func (r *rig) note(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, seen{line: req.Method + " " + req.RequestURI, host: req.Host, proto: req.Proto, header: req.Header.Clone()})
}

// got returns what the upstream has got so far.
func (r *rig) got() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// client returns an HTTP client behind the proxy, with HTTP/2 on or off.
func (r *rig) client(h2 bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(h2)
	tr := &http.Transport{
		Proxy: http.ProxyURL(r.url), Protocols: &protocols,
		TLSClientConfig:    &tls.Config{RootCAs: r.roots},
		DisableCompression: true,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// direct returns a client that goes to the upstream itself.
func (r *rig) direct(h2 bool) *http.Client {
	c := r.client(h2)
	tr := c.Transport.(*http.Transport)
	tr.Proxy = nil
	tr.TLSClientConfig.RootCAs = r.upstreamRoots
	tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.upstream.Listener.Addr().String())
	}
	return c
}

// at returns the URL of path on host, at the upstream's port.
func (r *rig) at(host, path string) string { return "https://" + host + ":" + r.port + path }

// do sends a request and returns the response with its body read.
func (r *rig) do(c *http.Client, method, u string, header http.Header, body io.Reader) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, u, body)
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, u, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: read body: %v", method, u, err)
	}
	if strings.Contains(string(b)+fmt.Sprint(resp.Header), canary) && !strings.Contains(u, "/echo") {
		r.t.Errorf("I10: the agent saw the credential in the answer to %s %s", method, u)
	}
	return resp, string(b)
}

// raw writes bytes to the proxy and returns the status line and all that follows until it closes
// or two seconds pass.
func (r *rig) raw(bytes string) string {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	return exchangeRaw(r.t, conn, bytes)
}

func exchangeRaw(t testing.TB, conn net.Conn, request string) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return "write failed"
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "closed"
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Sidekey-Refusal"), b)
}

// tunnel opens an intercepted tunnel to authority and returns the TLS connection in it.
func (r *rig) tunnel(authority, sni string, protocols ...string) (*tls.Conn, error) {
	return r.tunnelTo(authority, &tls.Config{ServerName: sni, RootCAs: r.roots, NextProtos: protocols})
}

func (r *rig) tunnelTo(authority string, cfg *tls.Config) (*tls.Conn, error) {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("CONNECT: %s", resp.Status)
	}
	tc := tls.Client(conn, cfg)
	return tc, tc.Handshake()
}
