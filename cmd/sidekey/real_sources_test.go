package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// realSources are all kinds of credentials from Vault: each is prepared, with what the upstream lets
// in below its name, and put into words of the policy.
var realSources = []struct {
	name    string
	prepare func(t *testing.T, st *realStage) // nil for the database, which all stages share
	words   string
	leased  bool
}{
	{"kv", func(t *testing.T, st *realStage) { st.keyValue(t) },
		`from: {vault: {path: secret/data/agents/tester, field: api_key, max_age: 1h}}, inject: {bearer: {}}`, false},
	{"kv1", keyValueVersion1,
		`from: {vault: {path: kv1/tester, field: api_key, max_age: 1h}}, inject: {header: {name: Authorization, prefix: "Bearer "}}`, false},
	{"db", nil,
		`from: {vault: {path: database/creds/reader, field: password, user_field: username}}, inject: {basic: {}}`, true},
	{"pki", clientCertificates,
		`from: {vault: {path: pki/issue/agent, method: write, data: {common_name: tester.example.test}}}, inject: {client_certificate: {}}`, true},
	{"sign", func(t *testing.T, st *realStage) { st.allow(t, "pki/sign/agent", "update") },
		`from: {vault: {path: pki/sign/agent, method: write, data: {common_name: tester.example.test}}}, inject: {client_certificate: {}}`, true},
	{"identity", identityTokens,
		`from: {vault: {path: identity/oidc/token/tester, field: token}}, inject: {bearer: {}}`, false},
	{"transit", transitSigned,
		`from: {vault: {path: transit/sign/tester, jwt: {algorithm: ES256, claims: {iss: tester}, ttl: 5m}}}, inject: {bearer: {}}`, false},
	{"aws", awsKeys,
		`from: {vault: {path: aws/creds/user, field: secret_key, user_field: access_key}}, inject: {basic: {}}`, true},
	{"sts", func(t *testing.T, st *realStage) { st.allow(t, "aws/sts/assumed", "update") },
		`from: {vault: {path: aws/sts/assumed, method: write, data: {ttl: 15m}, field: secret_key, user_field: access_key}}, inject: {basic: {}}`, true},
}

func keyValueVersion1(t *testing.T, st *realStage) {
	value := newCanary()
	st.vault.Mount(t, "kv1", "kv", map[string]any{"version": "1"})
	st.vault.Write(t, "kv1/tester", map[string]any{"api_key": value})
	st.allow(t, "kv1/tester", "read")
	st.up.check("kv1", valueCheck(value))
}

func clientCertificates(t *testing.T, st *realStage) {
	authority := st.vault.PKI(t, "agent", "1h")
	st.allow(t, "pki/issue/agent", "update")
	st.allow(t, "sys/leases/revoke/pki/*", "update")
	st.up.trust(t, authority, "pki", "sign")
}

func awsKeys(t *testing.T, st *realStage) {
	aws := realvault.StartAWS(t)
	st.vault.AWSRoles(t, aws)
	st.allow(t, "aws/creds/user", "read")
	st.allow(t, "sys/leases/revoke/aws/*", "update")
	st.up.check("aws", awsCheck(aws))
	st.up.check("sts", awsCheck(aws))
}

// identityTokens has the upstream let in whose token the keys verify that Vault publishes.
func identityTokens(t *testing.T, st *realStage) {
	st.vault.IdentityToken(t, "tester", "5m", `{"agent_role": "tester"}`)
	st.allow(t, "identity/oidc/token/tester", "read")
	var set struct {
		Keys []struct{ Kid, Kty, X, Y string }
	}
	text, err := json.Marshal(st.vault.Must(t, "GET", "identity/oidc/.well-known/keys", "", nil))
	if err == nil {
		err = json.Unmarshal(text, &set)
	}
	if err != nil || len(set.Keys) == 0 {
		t.Fatalf("the keys that Vault publishes: %v", err)
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, k := range set.Keys { // RFC 7518 section 6.2.1
		if k.Kty != "EC" {
			continue
		}
		x, xErr := base64.RawURLEncoding.DecodeString(k.X)
		y, yErr := base64.RawURLEncoding.DecodeString(k.Y)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err := errors.Join(xErr, yErr, err); err != nil {
			t.Fatal(err)
		}
		keys[k.Kid] = key
	}
	st.up.check("identity", jwtCheck(keys, "agent_role", "tester"))
}

// transitSigned has the upstream let in whose token the public half of a transit key verifies.
func transitSigned(t *testing.T, st *realStage) {
	st.vault.Mount(t, "transit", "transit", nil)
	st.vault.Write(t, "transit/keys/tester", map[string]any{"type": "ecdsa-p256"})
	st.allow(t, "transit/sign/tester", "update")
	versions, _ := st.vault.Read(t, "transit/keys/tester")["keys"].(map[string]any)
	first, _ := versions["1"].(map[string]any)
	key, ok := realvault.PublicKey(t, fmt.Sprint(first["public_key"])).(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("the transit key is of another type")
	}
	st.up.check("transit", jwtCheck(map[string]*ecdsa.PublicKey{"": key}, "iss", "tester"))
}

// jwtCheck accepts a JWT (RFC 7519) with ES256 that the key of its kid verifies, that is valid now,
// and that has the claim.
func jwtCheck(keys map[string]*ecdsa.PublicKey, claim, want string) credentialCheck {
	return func(r *http.Request) error {
		parts := strings.Split(credentialOf(r), ".")
		if len(parts) != 3 {
			return errors.New("no JWT")
		}
		var raw [3][]byte
		for i, part := range parts {
			var err error
			if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
				return err
			}
		}
		var header struct{ Alg, Kid string }
		var claims map[string]any
		if err := errors.Join(json.Unmarshal(raw[0], &header), json.Unmarshal(raw[1], &claims)); err != nil {
			return err
		}
		key, ok := keys[header.Kid]
		if !ok || header.Alg != "ES256" || len(raw[2]) != 64 {
			return fmt.Errorf("alg %q, kid %q, a signature of %d bytes", header.Alg, header.Kid, len(raw[2]))
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])) {
			return errors.New("the signature does not verify")
		}
		if exp, _ := claims["exp"].(float64); time.Now().Unix() >= int64(exp) || claims[claim] != want {
			return fmt.Errorf("exp %v, %s %v", claims["exp"], claim, claims[claim])
		}
		return nil
	}
}

// realLogins are all ways to log in: each is prepared and returns vault.auth, and further lines of
// the section vault.
var realLogins = []struct {
	name string
	auth func(t *testing.T, st *realStage) (auth string, more []string)
	left int // tokens, after the end
}{
	// The operator's token is left alone.
	{"token", func(t *testing.T, st *realStage) (string, []string) {
		reply := st.vault.Must(t, "POST", "auth/token/create", st.vault.RootToken, map[string]any{"policies": []string{"tester"}, "ttl": "1h"})
		made, _ := reply["auth"].(map[string]any)
		return fmt.Sprintf("{method: token, token_file: %q}", st.file(t, "token", fmt.Sprint(made["client_token"]))), nil
	}, 1},
	{"approle", func(t *testing.T, st *realStage) (string, []string) { return st.approle(t, "1h"), nil }, 0},
	{"approle, wrapped", func(t *testing.T, st *realStage) (string, []string) {
		roleID, _ := st.vault.AppRole(t, "tester", tokenRole("1h"))
		wrapped := st.file(t, "wrapped", st.vault.WrappedSecretID(t, "tester", "60s"))
		return fmt.Sprintf("{method: approle, role_id: %q, secret_id_file: %q, secret_id_wrapped: true}", roleID, wrapped), nil
	}, 0},
	{"kubernetes", func(t *testing.T, st *realStage) (string, []string) {
		st.childTokens(t)
		return st.kubernetes(t, "1h"), []string{"session_token_role: sidekey-session"}
	}, 0},
	{"jwt", func(t *testing.T, st *realStage) (string, []string) {
		issuer := realvault.NewIssuer(t)
		role := tokenRole("1h")
		role["bound_audiences"] = []string{"vault"}
		st.vault.JWTRole(t, issuer, "tester", role)
		token := st.file(t, "jwt", issuer.Sign(t, map[string]any{"aud": "vault", "sub": "tester-0"}))
		return fmt.Sprintf("{method: jwt, role: tester, token_file: %q}", token), nil
	}, 0},
	{"cert", func(t *testing.T, st *realStage) (string, []string) {
		pair := realvault.SelfSigned(t, "tester.agents.test")
		st.vault.CertRole(t, "tester", pair.CertPEM, tokenRole("1h"))
		return fmt.Sprintf("{method: cert, role: tester, cert_file: %q, key_file: %q}", pair.CertFile(t), pair.KeyFile(t)), nil
	}, 0},
}

// TestRealVaultEachSource: after a login by each method, every kind of credential arrives at an
// upstream that lets in nobody without it, and at the end no lease and no token is left.
func TestRealVaultEachSource(t *testing.T) {
	t.Parallel()
	db := realvault.Postgres(t)
	for _, login := range realLogins {
		t.Run(login.name, func(t *testing.T) {
			t.Parallel()
			st := newRealStage(t, realvault.Options{TLS: true})
			auth, more := login.auth(t, st)
			var credentials, names []string
			leases := 0
			for _, source := range realSources {
				if source.name == "identity" && login.name == "token" {
					continue // a token that nobody logged in for has no identity
				}
				if source.prepare == nil {
					st.database(t, db, "1h", "1h")
				} else {
					source.prepare(t, st)
				}
				credentials = append(credentials, source.name+": {"+source.words+"}")
				names = append(names, source.name)
				if source.leased {
					leases++
				}
			}
			sv := st.serve(t, st.config(t, auth, more...), st.policy(credentials...))
			direct := st.up.client(t)
			for n, name := range names {
				url := st.url("/" + name + "/1")
				if name == "pki" || name == "sign" {
					url = strings.Replace(url, "api.test", "mutual.test", 1)
				}
				if problem := ask(agentOf(t, sv, n%2 == 1), http.MethodGet, url, ""); problem != "" {
					t.Errorf("%s: %s", name, problem)
				}
				if problem := ask(direct, http.MethodGet, url, ""); !strings.HasPrefix(problem, "401 ") && !strings.Contains(problem, "tls: certificate required") {
					t.Errorf("%s: the upstream says to who has no credential: %q", name, problem)
				}
				if accepted, refused := st.up.counts(name); accepted != 1 || refused > 1 {
					t.Errorf("%s: the upstream accepted %d credentials and refused %d", name, accepted, refused)
				}
			}
			if got := len(st.vault.Leases(t, "")); got != leases {
				t.Errorf("%d leases, want %d", got, leases)
			}
			trail := wantEnded(t, sv)
			st.wantRevoked(t, trail)
			realvault.Eventually(t, "leases and tokens to be gone", func() bool {
				return len(st.vault.Leases(t, "")) == 0 && len(st.vault.Tokens(t)) == login.left
			})
			issued := map[string]bool{}
			for _, e := range entriesOf(trail, audit.CredentialIssued) {
				issued[e.Credential] = true
			}
			if len(issued) != len(names) {
				t.Errorf("the trail has issuances of %d credentials, want %d", len(issued), len(names))
			}
		})
	}
}
