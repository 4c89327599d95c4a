package vault_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// An endpoint is a Vault, real or not, that the same calls are made to.
type endpoint struct {
	url            string
	root           string
	roleID, secret string // of an AppRole whose tokens live for 5 minutes
	serviceAccount string // token for the Kubernetes role "reviewer"
	jwt            string // for the JWT role "reviewer"
	wrapping       string // token that wraps a SecretID
	token, lease   string // what earlier calls brought
	client         *http.Client
}

// standIns returns the real Vault and the stand-in, set up alike.
func standIns(t *testing.T) (truth, standIn *endpoint) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	srv := startReal(t, realvault.Options{}, mayReadKV, mayReadDB, mayRevokeDB,
		`path "auth/token/create/*" { capabilities = ["update"] }`, `path "kv1/*" { capabilities = ["read"] }`, `path "secret/data/none" { capabilities = ["read"] }`)
	db := realvault.Postgres(t)
	srv.DatabaseRole(t, db, "reader", "600s", "600s")
	srv.Mount(t, "kv1", "kv", map[string]any{"version": "1"})
	srv.Write(t, "kv1/x", map[string]any{"api_key": canary + "-kv"})
	srv.KV(t, "agents/deleted", map[string]any{"api_key": canary})
	srv.Must(t, "DELETE", "secret/data/agents/deleted", srv.RootToken, nil)
	c := realvault.StartCluster(t)
	srv.KubernetesRole(t, c, "reviewer", reviewerCluster())
	truth = &endpoint{url: srv.Addr, root: srv.RootToken, client: client}
	truth.roleID, truth.secret = srv.AppRole(t, "reviewer", reviewerRole("5m"))
	truth.serviceAccount = c.ServiceAccountToken(t, "agents", "reviewer", "vault")
	issuer := realvault.NewIssuer(t)
	srv.JWTRole(t, issuer, "reviewer", reviewerJWT())
	truth.jwt = issuer.Sign(t, map[string]any{"aud": "vault", "sub": "pod-1", "agent_role": "reviewer", "pod_uid": "uid-1"})
	truth.wrapping = srv.WrappedSecretID(t, "reviewer", "60s")
	srv.Write(t, "auth/token/roles/sidekey-session", map[string]any{"allowed_policies": "reviewer"})
	srv.Write(t, "auth/token/roles/bare", map[string]any{"allowed_policies": "reviewer", "token_no_default_policy": true})

	fake := vaulttest.Start(t)
	fake.AddAppRole("approle", "reviewer", canary, 5*time.Minute)
	fake.AddKubernetesRole("kubernetes", "reviewer", canary+"-sa", 5*time.Minute)
	fake.PutKV(realKV, map[string]any{"api_key": canary + "-kv"})
	fake.PutKV("secret/data/agents/deleted", map[string]any{"api_key": canary})
	fake.DeleteKV("secret/data/agents/deleted")
	fake.PutKV1("kv1/x", map[string]any{"api_key": canary + "-kv"})
	fake.AddDynamic("database/creds/reader", 10*time.Minute, func(int) map[string]string {
		return map[string]string{"username": "u", "password": canary}
	})
	fake.AddJWTRole("jwt", canary+"-jwt", vaulttest.Role{Name: "reviewer", TTL: 5 * time.Minute, Metadata: map[string]string{
		"role": "reviewer", "agent_role": "reviewer", "pod_uid": "uid-1",
	}})
	fake.AddTokenRole(vaulttest.Role{Name: "sidekey-session", TTL: 5 * time.Minute})
	fake.AddTokenRole(vaulttest.Role{Name: "bare", TTL: 5 * time.Minute, NoDefault: true})
	fake.Deny("secret/data/other")
	standIn = &endpoint{
		url: fake.URL(), root: fake.RootToken(), client: client, roleID: "reviewer", secret: canary,
		serviceAccount: canary + "-sa", jwt: canary + "-jwt",
		wrapping: fake.Wrap("auth/approle/role/reviewer/secret-id", map[string]any{"secret_id": canary}, time.Minute),
	}
	return truth, standIn
}

// call makes one call and returns the status and the reply, flattened: where each value is, and
// what it is.
func (e *endpoint) call(t *testing.T, method, path, token string, body map[string]any) (int, map[string]string) {
	t.Helper()
	var r io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, e.url+"/v1/"+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &reply); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type %q", e.url, got)
		}
	}
	e.keep(reply)
	flat := map[string]string{}
	flatten(flat, "", reply)
	return resp.StatusCode, flat
}

// keep takes note of a token and a lease for the calls that follow.
func (e *endpoint) keep(reply any) {
	m, _ := reply.(map[string]any)
	if id, _ := m["lease_id"].(string); id != "" {
		e.lease = id
	}
	auth, _ := m["auth"].(map[string]any)
	if token, _ := auth["client_token"].(string); token != "" {
		e.token = token
	}
}

// volatile are the fields of which only the type can be compared: they are random, are moments,
// or are names that the two setups do not share.
var volatile = []string{
	"request_id", "lease_id", "client_token", "accessor", "id", "entity_id", "created_time", "deletion_time", "creation_time",
	"expire_time", "issue_time", "last_renewal", "username", "password", "display_name", "ttl", "version", "server_time_utc",
	"cluster_id", "cluster_name", "creation_ttl", "secret_id", "client_id", "token", "signature", "certificate", "private_key",
	"issuing_ca", "serial_number", "expiration",
}

func flatten(to map[string]string, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		to[at] = "object"
		for k, inner := range v {
			flatten(to, strings.TrimPrefix(at+"."+k, "."), inner)
		}
	case []any:
		to[at] = "list"
	case nil:
		to[at] = "null"
	default:
		to[at] = fmt.Sprintf("%T %v", v, v)
		if seconds, ok := v.(float64); ok && at == "lease_duration" { // a second less where it ends with a certificate
			to[at] = fmt.Sprintf("about %v", math.Round(seconds/10)*10)
		}
		if slices.Contains(volatile, at[strings.LastIndex(at, ".")+1:]) {
			to[at] = fmt.Sprintf("%T", v)
			if v == "" {
				to[at] += ", empty"
			}
		}
	}
}

// TestRealVaultStandIn: the stand-in of package vaulttest answers each call with the status of the
// real Vault, and says nothing that the real one does not say in the same place.
func TestRealVaultStandIn(t *testing.T) {
	t.Parallel()
	truth, standIn := standIns(t)
	child := func(*endpoint) map[string]any {
		return map[string]any{"meta": map[string]string{"session_id": "s-42"}, "renewable": false, "display_name": "sidekey", "ttl": "300s"}
	}
	compare(t, truth, standIn, []probe{
		{"health", "GET", "sys/health", "", nil},
		{"approle: wrong SecretID", "POST", "auth/approle/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": "wrong"}
		}},
		{"kubernetes: wrong role", "POST", "auth/kubernetes/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role": "wrong", "jwt": e.serviceAccount}
		}},
		{"kubernetes: not a JWT", "POST", "auth/kubernetes/login", "", func(*endpoint) map[string]any {
			return map[string]any{"role": "reviewer", "jwt": "wrong"}
		}},
		{"no such auth mount", "POST", "auth/nowhere/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": e.secret}
		}},
		{"kubernetes", "POST", "auth/kubernetes/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role": "reviewer", "jwt": e.serviceAccount}
		}},
		{"approle", "POST", "auth/approle/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": e.secret}
		}},
		{"approle by PUT", "PUT", "auth/approle/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": e.secret}
		}},
		{"jwt: wrong role", "POST", "auth/jwt/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role": "wrong", "jwt": e.jwt}
		}},
		{"jwt: not a JWT", "POST", "auth/jwt/login", "", func(*endpoint) map[string]any {
			return map[string]any{"role": "reviewer", "jwt": "wrong"}
		}},
		{"jwt", "POST", "auth/jwt/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role": "reviewer", "jwt": e.jwt}
		}},
		{"wrapping: look up", "POST", "sys/wrapping/lookup", "", func(e *endpoint) map[string]any {
			return map[string]any{"token": e.wrapping}
		}},
		{"wrapping: look up what is none", "POST", "sys/wrapping/lookup", "", func(*endpoint) map[string]any {
			return map[string]any{"token": "hvs.none"}
		}},
		{"wrapping: unwrap", "POST", "sys/wrapping/unwrap", "wrapping", func(*endpoint) map[string]any { return map[string]any{} }},
		{"wrapping: unwrap again", "POST", "sys/wrapping/unwrap", "wrapping", func(*endpoint) map[string]any { return map[string]any{} }},
		{"wrapping: look up what was used", "POST", "sys/wrapping/lookup", "", func(e *endpoint) map[string]any {
			return map[string]any{"token": e.wrapping}
		}},
		{"lookup-self", "GET", "auth/token/lookup-self", "own", nil},
		{"lookup-self of root", "GET", "auth/token/lookup-self", "root", nil},
		{"lookup-self without a token", "GET", "auth/token/lookup-self", "", nil},
		{"lookup-self of no token", "GET", "auth/token/lookup-self", "hvs.none", nil},
		{"KV version 2", "GET", realKV, "own", nil},
		{"KV version 2, deleted", "GET", "secret/data/agents/deleted", "own", nil},
		{"KV version 2, nothing there", "GET", "secret/data/agents/none", "own", nil},
		{"KV version 1", "GET", "kv1/x", "own", nil},
		{"KV version 1, nothing there", "GET", "kv1/none", "own", nil},
		{"not allowed", "GET", "secret/data/other", "own", nil},
		{"no token", "GET", realKV, "", nil},
		{"unknown token", "GET", realKV, "hvs.none", nil},
		{"database", "GET", "database/creds/reader", "own", nil},
		{"revoke lease by URL", "PUT", "sys/leases/revoke/LEASE", "own", nil},
		{"revoke lease again", "PUT", "sys/leases/revoke/LEASE", "own", nil},
		{"revoke lease that never was", "PUT", "sys/leases/revoke/database/creds/reader/none", "own", nil},
		{"child: no such token role", "POST", "auth/token/create/wrong", "own", child},
		{"child", "POST", "auth/token/create/sidekey-session", "own", child},
		{"child: look up", "GET", "auth/token/lookup-self", "own", nil},
		{"revoke-self", "POST", "auth/token/revoke-self", "own", nil},
		{"revoke-self again", "POST", "auth/token/revoke-self", "own", nil},
		{"read with a revoked token", "GET", realKV, "own", nil},
		{"approle once more", "POST", "auth/approle/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": e.secret}
		}},
		{"child without the default policy", "POST", "auth/token/create/bare", "own", child},
		{"revoke-self without the default policy", "POST", "auth/token/revoke-self", "own", nil},
	})
}

// TestRealVaultStandInEngines is the same for the secrets engines that sign.
func TestRealVaultStandInEngines(t *testing.T) {
	t.Parallel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	srv := startReal(t, realvault.Options{},
		`path "pki/*" { capabilities = ["read", "update"] }`, `path "transit/sign/*" { capabilities = ["read", "update"] }`,
		`path "identity/oidc/token/*" { capabilities = ["read", "update"] }`)
	truth := &endpoint{url: srv.Addr, client: client}
	truth.roleID, truth.secret = srv.AppRole(t, "reviewer", reviewerRole("5m"))
	srv.PKI(t, "agent", "60s")
	srv.IdentityToken(t, "reviewer", "60s", "")
	srv.Mount(t, "transit", "transit", nil)

	fake := vaulttest.Start(t)
	standIn := &endpoint{url: fake.URL(), client: client, roleID: "reviewer", secret: canary}
	fake.AddAppRole("approle", "reviewer", canary, 5*time.Minute)
	if _, err := fake.AddPKI("pki", "agent", vaulttest.PKI{TTL: time.Minute, Lease: true}); err != nil {
		t.Fatal(err)
	}
	if err := fake.AddIdentityRole("reviewer", time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, keyType := range []string{"rsa-2048", "ecdsa-p256", "ecdsa-p384", "ed25519"} {
		srv.Write(t, "transit/keys/"+keyType, map[string]any{"type": keyType})
		if _, err := fake.AddTransitKey("transit", keyType, keyType); err != nil {
			t.Fatal(err)
		}
	}

	fixed := func(body map[string]any) func(*endpoint) map[string]any {
		return func(*endpoint) map[string]any { return body }
	}
	name := map[string]any{"common_name": "reviewer.example.test"}
	short, long := make([]byte, 32), make([]byte, 48)
	probes := []probe{
		{"approle", "POST", "auth/approle/login", "", func(e *endpoint) map[string]any {
			return map[string]any{"role_id": e.roleID, "secret_id": e.secret}
		}},
		{"pki: issue", "PUT", "pki/issue/agent", "own", fixed(name)},
		{"pki: issue by POST", "POST", "pki/issue/agent", "own", fixed(name)},
		{"pki: issue without a name", "PUT", "pki/issue/agent", "own", fixed(map[string]any{})},
		{"pki: issue is no read", "GET", "pki/issue/agent", "own", nil},
		{"pki: sign without a request", "PUT", "pki/sign/agent", "own", fixed(name)},
		{"pki: sign what is none", "PUT", "pki/sign/agent", "own", fixed(map[string]any{"common_name": "reviewer.example.test", "csr": "x"})},
		{"identity", "GET", "identity/oidc/token/reviewer", "own", nil},
		{"identity is no write", "PUT", "identity/oidc/token/reviewer", "own", fixed(map[string]any{})},
		{"transit is no read", "GET", "transit/sign/rsa-2048", "own", nil},
		{"transit: malformed input", "PUT", "transit/sign/rsa-2048", "own", fixed(map[string]any{"input": "***"})},
	}
	for _, keyType := range []string{"rsa-2048", "ecdsa-p256", "ecdsa-p384", "ed25519"} {
		for _, how := range []map[string]any{
			{"input": []byte("x")},
			{"input": []byte("x"), "marshaling_algorithm": "jws", "hash_algorithm": "sha2-256"},
			{"input": short, "prehashed": true, "marshaling_algorithm": "jws", "hash_algorithm": "sha2-256"},
			{"input": long, "prehashed": true, "marshaling_algorithm": "jws", "hash_algorithm": "sha2-384"},
			{"input": short, "prehashed": true, "signature_algorithm": "pkcs1v15", "hash_algorithm": "sha2-256"},
			{"input": short, "prehashed": true, "signature_algorithm": "pss", "salt_length": "hash", "hash_algorithm": "sha2-256"},
		} {
			about := []string{keyType}
			for _, k := range slices.Sorted(maps.Keys(how)) {
				if k != "input" {
					about = append(about, fmt.Sprint(how[k]))
				}
			}
			probes = append(probes, probe{"transit: " + strings.Join(about, " "), "PUT", "transit/sign/" + keyType, "own", fixed(how)})
		}
	}
	compare(t, truth, standIn, probes)
}

// A probe is one call.
type probe struct {
	name, method, path string
	token              string // "own", "root", "wrapping", or the token itself
	body               func(e *endpoint) map[string]any
}

// compare makes the calls to both and reports what the stand-in answers otherwise than Vault.
func compare(t *testing.T, truth, standIn *endpoint, probes []probe) {
	t.Helper()
	for _, tt := range probes {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(e *endpoint) (int, map[string]string) {
				token := map[string]string{"own": e.token, "root": e.root, "wrapping": e.wrapping}[tt.token]
				if token == "" {
					token = tt.token
				}
				var body map[string]any
				if tt.body != nil {
					body = tt.body(e)
				}
				return e.call(t, tt.method, strings.ReplaceAll(tt.path, "LEASE", e.lease), token, body)
			}
			wantStatus, want := ask(truth)
			status, got := ask(standIn)
			if status != wantStatus {
				t.Errorf("status %d, Vault's is %d", status, wantStatus)
			}
			for _, at := range slices.Sorted(maps.Keys(got)) {
				if inVault, ok := want[at]; !ok {
					t.Errorf("%s: %s, Vault has no such thing", at, got[at])
				} else if inVault != got[at] {
					t.Errorf("%s: %s, Vault has %s", at, got[at], inVault)
				}
			}
			for _, at := range []string{"request_id", "errors", "data", "auth", "lease_id", "lease_duration"} {
				if _, ok := got[at]; want[at] != "" && !ok {
					t.Errorf("%s is missing, Vault has %s", at, want[at])
				}
			}
		})
	}
}
