package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/internal/realvault"
)

// A realUpstream is a server over TLS, HTTP/1.1 and 2, that lets nobody in without a credential that
// is valid at that moment: the first segment of the path says which. It answers 200, 401, or 404 for
// a path without a check.
type realUpstream struct {
	port string
	ca   *mitmca.CA

	mu       sync.Mutex
	checks   map[string]credentialCheck
	hold     func(*http.Request) // called before each check; nil for none
	mutual   *tls.Config         // for mutual.test; nil refuses
	accepted map[string]int      // by the first segment
	refused  map[string]int      // the same
	sent     map[string]int      // by method and path
	seen     canaries            // every credential that came
}

// letIn is the body of its 200.
const letIn = "let in\n"

// A credentialCheck says what is wrong with a request's credential.
type credentialCheck func(*http.Request) error

func newRealUpstream(t *testing.T) *realUpstream {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &realUpstream{
		port: port(ln), ca: ca, checks: map[string]credentialCheck{},
		accepted: map[string]int{}, refused: map[string]int{}, sent: map[string]int{},
	}
	srv := &http.Server{
		Handler: u, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 2000},
		TLSConfig: &tls.Config{GetConfigForClient: u.tlsConfig, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: u.leaf},
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return u
}

func (u *realUpstream) leaf(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return u.ca.Leaf(h.ServerName)
}

func (u *realUpstream) tlsConfig(h *tls.ClientHelloInfo) (*tls.Config, error) {
	if h.ServerName != "mutual.test" {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mutual == nil {
		return nil, errors.New("no clients are expected here")
	}
	return u.mutual, nil
}

// check has requests below /name checked.
func (u *realUpstream) check(name string, c credentialCheck) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.checks[name] = c
}

// trust has mutual.test take clients with a certificate by authority only, and lets them in below
// names.
func (u *realUpstream) trust(t *testing.T, authority []byte, names ...string) {
	t.Helper()
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(authority) {
		t.Fatal("no certificate in PEM")
	}
	for _, name := range names {
		u.check(name, func(r *http.Request) error {
			if len(r.TLS.VerifiedChains) == 0 {
				return errors.New("no client certificate")
			}
			return nil
		})
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mutual = &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: u.leaf,
	}
}

// holding has hold called for each request before it is checked; nil ends that.
func (u *realUpstream) holding(hold func(*http.Request)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hold = hold
}

func (u *realUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	u.mu.Lock()
	hold := u.hold
	u.sent[r.Method+" "+r.URL.Path]++
	if secret := credentialOf(r); secret != "" {
		u.seen.set(secret, secret)
	}
	u.mu.Unlock()
	if hold != nil {
		hold(r)
	}
	u.mu.Lock()
	check := u.checks[name]
	u.mu.Unlock()
	if check == nil {
		http.NotFound(w, r)
		return
	}
	err := check(r)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.refused[name]++
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	u.accepted[name]++
	io.WriteString(w, letIn)
}

// client returns a client that comes without the sidecar, and has no credential.
func (u *realUpstream) client(t *testing.T) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(u.ca.CertificatePEM()) {
		t.Fatal("no certificate in PEM")
	}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+u.port)
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// counts returns how often credentials were accepted and refused below /name.
func (u *realUpstream) counts(name string) (accepted, refused int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.accepted[name], u.refused[name]
}

// times returns how often a request came.
func (u *realUpstream) times(method, path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent[method+" "+path]
}

// credentialOf returns the bearer or the password of a request; empty if it has neither.
func credentialOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return bearer
}

// valueCheck accepts one value as bearer.
func valueCheck(value string) credentialCheck {
	return func(r *http.Request) error {
		if credentialOf(r) != value {
			return errors.New("another value")
		}
		return nil
	}
}

// awsCheck accepts keys that AWS does.
func awsCheck(aws *realvault.AWS) credentialCheck {
	return func(r *http.Request) error {
		if id, key, _ := r.BasicAuth(); !aws.Accepts(id, key) {
			return errors.New("AWS does not know these keys")
		}
		return nil
	}
}

// verdictLife is for how long the upstream goes by the last login of a database user.
const verdictLife = 250 * time.Millisecond

// databaseCheck accepts users who can log in to db. They do log in, but not for each request: those
// that come within verdictLife share a login.
func databaseCheck(db *realvault.Database) credentialCheck {
	type verdict struct {
		asked time.Time
		err   func() error // waits
	}
	var mu sync.Mutex
	of := map[string]verdict{}
	return func(r *http.Request) error {
		user, password, ok := r.BasicAuth()
		if !ok {
			return errors.New("no credential")
		}
		mu.Lock()
		v, known := of[user+":"+password]
		if !known || time.Since(v.asked) > verdictLife {
			v = verdict{time.Now(), sync.OnceValue(func() error { return databaseLogin(db, user, password) })}
			of[user+":"+password] = v
		}
		mu.Unlock()
		return v.err()
	}
}

// databaseLogin logs in, again and again where it is not PostgreSQL that says no.
func databaseLogin(db *realvault.Database, user, password string) (err error) {
	for limit := time.Now().Add(patience); ; {
		err = db.Login(context.Background(), user, password)
		if err == nil || strings.Contains(err.Error(), "authentication failed") || time.Now().After(limit) {
			return err
		}
	}
}
