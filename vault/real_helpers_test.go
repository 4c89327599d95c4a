package vault_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// What the sidecar's Vault policy has to say for the paths of these tests.
const (
	mayReadKV   = `path "secret/data/agents/*" { capabilities = ["read"] }`
	mayReadDB   = `path "database/creds/reader" { capabilities = ["read"] }`
	mayRevokeDB = `path "sys/leases/revoke/database/creds/reader/*" { capabilities = ["update"] }`
)

// realKV is the KV version 2 secret that startReal writes.
const realKV = "secret/data/agents/reviewer"

// startReal starts a Vault with the policy "reviewer" and the secret realKV.
func startReal(t *testing.T, opts realvault.Options, rules ...string) *realvault.Server {
	t.Helper()
	srv := realvault.Start(t, opts)
	srv.Policy(t, "reviewer", strings.Join(rules, "\n"))
	srv.KV(t, "agents/reviewer", map[string]any{"api_key": canary + "-kv"})
	return srv
}

// realAppRole returns a config that logs in with an AppRole that has the policy "reviewer" and
// tokens that live for ttl.
func realAppRole(t *testing.T, srv *realvault.Server, ttl string) vault.Config {
	t.Helper()
	roleID, secretID := srv.AppRole(t, "reviewer", reviewerRole(ttl))
	return realConfig(t, srv, vault.Auth{Method: "approle", RoleID: roleID, SecretIDFile: file(t, secretID)}, secretID)
}

// reviewerRole is the part of a role that all auth methods share.
func reviewerRole(ttl string) map[string]any {
	return map[string]any{"token_policies": "reviewer", "token_ttl": ttl, "token_max_ttl": ttl}
}

// realConfig returns a config for srv whose log must hold no canary and none of secrets.
func realConfig(t *testing.T, srv *realvault.Server, auth vault.Auth, secrets ...string) vault.Config {
	t.Helper()
	log := new(logBuffer)
	t.Cleanup(func() {
		for _, secret := range append(secrets, canary, srv.RootToken, "hvs.") {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log holds a secret")
			}
		}
	})
	return vault.Config{Address: srv.Addr, CACertPEM: srv.CACertPEM, Auth: auth, Log: zerolog.New(log)}
}

// realSession returns a session that is logged in, and closed when the test ends, at the latest.
func realSession(t *testing.T, cfg vault.Config) *vault.Session {
	t.Helper()
	s := open(t, cfg)
	t.Cleanup(func() { _ = s.Close(within(t, 10*time.Second)) })
	login(t, s)
	return s
}

// issueAs obtains an issuance under an id of its own and returns both.
func issueAs(t *testing.T, src credential.Source) (iss *credential.Issuance, id string) {
	t.Helper()
	id = uuid.NewString()
	iss, err := src.Issue(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return iss, id
}

// kind names the sentinel that err wraps.
func kind(err error) string {
	switch {
	case err == nil:
		return "none"
	case errors.Is(err, credential.ErrRefused):
		return "refused"
	case errors.Is(err, credential.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, credential.ErrClosed):
		return "closed"
	}
	return "other"
}

// wantKind checks the kind of err, and that it holds no secret.
func wantKind(t *testing.T, err error, want string) {
	t.Helper()
	if got := kind(err); got != want {
		t.Errorf("error %v is %s, want %s", err, got, want)
	}
	if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "hvs.")) {
		t.Errorf("error %q holds a secret", err)
	}
}

// gone waits until Vault knows neither the session's leases below prefix nor its tokens. Vault
// revokes what hangs on a token within 250 ms, after it has answered.
func gone(t *testing.T, srv *realvault.Server, prefix string) {
	t.Helper()
	realvault.Eventually(t, "leases and tokens to be gone", func() bool {
		return len(srv.Leases(t, prefix)) == 0 && len(srv.Tokens(t)) == 0
	})
}

// entries returns the audit entries that belong to the correlation id.
func entries(t *testing.T, srv *realvault.Server, correlation string) []realvault.AuditEntry {
	t.Helper()
	return slices.DeleteFunc(srv.AuditEntries(t), func(e realvault.AuditEntry) bool {
		return e.Correlation() != correlation
	})
}

// logins returns how many logins at auth/mount Vault granted.
func logins(t *testing.T, srv *realvault.Server, mount string) int {
	t.Helper()
	n := 0
	for _, e := range srv.AuditEntries(t) {
		if e.Type == "response" && e.Request.Path == "auth/"+mount+"/login" && e.Error == "" {
			n++
		}
	}
	return n
}

// near reports whether got is want, give or take a second and a half: Vault's TTLs are cut to
// whole seconds.
func near(got, want time.Time) bool { return got.Sub(want).Abs() <= 1500*time.Millisecond }

func realKVSource(s *vault.Session) credential.Source {
	return s.Source(vault.SourceConfig{Path: realKV, Field: "api_key", MaxAge: time.Minute})
}

func realDBSource(s *vault.Session) credential.Source {
	return s.Source(vault.SourceConfig{Path: "database/creds/reader", Field: "password", UserField: "username"})
}

func text(s credential.Secret) string { return string(s.Expose()) }
