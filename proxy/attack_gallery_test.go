package proxy_test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// galleryPolicy allows the same requests to the host of each kind of credential. PORT is the
// TLS upstream's, RAWP that of the raw TLS upstream, PLAINP that of the plain one, CERTP that of
// the one with bad certificates.
const galleryPolicy = `
version: 1
role: tester
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
  key: {from: {env: {name: X}}, inject: {header: {name: X-Api-Key}}}
  git: {from: {env: {name: X}}, inject: {basic: {user: git}}}
  query: {from: {env: {name: X}}, inject: {query: {name: key}}}
routes:
  - {name: api-read, host: "api.test:PORT", access: read-only, paths: [/v1/**, /q], credential: api}
  - {name: api-write, host: "api.test:PORT", methods: [POST, PUT], paths: [/v1/items], credential: api}
  - {name: api-encoded, host: "api.test:PORT", methods: [GET], paths: ["/enc/*"], credential: api, allow_encoded_slash: true, allow_encoded_percent: true}
  - {name: api-grpc, host: "api.test:PORT", methods: [POST], paths: ["/pkg.Service/*"], credential: api}
  - {name: api-open, host: "api.test:PORT", methods: [GET], paths: [/open/**]}
  - {name: api-ws, host: "api.test:PORT", methods: [GET], paths: [/ws], credential: api, websocket: true}
  - {name: raw, host: "raw.test:RAWP", access: read-write, paths: [/v1/**], credential: api}
  - {name: raw-ws, host: "raw.test:RAWP", methods: [GET], paths: [/ws], credential: api, websocket: true}
  - {name: raw-grpc, host: "raw.test:RAWP", methods: [POST], paths: ["/pkg.Service/*"], credential: api}
  - {name: key, host: "key.test:PORT", access: read-write, paths: [/v1/**], credential: key}
  - {name: git, host: "git.test:PORT", access: read-write, paths: [/v1/**], credential: git}
  - {name: query, host: "query.test:PORT", access: read-write, paths: [/v1/**], credential: query}
  - {name: cert, host: "*.cert.test:CERTP", access: read-only, paths: [/v1/**], credential: api}
  - {name: guard, host: "*.guard.test:PORT", access: read-only, paths: [/v1/**], credential: api}
  - {name: open, host: "open.test:PORT", access: read-write, paths: [/v1/**]}
  - {name: pinned, host: "pinned.test:PORT", tunnel: true}
  - {name: plain, host: "http://plain.test:PLAINP", access: read-only, paths: [/v1/**, /q]}
  - {name: plain-write, host: "http://plain.test:PLAINP", methods: [POST, PUT], paths: [/v1/items]}
  - {name: plain-encoded, host: "http://plain.test:PLAINP", methods: [GET], paths: ["/enc/*"], allow_encoded_slash: true, allow_encoded_percent: true}
`

// secretOf is the credential that each host may see.
var secretOf = map[string]string{
	"api.test": canary, "raw.test": canary, "good.cert.test": canary,
	"key.test": "kestrel-8d11f0b2c7", "git.test": "gannet-03e6aa41d9", "query.test": "quail-97c4e2d0b8",
}

// secretFor is the credential that host may see; "" for none.
func secretFor(host string) string {
	if strings.HasSuffix(host, ".guard.test") {
		return canary
	}
	return secretOf[host]
}

// carrierOf is how each host sees it, once: a header, or the end of the request line.
func carrierOf(host string) (header, value string) {
	switch secret := secretFor(host); {
	case host == "key.test":
		return "X-Api-Key", secret
	case host == "git.test":
		return "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("git:"+secret))
	case host == "query.test" || secret == "":
		return "", ""
	default:
		return "Authorization", "Bearer " + secret
	}
}

// An arrival is a request that an upstream got.
type arrival struct {
	line   string // method and request-target
	host   string // without port
	secure bool
	header http.Header
	rest   string // body and trailers
	from   string // address of the proxy's side
}

// A gallery is a rig with upstreams for attacks.
type gallery struct {
	*rig
	vars   vars
	policy *policy.Policy
	plain  *httptest.Server
	raw    *rawUpstream
	certs  *rawUpstream

	others  *arrivalCount // at the upstreams that the rig does not know
	serving atomic.Int64  // requests that are being served upstream

	mu       sync.Mutex
	arrivals []arrival
	hold     chan struct{}     // requests for /v1/hold wait for its end
	carried  map[string]string // credentials by upstream connection, since the last quiesce
	held     int64             // of them
	once     sync.Once
	owner    map[string]string // cases by connection
	tally    map[string]int    // records by connection
}

// newGallery makes a gallery. bad may be nil, and then there is no such upstream.
func newGallery(t testing.TB, bad *badCertificates, opts ...option) *gallery {
	count := new(arrivalCount)
	g := &gallery{owner: map[string]string{}, carried: map[string]string{}, tally: map[string]int{}, hold: make(chan struct{}), others: count}
	g.plain = httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	g.plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.plain.Listener = countingListener{g.plain.Listener, count}
	g.plain.Start()
	t.Cleanup(g.plain.Close)
	_, plainPort, _ := net.SplitHostPort(g.plain.Listener.Addr().String())
	g.raw = newRawUpstream(t, count, func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		leaf, err := g.upstreamCA.Leaf(h.ServerName)
		if err != nil {
			return nil, err
		}
		return &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}}, nil
	})
	if bad == nil {
		bad = &badCertificates{}
	}
	g.certs = newRawUpstream(t, count, bad.config)
	text := strings.NewReplacer("RAWP", g.raw.port, "PLAINP", plainPort, "CERTP", g.certs.port).Replace(galleryPolicy)
	opts = append([]option{func(_ *proxy.Config, o *rigOptions) {
		for _, name := range []string{"raw", "key", "git", "query", "pinned", "plain", "a.guard"} {
			o.resolve[name+".test"] = netip.MustParseAddr("127.0.0.1")
		}
		for name := range bad.configs {
			o.resolve[name] = netip.MustParseAddr("127.0.0.1")
		}
		o.more = map[string]moreCredential{
			"key":   {inject.Header("X-Api-Key", ""), secretOf["key.test"]},
			"git":   {inject.Basic("git"), secretOf["git.test"]},
			"query": {inject.Query("key"), secretOf["query.test"]},
		}
	}}, opts...)
	g.rig = newRig(t, text, g.serve, opts...)
	g.policy = must(policy.Parse("policy.yaml", []byte(strings.ReplaceAll(text, "PORT", g.port))))(t)
	t.Cleanup(g.release)
	if bad.ca != nil {
		g.upstreamRoots.AddCert(bad.ca)
	}
	g.vars = vars{
		"PORT": g.port, "RAWPORT": g.raw.port, "PLAINPORT": plainPort, "CERTPORT": g.certs.port, "SELF": g.addr,
		"API": "api.test:" + g.port, "OPEN": "open.test:" + g.port, "KEY": "key.test:" + g.port, "GIT": "git.test:" + g.port,
		"QUERY": "query.test:" + g.port, "RAW": "raw.test:" + g.raw.port, "PLAIN": "plain.test:" + plainPort,
		"PINNED": "pinned.test:" + g.port, "GUARD": "a.guard.test:" + g.port,
	}
	return g
}

// serve is the honest upstream, over TLS and over plain HTTP. Some paths make it less so.
func (g *gallery) serve(w http.ResponseWriter, r *http.Request) {
	g.serving.Add(1)
	defer g.serving.Add(-1)
	body, _ := io.ReadAll(r.Body)
	host, _, _ := net.SplitHostPort(r.Host)
	secure := r.TLS != nil && r.TLS.ServerName == host
	g.mu.Lock()
	g.arrivals = append(g.arrivals, arrival{
		line: r.Method + " " + r.RequestURI, host: host, secure: secure,
		header: r.Header.Clone(), rest: fmt.Sprint(string(body), r.Trailer), from: r.RemoteAddr,
	})
	g.mu.Unlock()
	switch r.URL.Path {
	case "/v1/echo":
		w.Header().Set("X-Debug", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "%s %v", r.RequestURI, r.Header)
	case "/v1/close":
		w.Header().Set("Connection", "close")
	case "/v1/hold":
		<-g.hold
	}
	io.WriteString(w, "hello")
}

// quiesce closes the connections to the upstreams and waits until nothing is on its way there.
func (g *gallery) quiesce(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(agentPatience); ; time.Sleep(100 * time.Microsecond) {
		g.closeIdle()
		accepted, open := g.upstreams.accepted.Load()+g.others.accepted.Load(), g.upstreams.open.Load()+g.others.open.Load()
		if accepted >= g.connected.Load() && open == g.held && g.serving.Load() == g.held {
			clear(g.carried) // the addresses can come again
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections to upstreams do not end", open)
		}
	}
}

// took returns what the upstreams got since the last time over connections that were dialled after
// the dial of number mark. What came late over others is only checked.
func (g *gallery) took(t *testing.T, mark int64) (out []arrival) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range slices.Concat(g.arrivals, g.raw.take(), g.certs.take()) {
		if err := a.check(); err != nil {
			t.Errorf("I1, I6: %v", err)
		}
		if before, ok := g.carried[a.from]; ok && before != a.credential() {
			t.Errorf("%s came over a connection that has carried another credential, or none", a.line)
		}
		g.carried[a.from] = a.credential()
		if n, ok := g.dialled.Load(a.from); !ok || n.(int64) > mark {
			out = append(out, a)
		}
	}
	g.arrivals = nil
	return out
}

// credential is what a may carry.
func (a arrival) credential() string {
	if strings.Contains(a.line, " /open/") {
		return ""
	}
	return secretFor(a.host)
}

// check is the first of the four checks, for what an upstream got: no secret but its own, in its
// place, once, over TLS.
func (a arrival) check() error {
	dump := fmt.Sprint(a.line, a.host, a.header, a.rest)
	own, whole := a.credential(), newHaystack(dump)
	for secret, needle := range seekers {
		if (secret != own || !a.secure) && whole.holds(needle) {
			return fmt.Errorf("%s (TLS %v) saw a credential that is not its own, or in the clear", a.host, a.secure)
		}
	}
	if own == "" {
		return nil
	}
	header, value := carrierOf(a.host)
	if header == "" {
		if !strings.HasSuffix(a.line, "key="+own) || strings.Count(dump, own) != 1 {
			return fmt.Errorf("%s: the credential is not where it belongs, once", a.line)
		}
		return nil
	}
	for name, values := range a.header {
		if f := http.CanonicalHeaderKey(strings.NewReplacer("_", "-", ".", "-").Replace(name)); f == header && (name != header || len(values) != 1) {
			return fmt.Errorf("%s: header %s: %d values", a.line, name, len(values))
		}
	}
	if a.header.Get(header) != value {
		return fmt.Errorf("%s: the credential is not in %s", a.line, header)
	}
	rest := a.header.Clone()
	rest.Del(header)
	if newHaystack(fmt.Sprint(a.line, rest, a.rest)).holds(seekers[own]) {
		return fmt.Errorf("%s: the credential stands in two places", a.line)
	}
	return nil
}
