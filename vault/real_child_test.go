package vault_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

const (
	mayMakeChild  = `path "auth/token/create/sidekey-session" { capabilities = ["update"] }`
	mayRevokeSelf = `path "auth/token/revoke-self" { capabilities = ["update"] }`
)

// sessionMeta is what a session says of itself.
func sessionMeta() map[string]string {
	return map[string]string{"agent_role": "reviewer", "session_id": "s-42", "requested_by": "ada", "pod_uid": "uid-1"}
}

// TestRealVaultChildToken: with a token role every call after the login is made with a child whose
// metadata names the session, in clear, in Vault's audit log; when the session ends or the
// operator revokes it, neither child nor parent nor lease is left.
func TestRealVaultChildToken(t *testing.T) {
	t.Parallel()
	db := realvault.Postgres(t)
	for _, orphan := range []bool{false, true} {
		t.Run(map[bool]string{false: "child", true: "orphan"}[orphan], func(t *testing.T) {
			t.Parallel()
			srv := startReal(t, realvault.Options{}, mayReadKV, mayReadDB, mayRevokeDB, mayMakeChild)
			srv.DatabaseRole(t, db, "reader", "60s", "60s")
			srv.Write(t, "auth/token/roles/sidekey-session", map[string]any{"allowed_policies": "reviewer", "orphan": orphan})
			cfg := realAppRole(t, srv, "5m")
			cfg.SessionTokenRole, cfg.Meta = "sidekey-session", sessionMeta()
			s := realSession(t, cfg)
			iss, _ := issueAs(t, realDBSource(s))

			for _, e := range entries(t, srv, iss.Origin.CorrelationID) {
				if diff := cmp.Diff(sessionMeta(), e.Auth.Metadata); diff != "" {
					t.Errorf("metadata in the audit log (-want +got):\n%s", diff)
				}
			}
			tokens := srv.Tokens(t)
			if len(tokens) != 2 {
				t.Fatalf("live tokens %+v, want a parent and a child", tokens)
			}
			for _, token := range tokens {
				if child := token.Path == "auth/token/create/sidekey-session"; child != (token.Meta["session_id"] == "s-42") || child && token.Orphan != orphan {
					t.Errorf("token %+v", token)
				}
				if token.TTL > 301 {
					t.Errorf("%s lives for %d s", token.Path, token.TTL)
				}
			}
			if st := s.Status(); !st.LoggedIn || st.Tokens != 2 || st.Leases != 1 || st.Generation != 1 {
				t.Errorf("status %+v, want two tokens and a lease", st)
			}
			srv.RevokeTokens(t)
			issueAs(t, realDBSource(s))
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			gone(t, srv, "database/creds/reader/")
		})
	}
}

// TestRealVaultChildTokenRefused: why a child token is not to be had, and that its parent is then
// revoked.
func TestRealVaultChildTokenRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, rules, says string
		role              map[string]any // of the login
	}{
		{"no such token role", `path "auth/token/create/*" { capabilities = ["update"] }`, "token role", nil},
		{"not allowed", mayReadKV, "auth/token/create/sidekey-session", nil},
		{"batch token", mayMakeChild, "batch", map[string]any{"token_type": "batch"}},
		{"limited uses", mayMakeChild + mayRevokeSelf, "", map[string]any{"token_num_uses": 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := startReal(t, realvault.Options{}, tt.rules)
			if tt.name != "no such token role" {
				srv.Write(t, "auth/token/roles/sidekey-session", map[string]any{"allowed_policies": "reviewer"})
			}
			role := reviewerRole("5m")
			for k, v := range tt.role {
				role[k] = v
			}
			roleID, secretID := srv.AppRole(t, "odd", role)
			cfg := realConfig(t, srv, vault.Auth{Method: "approle", RoleID: roleID, SecretIDFile: file(t, secretID)}, secretID)
			cfg.SessionTokenRole = "sidekey-session"
			s := open(t, cfg)
			wantError(t, s.Login(t.Context()), credential.ErrRefused, tt.says)
			gone(t, srv, "secret/")
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRealVaultChildNoDefaultPolicy: a token role without the default policy makes a child that
// may not revoke itself; it ends with its parent.
func TestRealVaultChildNoDefaultPolicy(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV, mayMakeChild)
	srv.Write(t, "auth/token/roles/sidekey-session", map[string]any{"allowed_policies": "reviewer", "token_no_default_policy": true})
	cfg := realAppRole(t, srv, "5m")
	cfg.SessionTokenRole = "sidekey-session"
	s := realSession(t, cfg)
	issueAs(t, realKVSource(s))
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "secret/")
}

// TestRealVaultLoginMetadata: what Vault says of a login, by claim_mappings, is compared with what
// the session says of itself; a login that contradicts it is refused and its token revoked.
func TestRealVaultLoginMetadata(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	issuer := realvault.NewIssuer(t)
	srv.JWTRole(t, issuer, "reviewer", reviewerJWT())
	both := map[string]any{"aud": "vault", "sub": "pod-1", "agent_role": "reviewer", "pod_uid": "uid-1"}
	one := map[string]any{"aud": "vault", "sub": "pod-1", "agent_role": "reviewer"}
	for _, tt := range []struct {
		name   string
		claims map[string]any
		expect map[string]string
		need   []string
		says   string // of the refusal; empty if the login is to work
	}{
		{"agrees", both, sessionMeta(), []string{"agent_role", "pod_uid"}, ""},
		{"contradicts", both, map[string]string{"pod_uid": "uid-2"}, nil, "pod_uid"},
		{"left out, not required", one, map[string]string{"pod_uid": "uid-1"}, nil, ""},
		{"left out, required", one, map[string]string{"pod_uid": "uid-1"}, []string{"pod_uid"}, "pod_uid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := issuer.Sign(t, tt.claims)
			cfg := realConfig(t, srv, vault.Auth{Method: "jwt", Role: "reviewer", TokenFile: file(t, token)}, token)
			cfg.Expect, cfg.Require = tt.expect, tt.need
			var mu sync.Mutex
			var told []vault.Login
			cfg.OnLogin = func(l vault.Login) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, l)
			}
			s := open(t, cfg)
			err := s.Login(t.Context())
			mu.Lock()
			defer mu.Unlock()
			if tt.says != "" {
				wantError(t, err, credential.ErrRefused, tt.says)
				if len(told) != 0 {
					t.Errorf("told of %+v", told)
				}
				gone(t, srv, "secret/") // before Close
			} else if err != nil {
				t.Error(err)
			} else if len(told) != 1 || told[0].Metadata["agent_role"] != "reviewer" || told[0].Metadata["role"] != "reviewer" ||
				told[0].Generation != 1 || !near(told[0].ExpiresAt, time.Now().Add(5*time.Minute)) {
				t.Errorf("told of %+v", told)
			}
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
			gone(t, srv, "secret/")
		})
	}
}

// TestRealVaultKubernetesMetadata: the service account that Vault verified is in the metadata.
func TestRealVaultKubernetesMetadata(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	c := realvault.StartCluster(t)
	srv.KubernetesRole(t, c, "reviewer", reviewerCluster())
	token := c.ServiceAccountToken(t, "agents", "reviewer", "vault")
	cfg := realConfig(t, srv, vault.Auth{Method: "kubernetes", Role: "reviewer", TokenFile: file(t, token)}, token)
	cfg.Expect = map[string]string{"service_account_name": "reviewer", "service_account_namespace": "agents"}
	cfg.Require = []string{"service_account_name", "service_account_namespace"}
	s := realSession(t, cfg)
	if c.Reviews() != 1 {
		t.Errorf("%d token reviews, want 1", c.Reviews())
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRealVaultWrappedSecretID: a wrapped SecretID is unwrapped once and good for every login that
// follows; a wrapping token that does not hold the SecretID any more, or never did, is reported.
func TestRealVaultWrappedSecretID(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	roleID, _ := srv.AppRole(t, "reviewer", reviewerRole("5m"))
	start := func(t *testing.T, wrapping string) *vault.Session {
		return open(t, realConfig(t, srv, vault.Auth{
			Method: "approle", RoleID: roleID, SecretIDFile: file(t, wrapping), SecretIDWrapped: true,
		}, wrapping))
	}

	wrapping := srv.WrappedSecretID(t, "reviewer", "60s")
	s := start(t, wrapping)
	login(t, s)
	srv.RevokeTokens(t)
	issueAs(t, realKVSource(s))
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	n := 0
	for _, e := range srv.AuditEntries(t) {
		if e.Type == "response" && e.Request.Path == "sys/wrapping/unwrap" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("unwrapped %d times, want once", n)
	}

	expired := srv.WrappedSecretID(t, "reviewer", "1s")
	realvault.Eventually(t, "the wrapping token to expire", func() bool {
		status, _ := srv.Call(t, "POST", "sys/wrapping/lookup", "", map[string]any{"token": expired})
		return status != 200
	})
	stolen := srv.WrappedSecretID(t, "reviewer", "60s")
	srv.Must(t, "POST", "sys/wrapping/unwrap", stolen, nil)
	foreign := srv.Wrapped(t, "sys/wrapping/wrap", "60s", map[string]any{"secret_id": "x"})
	for _, tt := range []struct{ name, token, says string }{
		{"used by this session before", wrapping, "intercepted"},
		{"used by someone else", stolen, "intercepted"},
		{"expired", expired, "expired"},
		{"made by someone else", foreign, "sys/wrapping/wrap"},
		{"never one", "hvs.none", "intercepted"},
		{"a token that is none", srv.RootToken, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, tt.token)
			wantError(t, s.Login(t.Context()), credential.ErrRefused, tt.says)
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	if tokens := srv.Tokens(t); slices.ContainsFunc(tokens, func(tok realvault.Token) bool { return tok.Path == "auth/approle/login" }) {
		t.Errorf("live tokens %+v", tokens)
	}
}
