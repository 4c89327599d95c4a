package vault_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

const createAt = "auth/token/create/sidekey-session"

func whoIs() map[string]string {
	return map[string]string{"agent_role": "reviewer", "session_id": "s-1", "requested_by": "ann", "pod_uid": "u-1"}
}

// child returns a config like appRole that makes child tokens, with a token role that is role.
func child(t *testing.T, srv *vaulttest.Server, role vaulttest.Role) vault.Config {
	t.Helper()
	role.Name = "sidekey-session"
	srv.AddTokenRole(role)
	cfg := appRole(t, "http://127.0.0.1:8200")
	cfg.SessionTokenRole, cfg.Meta = role.Name, whoIs()
	return cfg
}

func TestChildToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		s := openOver(t, p, child(t, srv, vaulttest.Role{TTL: time.Hour}))
		login(t, s)
		defer run(t, s)()
		iss := issue(t, dynamic(s))
		for _, r := range srv.Requests() {
			if d := cmp.Diff(whoIs(), r.Metadata); (d == "") != (r.Path == dynPath) {
				t.Errorf("%s: Vault's log says %v", r.Path, r.Metadata)
			}
		}
		if st := s.Status(); st.Tokens != 2 || st.Leases != 1 || srv.LiveTokens() != 2 {
			t.Errorf("status %+v, %d tokens are alive, want 2", st, srv.LiveTokens())
		}
		time.Sleep(23 * time.Minute) // logged in again; the lease, of 10 minutes, has run out
		synctest.Wait()
		if count(srv, createAt) != 2 || srv.LiveTokens() != 2 || iss.ExpiresAt.After(time.Now()) {
			t.Errorf("%d child tokens were made, %d tokens are alive", count(srv, createAt), srv.LiveTokens())
		}
		issue(t, dynamic(s))
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if live, _ := srv.Leases(); srv.LiveTokens() != 0 || len(live) != 0 {
			t.Errorf("%d tokens and %d leases are left", srv.LiveTokens(), len(live))
		}
		if n := count(srv, "auth/token/revoke-self"); n != 4 {
			t.Errorf("%d revocations, want a child and a parent twice", n)
		}
	})
}

// The session's token ends with the login's token or by itself, whichever is first.
func TestChildTokenExpiry(t *testing.T) {
	for _, tt := range []struct{ parent, child, want time.Duration }{
		{time.Hour, 10 * time.Minute, 10 * time.Minute},
		{10 * time.Minute, time.Hour, 10 * time.Minute},
		{90 * time.Second, 90 * time.Second, 90 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, tt.parent)
			s := openOver(t, p, child(t, srv, vaulttest.Role{TTL: tt.child, Orphan: true}))
			begin := time.Now()
			login(t, s)
			if got := s.Status().ExpiresAt.Sub(begin); got != tt.want {
				t.Errorf("%v under %v: lives for %v, want %v", tt.child, tt.parent, got, tt.want)
			}
			time.Sleep(tt.parent)
			if n := srv.LiveTokens(); n != 0 { // not even an orphan outlives the parent
				t.Errorf("%v under %v: %d tokens are alive", tt.child, tt.parent, n)
			}
		})
	}
}

// The operator's own token is the parent: only the child is ours to revoke.
func TestChildOfTheOperatorsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ttl := range []time.Duration{0, time.Hour} {
			srv, p := stand(t, time.Hour)
			cfg := child(t, srv, vaulttest.Role{TTL: 2 * time.Hour})
			cfg.Auth = vault.Auth{Method: "token", TokenFile: file(t, srv.AddToken(ttl))}
			s := openOver(t, p, cfg)
			login(t, s)
			issue(t, kv(s))
			if st := s.Status(); st.Tokens != 1 || srv.LiveTokens() != 2 {
				t.Errorf("status %+v, %d tokens are alive", st, srv.LiveTokens())
			}
			if err := s.Close(t.Context()); err != nil || srv.LiveTokens() != 1 {
				t.Errorf("close: %v, %d tokens are alive, want the operator's", err, srv.LiveTokens())
			}
		}
	})
}

// A child that may not revoke itself ends with its parent; an orphan does not, and it is said.
func TestChildThatMayNotRevokeItself(t *testing.T) {
	for _, orphan := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			s := openOver(t, p, child(t, srv, vaulttest.Role{TTL: time.Hour, NoDefault: true, Orphan: orphan}))
			login(t, s)
			err := s.Close(t.Context())
			if orphan {
				wantError(t, err, credential.ErrRefused, `path "auth/token/revoke-self"`)
			} else if err != nil || srv.LiveTokens() != 0 {
				t.Errorf("close: %v, %d tokens are alive", err, srv.LiveTokens())
			}
		})
	}
}

func TestChildIsRefused(t *testing.T) {
	for _, tt := range []struct {
		set  func(*vaulttest.Server, *vault.Config)
		says string
	}{
		{func(_ *vaulttest.Server, c *vault.Config) { c.SessionTokenRole = "absent" }, "make the session's token with role absent: status 400: credential refused; hint: there is no such token role"},
		{func(srv *vaulttest.Server, _ *vault.Config) { srv.Deny(createAt) }, `status 403: credential refused; hint: the login's policies lack path "` + createAt + `" { capabilities = ["update"] }`},
		{batchLogin, "a batch token, which cannot make a child: credential refused; hint: set token_type=service"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			cfg := child(t, srv, vaulttest.Role{TTL: time.Hour})
			tt.set(srv, &cfg)
			s := openOver(t, p, cfg)
			wantError(t, s.Login(t.Context()), credential.ErrRefused, tt.says)
			if n := srv.LiveTokens(); n != 0 && !strings.Contains(tt.says, "batch") {
				t.Errorf("%s: %d tokens are left", tt.says, n)
			}
			if st := s.Status(); st.LoggedIn || st.Tokens != 0 || st.Generation != 0 || st.Err == nil {
				t.Errorf("%s: status %+v", tt.says, st)
			}
		})
	}
}

func batchLogin(srv *vaulttest.Server, cfg *vault.Config) {
	srv.AddJWTRole("jwt", canary+"-secret-id", vaulttest.Role{Name: "batch", TTL: time.Hour, Batch: true})
	cfg.Auth = vault.Auth{Method: "jwt", Role: "batch", TokenFile: cfg.Auth.SecretIDFile}
}

// What a login made that came to nothing is revoked, as soon as Vault lets it be.
func TestFailedChildLeavesNoParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var down atomic.Bool
		down.Store(true)
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if down.Load() && strings.HasPrefix(r.URL.Path, "/v1/auth/token/") { // logins succeed
				w.WriteHeader(503)
				return
			}
			srv.ServeHTTP(w, r)
		})
		s := openOver(t, p, child(t, srv, vaulttest.Role{TTL: time.Hour}))
		defer run(t, s)()
		time.Sleep(5 * time.Second)
		if n := srv.LiveTokens(); n < 3 || n > 6 {
			t.Fatalf("%d tokens were made in 5s, want 1 or fewer a second", n)
		}
		down.Store(false)
		time.Sleep(15 * time.Second)
		if n := srv.LiveTokens(); n != 2 || !s.Ready() {
			t.Errorf("%d tokens are alive, want a child and its parent", n)
		}
	})
}

func TestMetadataOfTheLogin(t *testing.T) {
	says := map[string]string{"pod_uid": "u-1", "namespace": "agents", "role": "reviewer"}
	for _, tt := range []struct {
		expect  map[string]string
		require []string
		says    string // empty: the login succeeds
	}{
		{nil, nil, ""},
		{map[string]string{"pod_uid": "u-1"}, []string{"pod_uid"}, ""},
		{map[string]string{"pod_uid": "u-1", "session_id": "s-1"}, []string{"pod_uid"}, ""}, // absent, but not required
		{map[string]string{"pod_uid": "u-2"}, nil, `Vault says that "pod_uid" is "u-1", and this session says that it is "u-2"`},
		{map[string]string{"pod_uid": ""}, nil, `this session says that it is ""`},
		{map[string]string{"session_id": "s-1"}, []string{"session_id"}, `Vault says nothing of "session_id", which is required: credential refused; hint: map the claim with claim_mappings`},
		{map[string]string{"namespace": strings.Repeat("x", 100)}, nil, `is "` + strings.Repeat("x", 80) + `"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			srv.AddJWTRole("jwt", canary+"-jwt", vaulttest.Role{Name: "reviewer", TTL: time.Hour, Metadata: says})
			cfg := appRole(t, "http://127.0.0.1:8200")
			cfg.Auth = vault.Auth{Method: "jwt", Role: "reviewer", TokenFile: file(t, canary+"-jwt")}
			cfg.Expect, cfg.Require = tt.expect, tt.require
			cfg.OnLogin = func(l vault.Login) {
				if tt.says != "" || !maps.Equal(l.Metadata, says) || l.Generation != 1 {
					t.Errorf("told of %+v", l)
				}
			}
			err := openOver(t, p, cfg).Login(t.Context())
			if tt.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, credential.ErrRefused, tt.says)
			if n := srv.LiveTokens(); n != 0 {
				t.Errorf("%s: %d tokens are left", tt.says, n)
			}
		})
	}
}

// The operator's own token is compared by the metadata that it was made with, and not revoked.
func TestMetadataOfTheOperatorsToken(t *testing.T) {
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/auth/token/lookup-self" {
			t.Errorf("called %s", r.URL.Path)
		}
		_, _ = w.Write([]byte(`{"data":{"ttl":60,"meta":{"pod_uid":"u-1"}}}`))
	})
	cfg := appRole(t, "http://127.0.0.1:8200")
	cfg.Auth = vault.Auth{Method: "token", TokenFile: file(t, canary)}
	cfg.Expect = map[string]string{"pod_uid": "u-2"}
	wantError(t, openOver(t, p, cfg).Login(t.Context()), credential.ErrRefused, `is "u-1"`)
}

// A TTL of 0 means no end only if Vault names no end.
func TestTokenAboutToExpire(t *testing.T) {
	for body, says := range map[string]string{
		`{"data":{"ttl":0,"expire_time":"2026-01-02T03:04:05Z"}}`: "expires within a second",
		`{"data":{"ttl":0,"expire_time":null}}`:                   "",
		`{"data":{"ttl":0}}`:                                      "",
	} {
		p := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
		cfg := appRole(t, "http://127.0.0.1:8200")
		cfg.Auth = vault.Auth{Method: "token", TokenFile: file(t, canary)}
		s := openOver(t, p, cfg)
		if err := s.Login(t.Context()); says != "" {
			wantError(t, err, credential.ErrRefused, says)
		} else if err != nil || !s.Status().ExpiresAt.IsZero() {
			t.Errorf("%s: %v, expires at %v", body, err, s.Status().ExpiresAt)
		}
	}
}

// OnLogin is told of each login before anyone uses the new token.
func TestOnLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		cfg := appRole(t, "http://127.0.0.1:8200")
		var told []string
		var s *vault.Session
		cfg.OnLogin = func(l vault.Login) {
			told = append(told, fmt.Sprint(l.Generation, l.Metadata["role_name"]))
			if st := s.Status(); st.Generation != l.Generation || !st.ExpiresAt.Equal(l.ExpiresAt) || !st.LoggedIn {
				t.Errorf("status %+v while told of %+v", st, l)
			}
			l.Metadata["role_name"] = "changed" // it is the receiver's
			before := count(srv, kvPath)
			go func() {
				if _, err := kv(s).Issue(context.Background(), "id"); err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(time.Second)
			if count(srv, kvPath) != before {
				t.Error("a read went ahead of OnLogin")
			}
		}
		s = openOver(t, p, cfg)
		login(t, s)
		stop := run(t, s)
		time.Sleep(50 * time.Minute)
		stop()
		if d := cmp.Diff([]string{"1reviewer", "2reviewer", "3reviewer"}, told); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}
