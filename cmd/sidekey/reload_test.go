package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
)

// reloadPolicy is the n-th policy of a test: it allows /both, and /odd or /even as n is. Every third
// one has a mistake of one kind or another.
func reloadPolicy(n int, port string) (text string, valid bool) {
	path := "/even"
	if n%2 == 1 {
		path = "/odd"
	}
	text = fmt.Sprintf("version: 1\nrole: tester\ndescription: number %d\ncredentials:\n  api: {from: {env: {name: KEY}}, inject: {bearer: {}}}\n"+
		"routes:\n  - {name: r, host: \"api.test:%s\", access: read-only, paths: [/both, %s], credential: api}\n", n, port, path)
	switch {
	case n%3 != 0:
		return text, true
	case n%2 == 0:
		return text + "unknown: key\n", false
	}
	return text + fmt.Sprintf("tests:\n  - {request: \"GET https://api.test:%s/never\", expect: allow}\n", port), false
}

// A reloading is a sidecar whose policy changes while agents use it.
type reloading struct {
	t    *testing.T
	sc   *sidecar
	port string // of the upstream
	n    int
}

func newReloading(t *testing.T) *reloading {
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	up.EnableHTTP2 = true
	up.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) }}
	up.StartTLS()
	t.Cleanup(up.Close)
	u, _ := url.Parse(up.URL)
	r := &reloading{t: t, port: u.Port()}
	text, _ := reloadPolicy(1, r.port)
	dir := inTempDir(t, map[string]string{"policies/tester.yaml": text, "roots.crt": string(ca.CertificatePEM())})
	r.n = 1
	loopback := netip.MustParseAddr("127.0.0.1")
	s, err := prepare(&config.Config{
		Role: "tester", Policy: "policies", Listen: "127.0.0.1:0", CADir: dir, Audit: config.Audit{Path: "audit.jsonl"},
		Session: config.Session{TTL: time.Hour}, DrainGrace: time.Second,
		Upstream: config.Upstream{AllowCIDRs: []netip.Prefix{netip.PrefixFrom(loopback, 8).Masked()}, Resolve: map[string]netip.Addr{"api.test": loopback}, CAFile: "roots.crt"},
	}, process{environ: append(withRoots(t), "KEY=canary-of-the-reload-test")}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if r.sc, err = newSidecar(s, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.sc.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-r.sc.ready
	return r
}

// write puts text in place as an editor or a configuration tool does.
func (r *reloading) write(text string) {
	if err := errors.Join(os.WriteFile("policies/.next", []byte(text), 0o600), os.Rename("policies/.next", "policies/tester.yaml")); err != nil {
		r.t.Fatal(err)
	}
}

// swap puts text in place as the kubelet does: the files are links into ..data, a link that is
// replaced.
func (r *reloading) swap(text string) {
	now := "..v" + strconv.Itoa(r.n)
	before, _ := os.Readlink("policies/..data")
	err := errors.Join(
		os.Mkdir(filepath.Join("policies", now), 0o700),
		os.WriteFile(filepath.Join("policies", now, "tester.yaml"), []byte(text), 0o600),
		os.Symlink(now, "policies/..next"), os.Rename("policies/..next", "policies/..data"),
	)
	if before == "" {
		err = errors.Join(err, os.Symlink("..data/tester.yaml", "policies/.link"), os.Rename("policies/.link", "policies/tester.yaml"))
	} else {
		err = errors.Join(err, os.RemoveAll(filepath.Join("policies", before)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// reload puts the next policy in place and waits until it is in force, or refused.
func (r *reloading) reload(put func(string)) {
	r.t.Helper()
	r.n++
	text, valid := reloadPolicy(r.n, r.port)
	was := r.sc.inForce.Load().Number
	refused := r.sc.reloader.status()
	put(text)
	deadline := time.Now().Add(30 * time.Second)
	for {
		now, status := r.sc.inForce.Load(), r.sc.reloader.status()
		switch {
		case valid && now.Policy.Description() == fmt.Sprint("number ", r.n) && status == nil && now.Number == was+1:
			return
		case !valid && status != nil && status != refused && now.Number == was:
			return
		case time.Now().After(deadline):
			r.t.Fatalf("policy %d, valid %v: generation %d (%s), refused %v", r.n, valid, now.Number, now.Policy.Description(), status)
		}
		time.Sleep(time.Millisecond)
	}
}

// agents ask for path, together rate times a second, until stop is closed. They return how many answers
// each status had; an error is a lost request.
func (r *reloading) agents(path string, rate int, stop <-chan struct{}, ok func(*http.Response) bool) *atomic.Int64 {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.sc.ca.CertificatePEM())
	proxyURL, _ := url.Parse(r.sc.url())
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxyURL), TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: rate%2 == 0}}
	r.t.Cleanup(c.CloseIdleConnections)
	var answers atomic.Int64
	var asking sync.WaitGroup
	asking.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		places := make(chan struct{}, 20)
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			places <- struct{}{}
			asking.Go(func() {
				defer func() { <-places }()
				resp, err := c.Get("https://api.test:" + r.port + path)
				if err != nil {
					r.t.Errorf("%s: %v", path, err)
					return
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || !ok(resp) {
					r.t.Errorf("%s: %s %s %v", path, resp.Status, resp.Header.Get("Sidekey-Refusal"), err)
				}
				answers.Add(1)
			})
		}
	})
	r.t.Cleanup(asking.Wait)
	return &answers
}

// TestReloads holds I8: under load, policies come and go, a third of them with mistakes, half of them by ..data
// swaps. No request is lost, each is decided by the generation that its record names, and what has a
// mistake never decides. SIDEKEY_RELOADS says how many; `make test-reload` does 1000.
func TestReloads(t *testing.T) {
	reloads := 40
	if n, err := strconv.Atoi(os.Getenv("SIDEKEY_RELOADS")); err == nil {
		reloads = n
	}
	r := newReloading(t)
	stop := make(chan struct{})
	always := func(resp *http.Response) bool { return resp.StatusCode == 200 }
	atTimes := func(resp *http.Response) bool { return resp.StatusCode == 200 || resp.StatusCode == 403 }
	answers := []*atomic.Int64{r.agents("/both", 200, stop, always), r.agents("/both", 101, stop, always), r.agents("/odd", 100, stop, atTimes), r.agents("/even", 99, stop, atTimes)}
	began := time.Now()
	for i := range reloads {
		put := r.write
		if i >= reloads/2 {
			put = r.swap
		}
		r.reload(put)
	}
	took := time.Since(began)
	close(stop)
	total := int64(0)
	for _, n := range answers {
		total += n.Load()
	}
	t.Logf("%d reloads in %v under %.0f requests/s", reloads, took.Round(time.Millisecond), float64(total)/took.Seconds())
	r.checkTrail(reloads)
}

// checkTrail checks what the trail says of generations.
func (r *reloading) checkTrail(reloads int) {
	b, err := os.ReadFile("audit.jsonl")
	if err != nil {
		r.t.Fatal(err)
	}
	loaded, refused, requests := map[audit.Policy]bool{}, 0, 0
	paths := map[uint64]string{1: "/odd"}
	for n, generation := 2, uint64(1); n <= r.n; n++ {
		if _, valid := reloadPolicy(n, r.port); valid {
			generation++
			paths[generation] = map[bool]string{true: "/odd", false: "/even"}[n%2 == 1]
		}
	}
	for line := range strings.Lines(string(b)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			break // a request is being recorded
		}
		switch e.Event {
		case audit.PolicyLoaded:
			loaded[e.Policy] = true
		case audit.PolicyRefused:
			refused++
		case audit.RequestIntent, audit.RequestDenied:
			requests++
			allowed := e.Path == "/both" || e.Path == paths[e.Policy.Generation]
			if !loaded[e.Policy] || allowed != (e.Event == audit.RequestIntent) && e.Reason != "policy_changed" {
				r.t.Errorf("%s of %s under %+v, which allows %s", e.Event, e.Path, e.Policy, paths[e.Policy.Generation])
			}
		}
	}
	if len(loaded)+refused != reloads+1 || refused < reloads/3-1 || requests == 0 {
		r.t.Errorf("%d policies were loaded and %d refused, of %d and the first; %d requests", len(loaded), refused, reloads, requests)
	}
}
