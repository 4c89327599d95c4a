// Package vaulttest is a stand-in for Vault, in process and in memory, for unit tests and the
// demo. It is not Vault: it has no policies, no storage, no seal of substance, and it must
// hold nothing of worth.
//
// It speaks enough of Vault's HTTP API, over real HTTP, for a session's life: the auth methods
// token, approle, kubernetes, jwt and cert, response wrapping, token roles, KV of both versions, reads that make a lease, revocation, and
// tokens that expire and take their leases with them. Every request is kept in a record that
// stands for Vault's audit log. The statuses, and which replies carry a request_id, are those
// of Vault 1.21.
package vaulttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Config says how the server runs. The zero Config is usable.
type Config struct {
	// Now is the clock that tokens and leases expire by. Nil means time.Now.
	Now func() time.Time

	// TLS makes the server speak https, with a certificate for 127.0.0.1 and localhost that
	// [Server.CACertPEM] verifies. It takes any client certificate, and none.
	TLS bool

	// Listener is what the server accepts connections from; the server closes it. Nil means a
	// free port of 127.0.0.1.
	Listener net.Listener
}

// A Request is one entry of the record that stands for Vault's audit log. It holds no secret.
type Request struct {
	Time          time.Time
	ID            string // request.id; Vault tells it to the client in 200 replies only
	Operation     string // "read", "update", "delete" or "list"
	Path          string // without "/v1/"
	CorrelationID string // X-Correlation-Id
	Namespace     string // X-Vault-Namespace
	UserAgent     string
	Header        []string // the sorted names of all headers
	Status        int
	LeaseID       string // the lease that the reply brought
	DisplayName   string // whose token it was: "token", or the mount and the role; empty if none

	// Metadata is that of the token (auth.metadata), or what a login brought; nil if there is none.
	Metadata map[string]string
}

// A Server is the stand-in. Its methods are safe for concurrent use. Make one with [New] or
// [Start], and close it.
type Server struct {
	now    func() time.Time
	url    string
	caPEM  []byte
	http   *http.Server
	served sync.WaitGroup

	mu       sync.Mutex
	root     string
	tokens   map[string]*token // by value
	leases   map[string]*lease // by id, dead ones too
	logins   []login
	makers   map[string]Role     // token roles, by name
	wrapped  map[string]*wrapped // by wrapping token, used ones too
	kv       map[string]*secret
	dynamic  map[string]*dynamic
	engines  map[string]engine // by path
	denied   []string          // prefixes of paths
	requests []Request
	down     bool
	sealed   bool
	latency  time.Duration
	failing  []int // statuses of the next replies
}

// New starts a server. The caller closes it.
func New(cfg Config) (*Server, error) {
	s := &Server{
		now:     cfg.Now,
		root:    "hvs." + random(),
		tokens:  map[string]*token{},
		leases:  map[string]*lease{},
		makers:  map[string]Role{},
		wrapped: map[string]*wrapped{},
		kv:      map[string]*secret{},
		dynamic: map[string]*dynamic{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.tokens[s.root] = &token{display: "root", accessor: random(), root: true}
	l := cfg.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("vaulttest: %w", err)
		}
	}
	s.url = "http://" + l.Addr().String()
	if cfg.TLS {
		cert, err := certificate()
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("vaulttest: %w", err)
		}
		s.url = "https://" + l.Addr().String()
		s.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
		l = tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
		})
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: discard}
	s.served.Go(func() { _ = s.http.Serve(l) }) // always ErrServerClosed, by Close
	return s, nil
}

// TB is the part of [testing.TB] that [Start] needs; a program that imports this package does
// not import testing.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start starts a server that is closed when the test ends.
func Start(t TB) *Server {
	t.Helper()
	s, err := New(Config{})
	if err != nil {
		t.Fatalf("start the stand-in for Vault: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Close stops the server and drops all connections.
func (s *Server) Close() {
	_ = s.http.Close()
	s.served.Wait()
}

// URL returns the base URL, without "/v1".
func (s *Server) URL() string { return s.url }

// CACertPEM returns the certificate that verifies the server's; nil without TLS.
func (s *Server) CACertPEM() []byte { return s.caPEM }

// RootToken returns a token that may do all and does not expire.
func (s *Server) RootToken() string { return s.root }

// SetDown makes the server drop every connection without a reply, or stop doing so.
func (s *Server) SetDown(down bool) { s.set(func() { s.down = down }) }

// Seal makes the server answer 503, as a sealed Vault does.
func (s *Server) Seal() { s.set(func() { s.sealed = true }) }

// Unseal undoes Seal. Tokens and leases are still valid.
func (s *Server) Unseal() { s.set(func() { s.sealed = false }) }

// SetLatency delays every reply.
func (s *Server) SetLatency(d time.Duration) { s.set(func() { s.latency = d }) }

// FailNext makes the server answer the next requests with these statuses, one each, and do
// nothing else for them.
func (s *Server) FailNext(statuses ...int) {
	s.set(func() { s.failing = append(s.failing, statuses...) })
}

// Deny makes the server answer 403 for all paths that begin with prefix, but for the root
// token.
func (s *Server) Deny(prefix string) { s.set(func() { s.denied = append(s.denied, prefix) }) }

// Requests returns the requests so far, in the order of their replies.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// wait delays a request; less if the client goes away.
func (s *Server) wait(ctx context.Context) {
	s.mu.Lock()
	d := s.latency
	s.mu.Unlock()
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "stand-in for Vault"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
