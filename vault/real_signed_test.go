package vault_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// TestRealVaultCertificate: a client certificate that Vault issued, and one that it signed for a
// key made here, are taken by a TLS server that trusts Vault's authority, and lead to it through
// an intermediate one.
func TestRealVaultCertificate(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{},
		`path "pki/issue/agent" { capabilities = ["update"] }`,
		`path "pki/sign/agent" { capabilities = ["update"] }`,
		`path "sys/leases/revoke/pki/*" { capabilities = ["update"] }`)
	root := srv.PKI(t, "agent", "60s")
	s := realSession(t, realAppRole(t, srv, "5m"))
	upstream, who := mutualTLS(t, root)

	for _, path := range []string{"pki/issue/agent", "pki/sign/agent"} {
		t.Run(path, func(t *testing.T) {
			src := s.Source(vault.SourceConfig{
				Path: path, Write: true, Certificate: true,
				Data: map[string]any{"common_name": "reviewer.example.test", "alt_names": []string{"alt.example.test", "other.example.test"}},
			})
			iss, _ := issueAs(t, src)
			if lives := iss.ExpiresAt.Sub(iss.IssuedAt); lives < 55*time.Second || lives > time.Minute {
				t.Errorf("lives for %v, want a minute", lives)
			}
			if !strings.HasPrefix(iss.Origin.LeaseID, path+"/") || iss.Origin.RequestID == "" {
				t.Errorf("origin %+v", iss.Origin)
			}
			pair, err := tls.X509KeyPair(iss.Certificate, iss.Value.Expose())
			if err != nil {
				t.Fatal(err)
			}
			if got := who(t, upstream, &pair); got != "reviewer.example.test [alt.example.test other.example.test reviewer.example.test]" {
				t.Errorf("the upstream saw %q", got)
			}
			if block, rest := pem.Decode(iss.Certificate); block == nil || len(rest) != 0 {
				t.Errorf("the chain holds more than the leaf, whose authority is the root: %s", rest)
			}
			revoke(t, src, iss)
			realvault.Eventually(t, "the lease to be gone", func() bool { return !srv.LeaseAlive(t, iss.Origin.LeaseID) })
		})
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "pki/")
}

// TestRealVaultCertificateChain: with an intermediate authority the chain leads to the root,
// and leaves it out.
func TestRealVaultCertificateChain(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, `path "int/issue/agent" { capabilities = ["update"] }`)
	root := srv.PKI(t, "agent", "60s")
	srv.Mount(t, "int", "pki", nil)
	csr := srv.Write(t, "int/intermediate/generate/internal", map[string]any{"common_name": "test intermediate", "key_type": "ec"})
	signed := srv.Write(t, "pki/root/sign-intermediate", map[string]any{"csr": csr["csr"], "common_name": "test intermediate", "ttl": "1h"})
	srv.Write(t, "int/intermediate/set-signed", map[string]any{"certificate": fmt.Sprint(signed["certificate"], "\n", string(root))})
	srv.Write(t, "int/roles/agent", map[string]any{"allowed_domains": "example.test", "allow_subdomains": true, "key_type": "ec", "ttl": "60s"})
	s := realSession(t, realAppRole(t, srv, "5m"))
	src := s.Source(vault.SourceConfig{
		Path: "int/issue/agent", Write: true, Certificate: true, Data: map[string]any{"common_name": "reviewer.example.test"},
	})
	iss, _ := issueAs(t, src)
	if iss.Origin.LeaseID != "" {
		t.Errorf("lease %q, want none: the role has no generate_lease", iss.Origin.LeaseID)
	}
	pair, err := tls.X509KeyPair(iss.Certificate, iss.Value.Expose())
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 2 {
		t.Errorf("a chain of %d certificates, want leaf and intermediate", len(pair.Certificate))
	}
	upstream, who := mutualTLS(t, root)
	if got := who(t, upstream, &pair); got != "reviewer.example.test [reviewer.example.test]" {
		t.Errorf("the upstream saw %q", got)
	}
}

// TestRealVaultCertificateRefused: what can be wrong with a role or its data.
func TestRealVaultCertificateRefused(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{},
		`path "pki/issue/*" { capabilities = ["update"] }`,
		`path "sys/leases/revoke/pki/*" { capabilities = ["update"] }`)
	srv.PKI(t, "agent", "60s")
	srv.Write(t, "pki/roles/server", map[string]any{
		"allow_any_name": true, "client_flag": false, "server_flag": true, "key_type": "ec", "ttl": "60s", "generate_lease": true,
	})
	s := realSession(t, realAppRole(t, srv, "5m"))
	for _, tt := range []struct{ name, path, cn, says string }{
		{"name not allowed", "pki/issue/agent", "reviewer.other.test", "400"},
		{"no such role", "pki/issue/none", "reviewer.example.test", "400"},
		{"not allowed", "pki/sign-verbatim/agent", "reviewer.example.test", "403"},
		{"for servers only", "pki/issue/server", "reviewer.example.test", "client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Source(vault.SourceConfig{
				Path: tt.path, Write: true, Certificate: true, Data: map[string]any{"common_name": tt.cn},
			}).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, tt.says)
		})
	}
	realvault.Eventually(t, "the unusable certificate's lease to be gone", func() bool {
		return len(srv.Leases(t, "pki/issue/server/")) == 0
	})
}

// mutualTLS starts an upstream that takes clients with a certificate from authority only, and
// says what it saw.
func mutualTLS(t *testing.T, authority []byte) (string, func(t *testing.T, url string, pair *tls.Certificate) string) {
	t.Helper()
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority)
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaf := r.TLS.PeerCertificates[0]
		fmt.Fprintf(w, "%s %v", leaf.Subject.CommonName, leaf.DNSNames)
	}))
	upstream.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12}
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	roots := x509.NewCertPool()
	roots.AddCert(upstream.Certificate())
	return upstream.URL, func(t *testing.T, url string, pair *tls.Certificate) string {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: &tls.Config{
			RootCAs: roots, Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12,
		}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
}

// TestRealVaultTransitJWT: a JWT that the transit engine signed is one that its public key
// verifies, for each algorithm.
func TestRealVaultTransitJWT(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, `path "transit/sign/*" { capabilities = ["update"] }`)
	srv.Mount(t, "transit", "transit", nil)
	s := realSession(t, realAppRole(t, srv, "5m"))
	for _, tt := range []struct{ algorithm, keyType string }{
		{"RS256", "rsa-2048"}, {"RS256", "rsa-4096"}, {"PS256", "rsa-2048"},
		{"ES256", "ecdsa-p256"}, {"ES384", "ecdsa-p384"}, {"EdDSA", "ed25519"},
	} {
		t.Run(tt.algorithm+" "+tt.keyType, func(t *testing.T) {
			key := strings.ToLower(tt.algorithm + "-" + tt.keyType)
			srv.Write(t, "transit/keys/"+key, map[string]any{"type": tt.keyType})
			src := s.Source(vault.SourceConfig{Path: "transit/sign/" + key, JWT: &vault.JWTConfig{
				Algorithm: tt.algorithm, KeyID: "kid-1", TTL: 5 * time.Minute,
				Claims: map[string]any{"iss": "reviewer", "aud": []string{"api.example.test"}},
			}})
			for version := 1; version <= 2; version++ {
				iss, id := issueAs(t, src)
				header, claims := verifyJWT(t, text(iss.Value), tt.algorithm, transitKey(t, srv, key, version))
				if header["alg"] != tt.algorithm || header["kid"] != "kid-1" || claims["iss"] != "reviewer" || claims["jti"] != id {
					t.Errorf("header %v, claims %v", header, claims)
				}
				exp, _ := claims["exp"].(float64)
				if !near(time.Unix(int64(exp), 0), iss.ExpiresAt) || iss.ExpiresAt.After(time.Unix(int64(exp), 0)) {
					t.Errorf("exp is %v, the issuance expires at %v", time.Unix(int64(exp), 0), iss.ExpiresAt)
				}
				srv.Must(t, "POST", "transit/keys/"+key+"/rotate", srv.RootToken, nil)
			}
		})
	}
}

// TestRealVaultTransitJWTRefused: a key that does not exist, of another type, or not to be used.
func TestRealVaultTransitJWTRefused(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{},
		`path "transit/sign/k*" { capabilities = ["update"] }`)
	srv.Mount(t, "transit", "transit", nil)
	for name, keyType := range map[string]string{"k-rsa": "rsa-2048", "k-p256": "ecdsa-p256", "k-p384": "ecdsa-p384", "k-ed": "ed25519", "k-aes": "aes256-gcm96", "other": "rsa-2048"} {
		srv.Write(t, "transit/keys/"+name, map[string]any{"type": keyType})
	}
	s := realSession(t, realAppRole(t, srv, "5m"))
	for _, tt := range []struct{ name, key, algorithm, says string }{
		{"no such key", "k-none", "RS256", "400"},
		{"not allowed", "other", "RS256", "403"},
		{"cannot sign", "k-aes", "RS256", "400"},
		{"RSA for ES256", "k-rsa", "ES256", ""},
		{"P-256 for RS256", "k-p256", "RS256", ""},
		{"P-256 for ES384", "k-p256", "ES384", "another type"},
		{"P-384 for ES256", "k-p384", "ES256", "another type"},
		{"Ed25519 for ES256", "k-ed", "ES256", ""},
		{"P-256 for EdDSA", "k-p256", "EdDSA", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Source(vault.SourceConfig{Path: "transit/sign/" + tt.key, JWT: &vault.JWTConfig{
				Algorithm: tt.algorithm, TTL: 5 * time.Minute,
			}}).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, tt.says)
		})
	}
}

// transitKey returns a version of the public key of a transit key.
func transitKey(t *testing.T, srv *realvault.Server, name string, version int) crypto.PublicKey {
	t.Helper()
	versions, _ := srv.Read(t, "transit/keys/"+name)["keys"].(map[string]any)
	entry, _ := versions[fmt.Sprint(version)].(map[string]any)
	shown, _ := entry["public_key"].(string)
	if entry["name"] == "ed25519" { // the one type that is not shown in PEM
		raw, err := base64.StdEncoding.DecodeString(shown)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			t.Fatalf("version %d of the key: %v", version, err)
		}
		return ed25519.PublicKey(raw)
	}
	return realvault.PublicKey(t, shown)
}

// verifyJWT returns the header and the claims of a JWT that key verifies.
func verifyJWT(t *testing.T, token, algorithm string, key crypto.PublicKey) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts", len(parts))
	}
	var raw [3][]byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		raw[i] = b
	}
	input, signature := []byte(parts[0]+"."+parts[1]), raw[2]
	if !verifies(algorithm, key, input, signature) {
		t.Errorf("the signature of %d bytes is not one by %T with %s", len(signature), key, algorithm)
	}
	if err := json.Unmarshal(raw[0], &header); err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		t.Error(err)
	}
	return header, claims
}

// verifies checks a signature as RFC 7518 section 3 and RFC 8037 section 3.1 have it.
func verifies(algorithm string, key crypto.PublicKey, input, signature []byte) bool {
	short, long := sha256.Sum256(input), sha512.Sum384(input)
	numbers := func(size int) (r, s *big.Int) {
		if len(signature) != 2*size {
			return new(big.Int), new(big.Int)
		}
		return new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if algorithm == "PS256" {
			opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
			return rsa.VerifyPSS(key, crypto.SHA256, short[:], signature, opts) == nil
		}
		return algorithm == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, short[:], signature) == nil
	case *ecdsa.PublicKey:
		if algorithm == "ES384" {
			r, s := numbers(48)
			return ecdsa.Verify(key, long[:], r, s)
		}
		r, s := numbers(32)
		return algorithm == "ES256" && ecdsa.Verify(key, short[:], r, s)
	case ed25519.PublicKey:
		return algorithm == "EdDSA" && ed25519.Verify(key, input, signature)
	}
	return false
}

// TestRealVaultIdentityToken: a JWT that Vault signs for the identity of the session's token is
// one that Vault's published keys verify, and expires when the issuance does.
func TestRealVaultIdentityToken(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, `path "identity/oidc/token/reviewer" { capabilities = ["read"] }`)
	srv.IdentityToken(t, "reviewer", "2m", `{"agent_role": "reviewer"}`)
	s := realSession(t, realAppRole(t, srv, "5m"))
	iss, _ := issueAs(t, s.Source(vault.SourceConfig{Path: "identity/oidc/token/reviewer", Field: "token"}))

	var header struct{ Kid string }
	head, _, _ := strings.Cut(text(iss.Value), ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil || json.Unmarshal(b, &header) != nil {
		t.Fatalf("the header of the JWT: %v", err)
	}
	_, claims := verifyJWT(t, text(iss.Value), "ES256", identityKey(t, srv, header.Kid))
	if claims["agent_role"] != "reviewer" || claims["iss"] != srv.Addr+"/v1/identity/oidc" {
		t.Errorf("claims %v", claims)
	}
	exp, _ := claims["exp"].(float64)
	if end := time.Unix(int64(exp), 0); iss.ExpiresAt.After(end.Add(time.Second)) || !near(iss.ExpiresAt, end) {
		t.Errorf("exp is %v, the issuance expires at %v", end, iss.ExpiresAt)
	}
	if iss.Origin.LeaseID != "" || iss.Origin.RequestID == "" {
		t.Errorf("origin %+v", iss.Origin)
	}
}

// TestRealVaultIdentityTokenWithoutIdentity: a token without an entity has no identity to sign for.
func TestRealVaultIdentityTokenWithoutIdentity(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, `path "identity/oidc/token/reviewer" { capabilities = ["read"] }`)
	srv.IdentityToken(t, "reviewer", "2m", "")
	s := realSession(t, realLogins[0].config(t, srv))
	_, err := s.Source(vault.SourceConfig{Path: "identity/oidc/token/reviewer", Field: "token"}).Issue(t.Context(), "id")
	wantError(t, err, credential.ErrRefused, "400")
}

// identityKey returns the key with that id from Vault's own key set (RFC 7517).
func identityKey(t *testing.T, srv *realvault.Server, kid string) *ecdsa.PublicKey {
	t.Helper()
	reply := srv.Must(t, "GET", "identity/oidc/.well-known/keys", "", nil)
	keys, _ := reply["keys"].([]any)
	for _, k := range keys {
		jwk, _ := k.(map[string]any)
		if jwk["kid"] != kid {
			continue
		}
		point := []byte{4}
		for _, name := range []string{"x", "y"} {
			b, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(jwk[name]))
			if err != nil {
				t.Fatal(err)
			}
			point = append(point, b...)
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	t.Fatalf("Vault does not publish key %q", kid)
	return nil
}
