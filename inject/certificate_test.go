package inject_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
)

// keyPair returns a self-signed certificate and its key in PEM.
func keyPair(t *testing.T) (chain, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func certified(chain, key []byte) *credential.Issuance {
	return &credential.Issuance{Certificate: chain, Value: credential.NewSecret(key)}
}

func TestClientCertificate(t *testing.T) {
	chain, key := keyPair(t)
	other, _ := keyPair(t)
	in := inject.ClientCertificate()
	iss := certified(append(bytes.Clone(chain), other...), bytes.Clone(key))
	cert, err := in.(inject.CertificateBearer).Certificate(iss)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(chain)
	if len(cert.Certificate) != 2 || !bytes.Equal(cert.Certificate[0], block.Bytes) || cert.PrivateKey == nil || cert.Leaf == nil {
		t.Errorf("%d certificates, leaf %v", len(cert.Certificate), cert.Leaf)
	}
	req, _ := http.NewRequest("GET", "https://api.test/x?a=1", nil)
	if err := in.Inject(req, iss); err != nil || len(req.Header) != 0 || req.URL.RawQuery != "a=1" {
		t.Errorf("Inject: error %v, header %d, query %q", err, len(req.Header), req.URL.RawQuery)
	}
	if c := in.Carrier(); c != (inject.Carrier{}) {
		t.Errorf("carrier %+v", c)
	}
	if value, user := inject.Copies(in, iss); value != nil || user != nil {
		t.Errorf("copies of %d and %d bytes", len(value), len(user))
	}
	if !bytes.Equal(iss.Value.Expose(), key) {
		t.Error("the issuance's key was changed")
	}
}

// What is no pair is refused, and the error is silent about it.
func TestClientCertificateRefuses(t *testing.T) {
	chain, key := keyPair(t)
	other, _ := keyPair(t)
	const canary = "canary-7f3a"
	named := []byte("-----BEGIN " + canary + "-----\nAAAA\n-----END " + canary + "-----\n")
	for name, iss := range map[string]*credential.Issuance{
		"another key":      certified(other, key),
		"no certificate":   certified(nil, key),
		"no key":           certified(chain, nil),
		"swapped":          certified(key, chain),
		"a token":          certified(chain, []byte(canary)),
		"another PEM":      certified(chain, named),
		"a half key":       certified(chain, key[:len(key)/2]),
		"the wrong way up": certified(append(bytes.Clone(other), chain...), key),
	} {
		cert, err := inject.ClientCertificate().(inject.CertificateBearer).Certificate(iss)
		if cert != nil || !errors.Is(err, inject.ErrNotRenderable) {
			t.Errorf("%s: error %v, want ErrNotRenderable", name, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: error %q", name, err)
		}
	}
}

// No other injector is taken for one whose credential travels in the handshake.
func TestCertificateBearers(t *testing.T) {
	for _, in := range []inject.Injector{inject.Bearer(), inject.Basic(""), inject.Header("x", ""), inject.Query("q")} {
		if _, ok := in.(inject.CertificateBearer); ok {
			t.Errorf("%+v bears certificates", in.Carrier())
		}
	}
}
