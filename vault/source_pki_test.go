package vault_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

func addPKI(t *testing.T, srv *vaulttest.Server, mount string, p vaulttest.PKI) (root []byte) {
	t.Helper()
	root, err := srv.AddPKI(mount, "agent", p)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func issuing(path string) vault.SourceConfig {
	return vault.SourceConfig{Path: path, Write: true, Certificate: true, Data: map[string]any{"common_name": "agent.test"}}
}

// verifyPair checks that iss is a key with a chain that leads to root, but does not hold it.
func verifyPair(t *testing.T, iss *credential.Issuance, root []byte) *x509.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(iss.Certificate, iss.Value.Expose())
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := pair.Leaf.Verify(opts); err != nil || len(pair.Certificate) != 2 {
		t.Errorf("a chain of %d: %v", len(pair.Certificate), err)
	}
	return pair.Leaf
}

func TestIssueCertificate(t *testing.T) {
	for _, verb := range []string{"issue", "sign"} {
		for _, leased := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				srv, p := stand(t, 10*time.Hour)
				root := addPKI(t, srv, "team/pki", vaulttest.PKI{TTL: time.Hour, Lease: leased})
				src := session(t, p).Source(issuing("team/pki/" + verb + "/agent"))
				first, second := issue(t, src), issue(t, src)
				leaf := verifyPair(t, first, root)
				if leaf.Subject.CommonName != "agent.test" || !first.User.IsZero() {
					t.Errorf("%s: subject %v", verb, leaf.Subject)
				}
				if bytes.Equal(first.Value.Expose(), second.Value.Expose()) {
					t.Errorf("%s: one key for two certificates", verb)
				}
				if left := leaf.NotAfter.Sub(first.ExpiresAt); left < 0 || left > 2*time.Second {
					t.Errorf("%s: expires %v before the certificate", verb, left)
				}
				if leased != (first.Origin.LeaseID != "") {
					t.Errorf("%s: lease %q", verb, first.Origin.LeaseID)
				}
				before := len(srv.Requests())
				revoke(t, src, first)
				if _, revoked := srv.Leases(); leased != (len(revoked) == 1) || !leased && len(srv.Requests()) != before {
					t.Errorf("%s: revoked %v", verb, revoked)
				}
			})
		}
	}
}

// The end of a certificate is on Vault's clock, so this process's may be wrong.
func TestCertificateWithAWrongClock(t *testing.T) {
	for _, off := range []time.Duration{0, time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, 10*time.Hour)
			addPKI(t, srv, "pki", vaulttest.PKI{TTL: 10 * time.Minute})
			cfg := appRole(t, "http://127.0.0.1:8200")
			cfg.Now = func() time.Time { return time.Now().Add(off) }
			s := open(t, cfg)
			s.SetDial(p.dial)
			login(t, s)
			iss := issue(t, s.Source(issuing("pki/issue/agent")))
			if got := iss.ExpiresAt.Sub(cfg.Now()); got > 10*time.Minute || got < 10*time.Minute-3*time.Second {
				t.Errorf("off by %v: lives for %v", off, got)
			}
		})
	}
}

func TestCertificateExpiry(t *testing.T) {
	for _, tt := range []struct {
		token, ttl, maxAge time.Duration
		lease              bool
		want               time.Duration
	}{
		{10 * time.Hour, time.Hour, 0, false, time.Hour - time.Second},
		{10 * time.Hour, time.Hour, time.Minute, false, time.Minute},
		{30 * time.Minute, time.Hour, 0, true, 30 * time.Minute}, // the lease dies with the token
		{30 * time.Minute, time.Hour, 0, false, time.Hour - time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, tt.token)
			addPKI(t, srv, "pki", vaulttest.PKI{TTL: tt.ttl, Lease: tt.lease})
			cfg := issuing("pki/issue/agent")
			cfg.MaxAge = tt.maxAge
			iss := issue(t, session(t, p).Source(cfg))
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != tt.want {
				t.Errorf("%+v: lives for %v", tt, got)
			}
		})
	}
}

// A request for a signature holds the names of the data, and never the key.
func TestSigningRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var body map[string]any
		s := odd(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if strings.Contains(string(b), "PRIVATE KEY") || json.Unmarshal(b, &body) != nil {
				t.Error("the key left the process, or the body is malformed")
			}
			w.WriteHeader(400)
		})
		cfg := vault.SourceConfig{Path: "pki/sign/agent", Write: true, Certificate: true, Data: map[string]any{
			"common_name": "agent.test", "alt_names": "a.test, b.test,x@b.test", "ip_sans": []string{"192.0.2.1", "::1"},
			"uri_sans": "spiffe://test/agent", "ttl": "10m",
		}}
		_, err := s.Source(cfg).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "status 400")
		text, _ := body["csr"].(string)
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE REQUEST" {
			t.Fatalf("csr %q", text)
		}
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().Name != "P-256" || csr.CheckSignature() != nil {
			t.Errorf("a request for a %T", csr.PublicKey)
		}
		got := []string{csr.Subject.CommonName, csr.IPAddresses[0].String(), csr.IPAddresses[1].String(), csr.URIs[0].String()}
		got = append(append(got, csr.DNSNames...), csr.EmailAddresses...)
		want := []string{"agent.test", "192.0.2.1", "::1", "spiffe://test/agent", "a.test", "b.test", "x@b.test"}
		if diff := cmp.Diff(want, got); diff != "" || body["ttl"] != "10m" || body["alt_names"] != "a.test, b.test,x@b.test" {
			t.Errorf("names (-want +got):\n%s\nbody %v", diff, body)
		}
		if _, ok := cfg.Data["csr"]; ok {
			t.Error("the config's data was changed")
		}
		for name, value := range map[string]string{"ip_sans": "a.test", "uri_sans": "%zz"} {
			_, err := s.Source(vault.SourceConfig{Path: "pki/sign/a", Write: true, Certificate: true, Data: map[string]any{name: value}}).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, name+" holds what is no")
		}
	})
}

// One row is what is wrong with a certificate, or with what goes with it.
func TestCertificateRefused(t *testing.T) {
	pair, other := issuedPair(t, vaulttest.PKI{TTL: time.Hour}), issuedPair(t, vaulttest.PKI{TTL: time.Hour})
	server := issuedPair(t, vaulttest.PKI{TTL: time.Hour, ServerOnly: true})
	with := func(changes ...string) map[string]any {
		data := map[string]any{"private_key": pair.key, "certificate": pair.chain, "issuing_ca": ""}
		for i := 0; i < len(changes); i += 2 {
			data[changes[i]] = changes[i+1]
		}
		return data
	}
	without := func(name string) map[string]any { d := with(); delete(d, name); return d }
	garbage := "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
	for name, tt := range map[string]struct {
		data map[string]any
		says string
	}{
		"another key":    {with("private_key", other.key), "is no PEM key of the certificate"},
		"no key":         {without("private_key"), `no field "private_key" that is a text, only "certificate", "issuing_ca"`},
		"an empty key":   {with("private_key", ""), `no field "private_key"`},
		"a word":         {with("private_key", canary), "is no PEM key"},
		"a key in DER":   {with("private_key", "MIIB"+canary), "is no PEM key"},
		"a key as chain": {with("certificate", pair.key), `field "certificate" holds no PEM certificate`},
		"no certificate": {without("certificate"), `no field "certificate"`},
		"DER":            {with("certificate", canary), `field "certificate" holds no PEM certificate`},
		"garbage":        {with("certificate", garbage), "a certificate of the chain is malformed"},
		"garbage behind": {with("issuing_ca", garbage), "a certificate of the chain is malformed"},
		"for servers":    {with("private_key", server.key, "certificate", server.chain), "the certificate is not for clients (client_flag of the role)"},
		"nothing":        {map[string]any{}, "an empty object"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(pair.at))
				_, err := odd(t, replying(t, tt.data)).Source(issuing("pki/issue/a")).Issue(t.Context(), "id")
				wantError(t, err, credential.ErrRefused, tt.says)
				if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
					t.Errorf("error %q", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(pair.at.Add(time.Hour)))
		_, err := odd(t, replying(t, with())).Source(issuing("pki/issue/a")).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "what Vault gave has expired already")
	})
}

// The chain is the leaf and what leads to a root, each once, whatever form it comes in.
func TestCertificateChain(t *testing.T) {
	pair := issuedPair(t, vaulttest.PKI{TTL: time.Hour})
	blocks := strings.SplitAfter(pair.chain, "-----END CERTIFICATE-----\n")
	leaf, between, root := blocks[0], blocks[1], string(pair.root)
	for name, data := range map[string]map[string]any{
		"a list":          {"certificate": leaf, "ca_chain": []string{between, root}, "issuing_ca": between},
		"an issuer":       {"certificate": leaf, "issuing_ca": between},
		"an empty list":   {"certificate": leaf, "ca_chain": []string{}, "issuing_ca": between},
		"a bundle":        {"certificate": pair.key + "\n" + leaf + between + root, "issuing_ca": between},
		"one text":        {"certificate": leaf + between},
		"twice":           {"certificate": leaf + leaf, "ca_chain": []string{between + root, between, leaf}},
		"spaces around":   {"certificate": "\n" + leaf + " \n", "ca_chain": []string{strings.TrimSpace(between)}},
		"without newline": {"certificate": strings.TrimSpace(leaf), "issuing_ca": strings.TrimSpace(between)},
	} {
		data["private_key"] = pair.key
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(pair.at))
				iss := issue(t, odd(t, replying(t, data)).Source(issuing("pki/issue/a")))
				if got := string(iss.Certificate); got != pair.chain {
					t.Errorf("got\n%s\nwant\n%s", got, pair.chain)
				}
				verifyPair(t, iss, pair.root)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(pair.at))
		// A certificate that is its own authority is the leaf all the same.
		stored := map[string]any{"data": map[string]any{"certificate": root, "private_key": pair.key}, "metadata": map[string]any{"version": 3}}
		_, err := odd(t, replying(t, stored)).Source(vault.SourceConfig{Path: "secret/data/c", Certificate: true}).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "is no PEM key of the certificate")
		stored["data"] = map[string]any{"certificate": pair.chain, "private_key": pair.key}
		iss := issue(t, odd(t, replying(t, stored)).Source(vault.SourceConfig{Path: "secret/data/c", Certificate: true}))
		if verifyPair(t, iss, pair.root); iss.Origin.Version != 3 {
			t.Errorf("version %d", iss.Origin.Version)
		}
	})
}

// An issued pair, and when: inside a bubble the clock stands at another time.
type issued struct {
	chain, key string
	root       []byte
	at         time.Time
}

func issuedPair(t *testing.T, p vaulttest.PKI) issued {
	t.Helper()
	srv := vaulttest.Start(t)
	root := addPKI(t, srv, "pki", p)
	at := time.Now()
	req, err := http.NewRequest("PUT", srv.URL()+"/v1/pki/issue/agent", strings.NewReader(`{"common_name":"agent.test"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", srv.RootToken())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct {
		Data struct {
			Certificate string `json:"certificate"`
			IssuingCA   string `json:"issuing_ca"`
			PrivateKey  string `json:"private_key"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	d := reply.Data
	return issued{d.Certificate + "\n" + d.IssuingCA + "\n", d.PrivateKey, append(slices.Clip(root), '\n'), at}
}

func replying(t *testing.T, data map[string]any) http.HandlerFunc {
	b, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
}

func TestUnusableKinds(t *testing.T) {
	s := open(t, appRole(t, "http://127.0.0.1:1"))
	jwt := func(change func(*vault.SourceConfig)) vault.SourceConfig { c := signing("RS256"); change(&c); return c }
	claim := func(name string) vault.SourceConfig {
		return jwt(func(c *vault.SourceConfig) { c.JWT.Claims = map[string]any{name: 1} })
	}
	for _, tt := range []struct {
		cfg  vault.SourceConfig
		says string
	}{
		{vault.SourceConfig{Path: "a", Field: "f", Data: map[string]any{}}, "a read has no data"},
		{vault.SourceConfig{Path: "pki/issue/a", Write: true, Certificate: true, Field: "f"}, "a certificate has no field"},
		{vault.SourceConfig{Path: "pki/issue/a", Write: true, Certificate: true, UserField: "f"}, "a certificate has no field"},
		{vault.SourceConfig{Path: "pki/sign/a", Certificate: true}, "not to be read but written"},
		{vault.SourceConfig{Path: "pki/sign/a", Write: true, Certificate: true, Data: map[string]any{"csr": "x"}}, "signing request is made here"},
		{jwt(func(c *vault.SourceConfig) { c.Field = "f" }), "a JWT has no field"},
		{jwt(func(c *vault.SourceConfig) { c.UserField = "f" }), "a JWT has no field"},
		{jwt(func(c *vault.SourceConfig) { c.Data = map[string]any{} }), "no data"},
		{jwt(func(c *vault.SourceConfig) { c.Certificate = true }), "no certificate"},
		{jwt(func(c *vault.SourceConfig) { c.Path = "transit/sign/a/sha2-256" }), "is not a path such as transit/sign/KEY"},
		{jwt(func(c *vault.SourceConfig) { c.JWT.Algorithm = "none" }), "is not one of ES256, ES384, EdDSA, PS256, RS256"},
		{jwt(func(c *vault.SourceConfig) { c.JWT.TTL = 59 * time.Second }), "the TTL 59s is not between 1m0s and 24h0m0s"},
		{jwt(func(c *vault.SourceConfig) { c.JWT.TTL = 24*time.Hour + time.Second }), "the TTL 24h0m1s is not between"},
		{claim("exp"), "claim exp is set"}, {claim("iat"), "claim iat is set"}, {claim("jti"), "claim jti is set"}, {claim("nbf"), "claim nbf is set"},
		{jwt(func(c *vault.SourceConfig) { c.JWT.Claims = map[string]any{"a": func() {}} }), "no JSON"},
	} {
		_, err := s.Source(tt.cfg).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, tt.says)
	}
}
