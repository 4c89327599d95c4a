package vault_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// TestRealVaultRevokedBehindOurBack: when an operator revokes the session's token, all who then
// ask share one login; a path that is not allowed costs one login and no more.
func TestRealVaultRevokedBehindOurBack(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	s := realSession(t, realAppRole(t, srv, "5m"))
	src := realKVSource(s)
	issueAs(t, src)
	srv.RevokeTokens(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := src.Issue(t.Context(), "id"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := logins(t, srv, "approle"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}

	_, err := s.Source(vault.SourceConfig{Path: "secret/data/other", Field: "x"}).Issue(t.Context(), "id")
	wantKind(t, err, "refused")
	if n := logins(t, srv, "approle"); n > 3 {
		t.Errorf("%d logins, want at most 3", n)
	}
	issueAs(t, src)
}

// TestRealVaultSealed: a sealed Vault is unavailable, and the session goes on under the same
// token when it is unsealed.
func TestRealVaultSealed(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	s := realSession(t, realAppRole(t, srv, "5m"))
	src := realKVSource(s)
	issueAs(t, src)
	before := srv.Tokens(t)

	srv.Seal(t)
	_, err := src.Issue(t.Context(), "id")
	wantKind(t, err, "unavailable")
	if !s.Ready() {
		t.Error("not ready, though the token has not expired")
	}
	srv.Unseal(t)
	issueAs(t, src)
	after := srv.Tokens(t)
	if len(before) != 1 || len(after) != 1 || before[0].Accessor != after[0].Accessor {
		t.Error("another token than before the seal")
	}
}

// TestRealVaultDown: a Vault that refuses connections, and one that accepts them and says
// nothing, are unavailable within the call's timeout; the session goes on under the same token.
func TestRealVaultDown(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	cfg := realAppRole(t, srv, "5m")
	cfg.CallTimeout = 500 * time.Millisecond
	s := realSession(t, cfg)
	src := realKVSource(s)
	issueAs(t, src)

	srv.Down(t)
	_, err := src.Issue(t.Context(), "id")
	wantKind(t, err, "unavailable")
	srv.Up(t)
	issueAs(t, src)

	srv.Stop(t)
	began := time.Now()
	_, err = src.Issue(t.Context(), "id")
	wantKind(t, err, "unavailable")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a Vault that hangs took %v", took)
	}
	srv.Cont(t)
	issueAs(t, src)
	if n := logins(t, srv, "approle"); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// TestRealVaultFirstLoginWaits: the first login waits for a Vault that is sealed.
func TestRealVaultFirstLoginWaits(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	s := open(t, realAppRole(t, srv, "5m"))
	srv.Seal(t)
	done := make(chan error, 1)
	go func() { done <- s.Login(t.Context()) }()
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantKind(t, s.Login(short), "unavailable")
	srv.Unseal(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
	issueAs(t, realKVSource(s))
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "secret/")
}

// TestRealVaultRateLimited: Vault's own quota answers 429; that is unavailable, not refused.
func TestRealVaultRateLimited(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV)
	s := realSession(t, realAppRole(t, srv, "5m"))
	srv.Write(t, "sys/quotas/rate-limit/kv", map[string]any{"path": "secret/", "rate": 1, "interval": "30s"})
	src := realKVSource(s)
	issueAs(t, src)
	_, err := src.Issue(t.Context(), "id")
	wantError(t, err, credential.ErrUnavailable, "429")
}

// TestRealVaultUpkeep: over several generations of tokens the session always has a valid one,
// revokes each that nothing needs any more, and leaves nothing.
func TestRealVaultUpkeep(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV, mayReadDB, mayRevokeDB)
	db := realvault.Postgres(t)
	srv.DatabaseRole(t, db, "reader", "60s", "60s")
	s := realSession(t, realAppRole(t, srv, "4s"))
	stop := run(t, s)
	defer stop()
	first, _ := issueAs(t, realDBSource(s))
	lease := first.Origin.LeaseID

	// The lease keeps its token: it is revoked only when it is given up.
	realvault.Eventually(t, "a second token", func() bool { return len(srv.Tokens(t)) == 2 })
	if alive := srv.LeaseAlive(t, lease); !alive && time.Now().Before(first.ExpiresAt) {
		t.Error("the lease went with a token that was replaced")
	}
	revoke(t, realDBSource(s), first)
	realvault.Eventually(t, "the first token to be revoked", func() bool { return len(srv.Tokens(t)) == 1 })

	realvault.Eventually(t, "four generations", func() bool {
		issueAs(t, realKVSource(s))
		if !s.Ready() {
			t.Fatal("not ready")
		}
		return logins(t, srv, "approle") >= 4
	})
	stop()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, srv, "database/creds/reader/")
	var paths []string
	for _, e := range srv.AuditEntries(t) {
		switch {
		case e.Type != "response" || e.Error == "", e.Auth.DisplayName == "token": // the root token's calls are the test's
		case e.Request.Path == "auth/token/revoke-self" && e.Auth.DisplayName == "": // of a token that had gone: the end of Run broke off the call before
		default:
			paths = append(paths, e.Request.Path)
		}
	}
	if len(paths) > 0 {
		t.Errorf("Vault refused calls: %v", slices.Compact(paths))
	}
}

// TestRealVaultAudit: an issuance can be found in Vault's audit log by its request id and by its
// correlation id, a denied call and a login by the correlation id alone.
func TestRealVaultAudit(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{}, mayReadKV, mayReadDB, mayRevokeDB)
	db := realvault.Postgres(t)
	srv.DatabaseRole(t, db, "reader", "60s", "60s")
	cfg := realAppRole(t, srv, "5m")
	var mu sync.Mutex
	var sent []string
	cfg.Correlation = func(id string) string {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, "sk1."+id+".7.0123456789abcdef")
		return sent[len(sent)-1]
	}
	s := realSession(t, cfg)
	kv, id := issueAs(t, realKVSource(s))
	leased, _ := issueAs(t, realDBSource(s))
	_, err := s.Source(vault.SourceConfig{Path: "secret/data/other", Field: "x"}).Issue(t.Context(), "denied")
	wantKind(t, err, "refused")
	revoke(t, realDBSource(s), leased)
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}

	if want := "sk1." + id + ".7.0123456789abcdef"; kv.Origin.CorrelationID != want {
		t.Errorf("correlation id %q, want %q", kv.Origin.CorrelationID, want)
	}
	for _, iss := range []*credential.Issuance{kv, leased} {
		found := entries(t, srv, iss.Origin.CorrelationID)
		if len(found) != 2 || found[0].Type != "request" || found[1].Type != "response" {
			t.Fatalf("%s: entries %+v, want a request and a response", iss.Origin.Path, found)
		}
		for _, e := range found {
			if e.Request.ID != iss.Origin.RequestID || e.Request.Path != iss.Origin.Path || e.Auth.Metadata["role_name"] != "reviewer" {
				t.Errorf("%s: entry %+v does not name the issuance", iss.Origin.Path, e)
			}
		}
		if got := found[1].Response.Secret.LeaseID; got != iss.Origin.LeaseID {
			t.Errorf("%s: lease id %q in the audit log, %q in the issuance", iss.Origin.Path, got, iss.Origin.LeaseID)
		}
	}
	if found := entries(t, srv, "sk1.denied.7.0123456789abcdef"); len(found) == 0 || found[len(found)-1].Error == "" {
		t.Errorf("the denied call is not in the audit log: %+v", found)
	}
	calls := map[string]int{}
	for _, correlation := range sent {
		for _, e := range entries(t, srv, correlation) {
			if e.Type == "response" {
				calls[e.Request.Path]++
			}
		}
	}
	for _, path := range []string{"auth/approle/login", "auth/token/revoke-self", "sys/leases/revoke/" + leased.Origin.LeaseID} {
		if calls[path] == 0 {
			t.Errorf("%s is not in the audit log: %v", path, calls)
		}
	}
}

// TestRealVaultAuditsNoHeaders: where Vault does not write the header to its log, the request id
// still joins.
func TestRealVaultAuditsNoHeaders(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{NoAuditedHeaders: true}, mayReadKV)
	s := realSession(t, realAppRole(t, srv, "5m"))
	iss, id := issueAs(t, realKVSource(s))
	if found := entries(t, srv, id); len(found) != 0 {
		t.Errorf("entries %+v, want none", found)
	}
	n := 0
	for _, e := range srv.AuditEntries(t) {
		if e.Request.ID == iss.Origin.RequestID && e.Request.Path == realKV {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d entries with the request id, want 2", n)
	}
}
