package realvault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Pair is a certificate with its private key.
type Pair struct {
	CertPEM []byte
	KeyPEM  []byte
}

// SelfSigned makes a certificate that is its own authority, for a server or a client, valid for a
// day. The first name is the common name too.
func SelfSigned(t testing.TB, names ...string) Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: names[0]},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

// CertFile writes the certificate to a file of the test's.
func (p Pair) CertFile(t testing.TB) string { t.Helper(); return file(t, "cert.pem", p.CertPEM) }

// KeyFile writes the private key to a file of the test's.
func (p Pair) KeyFile(t testing.TB) string { t.Helper(); return file(t, "key.pem", p.KeyPEM) }

func file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An Issuer signs JWTs (RFC 7519) with ES256, as an identity provider does.
type Issuer struct {
	Name         string // the claim iss
	PublicKeyPEM []byte

	key *ecdsa.PrivateKey
}

// NewIssuer makes an issuer with a key of its own.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{
		Name: "https://issuer.example.test", key: key,
		PublicKeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	}
}

// Sign returns a JWT with the claims, and with iss, iat, nbf and exp (in 10 minutes) where the
// claims do not have them.
func (i *Issuer) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	all := map[string]any{"iss": i.Name, "iat": now, "nbf": now - 5, "exp": now + 600}
	for name, value := range claims {
		all[name] = value
	}
	input := segment(t, map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + segment(t, all)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var signature [64]byte // RFC 7518 section 3.4
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

// verify returns the claims of a JWT that this issuer signed, and whether it did and exp is yet to
// come.
func (i *Issuer) verify(token string) (claims map[string]any, ok bool) {
	input, encoded, found := cutLast(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(encoded)
	if !found || err != nil || len(signature) != 64 {
		return nil, false
	}
	digest := sha256.Sum256([]byte(input))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(&i.key.PublicKey, digest[:], r, s) {
		return nil, false
	}
	_, payload, _ := strings.Cut(input, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(b, &claims) != nil {
		return nil, false
	}
	exp, _ := claims["exp"].(float64)
	return claims, time.Now().Unix() < int64(exp)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func segment(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// PublicKey decodes a public key in PEM, as Vault's transit engine shows it.
func PublicKey(t testing.TB, text string) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
