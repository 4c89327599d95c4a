package vault_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

const secretIDAt = "auth/approle/role/reviewer/secret-id"

// wrap returns a config like appRole, with a wrapping token that lives for a minute.
func wrap(t *testing.T, srv *vaulttest.Server, path string, data map[string]any) vault.Config {
	t.Helper()
	cfg := appRole(t, "http://127.0.0.1:8200")
	cfg.Auth.SecretIDFile = file(t, srv.Wrap(path, data, time.Minute)+"\n")
	cfg.Auth.SecretIDWrapped = true
	return cfg
}

func aSecretID() map[string]any {
	return map[string]any{"secret_id": canary + "-secret-id", "secret_id_accessor": "a", "secret_id_ttl": 0, "secret_id_num_uses": 0}
}

func openOver(t *testing.T, p *pipes, cfg vault.Config) *vault.Session {
	t.Helper()
	s := open(t, cfg)
	s.SetDial(p.dial)
	return s
}

// The wrapping token is good for one use, and the SecretID for the whole session.
func TestWrappedSecretIDIsUnwrappedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		cfg := wrap(t, srv, secretIDAt, aSecretID())
		s := openOver(t, p, cfg)
		login(t, s)
		if err := os.Remove(cfg.Auth.SecretIDFile); err != nil {
			t.Fatal(err)
		}
		stop := run(t, s)
		time.Sleep(2 * time.Hour)
		issue(t, kv(s))
		stop()
		if n := count(srv, "sys/wrapping/unwrap"); n != 1 {
			t.Errorf("unwrapped %d times", n)
		}
		if n := count(srv, loginAt); n < 5 {
			t.Errorf("%d logins in 2h", n)
		}
		if err := s.Close(t.Context()); err != nil || srv.LiveTokens() != 0 {
			t.Errorf("close: %v; %d tokens are alive", err, srv.LiveTokens())
		}
	})
}

func TestWrappedSecretIDIsRefused(t *testing.T) {
	const used = "sys/wrapping/unwrap"
	for _, tt := range []struct {
		name   string
		path   string
		data   map[string]any
		before func(*vaulttest.Server, vault.Config)
		says   string
		calls  int // of unwrap
	}{
		{"used", secretIDAt, aSecretID(), unwrapElsewhere, "has expired or was used already: possibly intercepted", 0},
		{"expired", secretIDAt, aSecretID(), func(*vaulttest.Server, vault.Config) { time.Sleep(time.Minute) }, "possibly intercepted: credential refused; hint: if its TTL is not over, and no earlier start of this session used it, someone else", 0},
		{"planted", "secret/data/x", aSecretID(), nil, `was made at "secret/data/x", not at auth/approle/role/ROLE/secret-id`, 0},
		{"from cubbyhole", "sys/wrapping/wrap", aSecretID(), nil, "someone has put this token there", 0},
		{"of another mount", "auth/other/role/reviewer/secret-id", aSecretID(), nil, "was made at", 0},
		{"too deep", "auth/approle/role/a/b/secret-id", aSecretID(), nil, "was made at", 0},
		{"no role", "auth/approle/role//secret-id", aSecretID(), nil, "was made at", 0},
		{"a role id", "auth/approle/role/reviewer/role-id", aSecretID(), nil, "was made at", 0},
		{"no SecretID", secretIDAt, map[string]any{"role_id": canary}, nil, "is not a SecretID", 1},
		{"an empty SecretID", secretIDAt, map[string]any{"secret_id": ""}, nil, "is not a SecretID", 1},
		{"a wrong SecretID", secretIDAt, map[string]any{"secret_id": canary}, nil, "secret_id_num_uses of the role must be 0", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			cfg := wrap(t, srv, tt.path, tt.data)
			if tt.before != nil {
				tt.before(srv, cfg)
			}
			err := openOver(t, p, cfg).Login(t.Context())
			wantError(t, err, credential.ErrRefused, tt.says)
			if n := count(srv, used); n != tt.calls {
				t.Errorf("%s: unwrapped %d times, want %d", tt.name, n, tt.calls)
			}
		})
	}
}

// unwrapElsewhere is what someone does who has read the file.
func unwrapElsewhere(srv *vaulttest.Server, cfg vault.Config) {
	token, err := os.ReadFile(cfg.Auth.SecretIDFile)
	if err != nil {
		panic(err)
	}
	srv.Unwrap(strings.TrimSpace(string(token)))
}

func TestWrappedSecretIDInANamespace(t *testing.T) {
	for _, path := range []string{secretIDAt, "team/a/" + secretIDAt} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			cfg := wrap(t, srv, path, aSecretID())
			cfg.Namespace = "team/a/"
			login(t, openOver(t, p, cfg))
		})
	}
}

// The reply to the one use that the token is good for can get lost.
func TestLostReplyToUnwrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/unwrap") {
				srv.ServeHTTP(discarder{w.Header().Clone()}, r)
				panic(http.ErrAbortHandler)
			}
			srv.ServeHTTP(w, r)
		})
		err := openOver(t, p, wrap(t, srv, secretIDAt, aSecretID())).Login(t.Context())
		wantError(t, err, credential.ErrRefused, "hint: an attempt of this session to unwrap it got no reply and may have used it up; if its TTL")
	})
}

type discarder struct{ header http.Header }

func (d discarder) Header() http.Header         { return d.header }
func (d discarder) Write(b []byte) (int, error) { return len(b), nil }
func (d discarder) WriteHeader(int)             {}

// While Vault is unavailable the wrapping token is not spoilt.
func TestUnwrapWaitsForVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := openOver(t, p, wrap(t, srv, secretIDAt, aSecretID()))
		srv.FailNext(503, 429, 500)
		login(t, s)
		issue(t, kv(s))
	})
}
