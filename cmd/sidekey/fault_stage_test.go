package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/internal/realvault"
)

// A strictUpstream is an https server that takes nothing but the credentials it knows, at the paths
// they are for, and keeps count of what else it gets.
type strictUpstream struct {
	base   string // https://api.test:PORT
	caFile string
	kv     string // good at /kv, as a bearer
	aws    *realvault.AWS

	mu   sync.Mutex
	hits int
	bad  []string
}

func newStrictUpstream(t *testing.T, kv string, aws *realvault.AWS) *strictUpstream {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &strictUpstream{base: "https://api.test:" + port(ln), caFile: filepath.Join(t.TempDir(), "upstream.crt"), kv: kv, aws: aws}
	if err := os.WriteFile(u.caFile, ca.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: u, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) }},
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return u
}

func (u *strictUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got, good := r.Header.Values("Authorization"), false
	switch id, secret, basic := r.BasicAuth(); {
	case len(got) != 1:
	case r.URL.Path == "/kv":
		good = got[0] == "Bearer "+u.kv
	case r.URL.Path == "/leased":
		good = basic && u.aws.Accepts(id, secret)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hits++
	if !good {
		u.bad = append(u.bad, fmt.Sprintf("%s with %d bytes of credential in %d values", r.URL.Path, len(strings.Join(got, "")), len(got)))
		w.WriteHeader(http.StatusTeapot)
	}
}

// check holds that nothing but credentials came.
func (u *strictUpstream) check(t *testing.T) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.bad); n > 0 {
		t.Errorf("the upstream got %d requests without a good credential: %.10q", n, u.bad)
	}
}

// config is what the config has of the upstream.
func (u *strictUpstream) config() string {
	return fmt.Sprintf("upstream: {allow_cidrs: [127.0.0.1/32], resolve: {api.test: 127.0.0.1}, ca_file: %q}\naudit: {path: audit.jsonl}\n", u.caFile)
}

// A steadyAgent asks for one URL every tenth of a second, whatever becomes of its earlier requests.
type steadyAgent struct {
	credential string // the name of the credential that the URL needs
	url        string
	client     *http.Client
	end        func() // stops it and waits for its last request

	mu  sync.Mutex
	got []sample // in the order of their ends
}

// A sample is one request.
type sample struct {
	sent, done time.Time
	status     int
	refusal    string // or the error, if there is no answer
	retry      int    // Retry-After in seconds
}

const agentEvery = 100 * time.Millisecond

// startSteady starts an agent of sv.
func startSteady(t *testing.T, sv *served, credential, url string) *steadyAgent {
	t.Helper()
	client := sv.client()
	client.h2 = true // one tunnel
	c, done, err := client.http()
	if err != nil {
		t.Fatal(err)
	}
	a := &steadyAgent{credential: credential, url: url, client: c}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for faultWait(ctx, agentEvery) {
			all.Go(a.ask)
		}
	})
	a.end = sync.OnceFunc(func() { cancel(); all.Wait(); done() })
	t.Cleanup(a.end)
	return a
}

func (a *steadyAgent) ask() {
	s := sample{sent: time.Now()}
	resp, err := a.client.Get(a.url)
	if err != nil {
		s.refusal = err.Error()
	} else {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		s.status, s.refusal = resp.StatusCode, resp.Header.Get("Sidekey-Refusal")
		s.retry, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
	}
	s.done = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, s)
}

// first returns the first sample since a moment that has the status.
func (a *steadyAgent) first(status int, since time.Time) (sample, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.got {
		if s.status == status && s.done.After(since) {
			return s, true
		}
	}
	return sample{}, false
}

// A use is what the trail says of one issuance or of one request that carried it.
type use struct {
	Event      audit.Event `json:"event"`
	Time       time.Time   `json:"time"`
	Credential string      `json:"credential"`
	Issuance   string      `json:"issuance"`
	IssuedAt   time.Time   `json:"issued_at"`
	ExpiresAt  time.Time   `json:"expires_at"`
}

// usableTo is when the cache hands it out for the last time, or a little before that.
func (u use) usableTo() time.Time { return u.ExpiresAt.Add(-u.ExpiresAt.Sub(u.IssuedAt) / 20) }

// readTrail returns the issuances in a trail that is whole, and holds that no request carried one
// that had expired.
func readTrail(t *testing.T, file string) (issued []use) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(bytes.NewReader(text)); err != nil {
		t.Errorf("trail: %v", err)
	}
	expires := map[string]time.Time{}
	late := 0
	for line := range bytes.Lines(text) {
		var u use
		if err := json.Unmarshal(line, &u); err != nil {
			t.Fatal(err)
		}
		switch {
		case u.Event == audit.CredentialIssued:
			issued = append(issued, u)
			expires[u.Issuance] = u.ExpiresAt
		case u.Event == audit.RequestIntent && !u.Time.Before(expires[u.Issuance]):
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d requests carried a credential that had expired", late)
	}
	return issued
}
