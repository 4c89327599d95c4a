package vault_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// TestRealVaultKV: both versions of KV are read as they are, and every way in which there is
// nothing to read is refused with a reason of its own.
func TestRealVaultKV(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV, `path "kv1/agents/*" { capabilities = ["read"] }`)
	srv.Mount(t, "kv1", "kv", map[string]any{"version": "1"})
	srv.Write(t, "kv1/agents/reviewer", map[string]any{"api_key": canary + "-v1", "ttl": "90s"})
	srv.KV(t, "agents/reviewer", map[string]any{"api_key": canary + "-kv-2", "user": "bot", "empty": "", "list": []string{"a"}, "lines": "a\nb"})
	srv.KV(t, "agents/deleted", map[string]any{"api_key": canary})
	srv.Must(t, "DELETE", "secret/data/agents/deleted", srv.RootToken, nil)
	srv.KV(t, "agents/destroyed", map[string]any{"api_key": canary})
	srv.Write(t, "secret/destroy/agents/destroyed", map[string]any{"versions": []int{1}})
	s := realSession(t, realAppRole(t, srv, "5m"))

	for _, tt := range []struct {
		name        string
		cfg         vault.SourceConfig
		value, user string
		version     int
		lives       time.Duration
	}{
		{"version 2", vault.SourceConfig{Path: realKV, Field: "api_key", UserField: "user", MaxAge: time.Minute}, canary + "-kv-2", "bot", 2, time.Minute},
		{"version 2, no maximum age", vault.SourceConfig{Path: realKV, Field: "api_key"}, canary + "-kv-2", "", 2, 5 * time.Minute},
		{"version 1", vault.SourceConfig{Path: "kv1/agents/reviewer", Field: "api_key", MaxAge: time.Minute}, canary + "-v1", "", 0, time.Minute},
		{"version 1, its own ttl", vault.SourceConfig{Path: "kv1/agents/reviewer", Field: "api_key"}, canary + "-v1", "", 0, 90 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			iss, id := issueAs(t, s.Source(tt.cfg))
			if text(iss.Value) != tt.value || text(iss.User) != tt.user {
				t.Error("the issuance is not what Vault holds")
			}
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != tt.lives {
				t.Errorf("lives for %v, want %v", got, tt.lives)
			}
			want := credential.Origin{Kind: "vault", Path: tt.cfg.Path, RequestID: iss.Origin.RequestID, CorrelationID: id, Version: tt.version}
			if diff := cmp.Diff(want, iss.Origin); diff != "" || iss.Origin.RequestID == "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
	for _, tt := range []struct{ name, path, field, says string }{
		{"nothing there", "secret/data/agents/none", "api_key", "404"},
		{"without data/", "secret/agents/reviewer", "api_key", "40"},
		{"no such mount", "nowhere/x", "api_key", "40"},
		{"deleted", "secret/data/agents/deleted", "api_key", "deleted"},
		{"destroyed", "secret/data/agents/destroyed", "api_key", "deleted"},
		{"not allowed", "secret/data/other", "api_key", "403"},
		{"no such field", realKV, "token", `"api_key"`},
		{"empty field", realKV, "empty", "empty"},
		{"list", realKV, "list", "neither"},
		{"several lines", realKV, "lines", "several lines"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Source(vault.SourceConfig{Path: tt.path, Field: tt.field}).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, tt.says)
		})
	}
}

// TestRealVaultDatabase: a database user is one that PostgreSQL accepts, expires with its lease,
// and is gone from Vault and from PostgreSQL when it is revoked and when the session ends.
func TestRealVaultDatabase(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadDB, mayRevokeDB)
	db := realvault.Postgres(t)
	srv.DatabaseRole(t, db, "reader", "60s", "120s")
	s := realSession(t, realAppRole(t, srv, "5m"))
	src := realDBSource(s)

	first, _ := issueAs(t, src)
	second, _ := issueAs(t, src)
	for _, iss := range []*credential.Issuance{first, second} {
		if err := db.Login(t.Context(), text(iss.User), text(iss.Value)); err != nil {
			t.Error(err)
		}
		if !srv.LeaseAlive(t, iss.Origin.LeaseID) {
			t.Errorf("lease %s is not alive", iss.Origin.LeaseID)
		}
		if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != time.Minute {
			t.Errorf("lives for %v, want 1m", got)
		}
	}

	revoke(t, src, first)
	realvault.Eventually(t, "the first lease to be gone", func() bool { return !srv.LeaseAlive(t, first.Origin.LeaseID) })
	realvault.Eventually(t, "the first user to be gone", func() bool { return len(db.Roles(t)) == 1 })
	if db.Login(t.Context(), text(first.User), text(first.Value)) == nil {
		t.Error("PostgreSQL accepts a user that was revoked")
	}
	revoke(t, src, first) // a second time does nothing

	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "database/creds/reader/")
	realvault.Eventually(t, "the second user to be gone", func() bool { return len(db.Roles(t)) == 0 })
}

// TestRealVaultLeaseDiesWithToken: a lease never lives longer than the token that obtained it,
// and the issuance says so.
func TestRealVaultLeaseDiesWithToken(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadDB, mayRevokeDB)
	db := realvault.Postgres(t)
	srv.DatabaseRole(t, db, "reader", "1h", "1h")
	s := realSession(t, realAppRole(t, srv, "20s"))
	iss, _ := issueAs(t, realDBSource(s))
	tokens := srv.Tokens(t)
	if len(tokens) != 1 {
		t.Fatalf("live tokens: %+v", tokens)
	}
	if dies := time.Now().Add(time.Duration(tokens[0].TTL) * time.Second); !near(iss.ExpiresAt, dies) {
		t.Errorf("the issuance expires in %v, its token in %v", time.Until(iss.ExpiresAt), time.Until(dies))
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "database/creds/reader/")
}

// TestRealVaultPolicy: what the sidecar's Vault policy has to say, line by line: without the
// line, that and only that does not work.
func TestRealVaultPolicy(t *testing.T) {
	t.Parallel()
	db := realvault.Postgres(t)
	for _, tt := range []struct{ name, rules, kv, database, revoke, close string }{
		{"all", mayReadKV + mayReadDB + mayRevokeDB, "none", "none", "none", "none"},
		{"no KV", mayReadDB + mayRevokeDB, "refused", "none", "none", "none"},
		{"no database", mayReadKV + mayRevokeDB, "none", "refused", "", "none"},
		// The lease then ends with its token.
		{"no revocation", mayReadKV + mayReadDB, "none", "none", "refused", "none"},
		{"list instead of read", strings.ReplaceAll(mayReadKV, "read", "list") + mayReadDB + mayRevokeDB, "refused", "none", "none", "none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := startReal(t, realvault.Options{}, tt.rules)
			srv.DatabaseRole(t, db, "reader", "60s", "60s")
			s := realSession(t, realAppRole(t, srv, "5m"))
			_, err := realKVSource(s).Issue(t.Context(), "id")
			wantKind(t, err, tt.kv)
			src := realDBSource(s)
			iss, err := src.Issue(t.Context(), "id")
			wantKind(t, err, tt.database)
			if err == nil {
				wantKind(t, src.(credential.Revoker).Revoke(t.Context(), iss), tt.revoke)
			}
			wantKind(t, s.Close(t.Context()), tt.close)
			gone(t, srv, "database/creds/reader/")
		})
	}
}

// TestRealVaultNoDefaultPolicy: revoke-self comes with the policy "default"; a role without it
// needs a line of its own, and the session's end says that the token is still there.
func TestRealVaultNoDefaultPolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, rules, close string
		left               int
	}{
		{"without", mayReadKV, "refused", 1},
		{"with a line", mayReadKV + `path "auth/token/revoke-self" { capabilities = ["update"] }`, "none", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := startReal(t, realvault.Options{}, tt.rules)
			role := reviewerRole("5m")
			role["token_no_default_policy"] = true
			roleID, secretID := srv.AppRole(t, "bare", role)
			s := realSession(t, realConfig(t, srv, vault.Auth{Method: "approle", RoleID: roleID, SecretIDFile: file(t, secretID)}, secretID))
			issueAs(t, realKVSource(s))
			wantKind(t, s.Close(t.Context()), tt.close)
			if left := srv.Tokens(t); len(left) != tt.left {
				t.Errorf("%d live tokens, want %d", len(left), tt.left)
			}
		})
	}
}

// TestRealVaultAWS: keys of an IAM user end with their lease; those of STS have one too, which
// Vault cannot revoke, and end in their own time.
func TestRealVaultAWS(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{},
		`path "aws/creds/user" { capabilities = ["read"] }`,
		`path "aws/sts/assumed" { capabilities = ["read", "update"] }`,
		`path "sys/leases/revoke/aws/*" { capabilities = ["update"] }`)
	aws := realvault.StartAWS(t)
	srv.AWSRoles(t, aws)
	s := realSession(t, realAppRole(t, srv, "1h"))
	const sessionName = "deploy-run-7.0a1b2c3d-ann_example.com,=@+_-0123456789abcdefghijk" // 64, of all that AWS takes
	for _, tt := range []struct {
		name  string
		cfg   vault.SourceConfig
		lives time.Duration
		ends  bool // with its lease
	}{
		{"IAM user", vault.SourceConfig{Path: "aws/creds/user"}, time.Minute, true},
		{"STS", vault.SourceConfig{Path: "aws/sts/assumed"}, 15 * time.Minute, false},
		{"STS, written", vault.SourceConfig{Path: "aws/sts/assumed", Write: true, Data: map[string]any{"ttl": "15m", "role_session_name": sessionName}}, 15 * time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Field, tt.cfg.UserField = "secret_key", "access_key"
			src := s.Source(tt.cfg)
			iss, _ := issueAs(t, src)
			if !aws.Accepts(text(iss.User), text(iss.Value)) {
				t.Error("AWS does not accept the keys")
			}
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got > tt.lives || got < tt.lives-3*time.Second {
				t.Errorf("lives for %v, want %v", got, tt.lives)
			}
			revoke(t, src, iss)
			realvault.Eventually(t, "the lease to be gone", func() bool { return !srv.LeaseAlive(t, iss.Origin.LeaseID) })
			if aws.Accepts(text(iss.User), text(iss.Value)) == tt.ends {
				t.Errorf("after the lease the keys work: %v", tt.ends)
			}
		})
	}
	if got := aws.RoleSessions(); len(got) != 2 || got[1] != sessionName {
		t.Errorf("AWS knows the role sessions %q, want the second to be %q", got, sessionName)
	}
	issueAs(t, s.Source(vault.SourceConfig{Path: "aws/creds/user", Field: "secret_key"}))
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "aws/")
	realvault.Eventually(t, "the IAM user to be gone", func() bool { return aws.Users() == 0 })
}
