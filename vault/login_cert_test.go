package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// A pair is a client certificate with its key, in PEM.
type pair struct {
	cert, key []byte
	der       []byte
}

func newPair(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "reviewer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		der:  der,
	}
}

func (p pair) auth(t *testing.T) vault.Auth {
	t.Helper()
	return vault.Auth{Method: "cert", CertFile: file(t, string(p.cert)), KeyFile: file(t, string(p.key))}
}

func startTLS(t *testing.T) *vaulttest.Server {
	t.Helper()
	srv, err := vaulttest.New(vaulttest.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return srv
}

func TestLoginWithCertificate(t *testing.T) {
	srv, first, second := startTLS(t), newPair(t), newPair(t)
	srv.PutKV(kvPath, map[string]any{"api_key": canary})
	srv.AddCertRole("cert", first.der, vaulttest.Role{Name: "reviewer", TTL: time.Hour, Metadata: map[string]string{"common_name": "reviewer"}})
	cfg := appRole(t, srv.URL())
	cfg.CACertPEM, cfg.Auth = srv.CACertPEM(), first.auth(t)
	for _, role := range []string{"", "reviewer"} {
		cfg.Auth.Role = role
		s := open(t, cfg)
		login(t, s)
		issue(t, kv(s))
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}

	// The files are read at each login.
	s := open(t, cfg)
	login(t, s)
	srv.RevokeTokens()
	srv.AddCertRole("cert", second.der, vaulttest.Role{Name: "reviewer", TTL: time.Hour})
	write(t, cfg.Auth.CertFile, second.cert)
	write(t, cfg.Auth.KeyFile, second.key)
	issue(t, kv(s))
	if err := s.Close(t.Context()); err != nil || srv.LiveTokens() != 0 {
		t.Errorf("close: %v; %d tokens are alive", err, srv.LiveTokens())
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateIsRefused(t *testing.T) {
	srv, good, other := startTLS(t), newPair(t), newPair(t)
	srv.AddCertRole("cert", good.der, vaulttest.Role{Name: "reviewer", TTL: time.Hour})
	key := string(good.key)
	for _, tt := range []struct {
		auth     vault.Auth
		says     string
		requests int
	}{
		{other.auth(t), "status 400: credential refused; hint: no certificate role of auth/cert accepts the certificate in", 1},
		{vault.Auth{CertFile: file(t, string(good.cert)), KeyFile: file(t, key), Role: "absent"}, "no certificate role absent of auth/cert", 1},
		{vault.Auth{CertFile: file(t, string(good.cert)), KeyFile: file(t, string(other.key))}, "hold no certificate with its key", 0},
		{vault.Auth{CertFile: file(t, key), KeyFile: file(t, key)}, "hold no certificate with its key", 0},
		{vault.Auth{CertFile: file(t, canary), KeyFile: file(t, canary)}, "hold no certificate with its key", 0},
		{vault.Auth{CertFile: file(t, string(good.cert)), KeyFile: "/absent/key"}, "/absent/key", 0},
		{vault.Auth{CertFile: "/absent/cert", KeyFile: file(t, key)}, "/absent/cert", 0},
	} {
		before := len(srv.Requests())
		cfg := appRole(t, srv.URL())
		cfg.CACertPEM, cfg.Auth = srv.CACertPEM(), tt.auth
		cfg.Auth.Method = "cert"
		wantError(t, open(t, cfg).Login(t.Context()), credential.ErrRefused, tt.says)
		if got := len(srv.Requests()) - before; got != tt.requests {
			t.Errorf("%s: %d requests, want %d", tt.says, got, tt.requests)
		}
	}
}

// A listener of Vault's that verifies client certificates itself ends the connection.
func TestListenerThatRefusesTheCertificate(t *testing.T) {
	strict := httptest.NewUnstartedServer(http.NotFoundHandler())
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	strict.Config.ErrorLog = log.New(io.Discard, "", 0)
	strict.StartTLS()
	defer strict.Close()
	cfg := appRole(t, strict.URL)
	cfg.CACertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strict.Certificate().Raw})
	for _, auth := range []vault.Auth{newPair(t).auth(t), cfg.Auth} {
		cfg.Auth = auth
		wantError(t, open(t, cfg).Login(t.Context()), credential.ErrRefused, "hint: the server wants a client certificate")
	}
}
