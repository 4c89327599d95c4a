package vault_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

const (
	revokeSelf  = "/v1/auth/token/revoke-self"
	revokeLease = "/v1/sys/leases/revoke/"
)

// revoking serves srv, but has answer deal with the revocations. n counts them from 1.
func revoking(srv *vaulttest.Server, answer func(n int, w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == revokeSelf || strings.HasPrefix(r.URL.Path, revokeLease) {
			answer(int(n.Add(1)), w, r)
			return
		}
		srv.ServeHTTP(w, r)
	}
}

// unanswered has srv do what r asks, and answers by then instead.
func unanswered(srv *vaulttest.Server, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(httptest.NewRecorder(), r)
		then(w, r)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A 200 for a revocation is believed only if it is Vault's: something before Vault may say it to all.
func TestRevocationIsVaultsToConfirm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		says   string // empty: it is believed
	}{
		{"204", say(204, ""), ""},
		{"warnings", say(200, `{"request_id":"7d1f","data":null,"warnings":["soon"]}`), ""},
		{"empty", say(200, ""), "empty or malformed"},
		{"page", say(200, "<html>maintenance</html>"), "empty or malformed"},
		{"other JSON", say(200, `{"status":"ok"}`), "not one of Vault's"},
		{"null", say(200, "null"), "not one of Vault's"},
		{"no id", say(200, `{"request_id":"","data":{}}`), "not one of Vault's"},
		{"no string", say(200, `{"request_id":7}`), "empty or malformed"},
		{"too long", say(200, `{"request_id":"`+strings.Repeat("x", 1<<20)+`"}`), "over 1 MiB"},
		{"202", say(202, `{"request_id":"7d1f"}`), "status 202"},
		{"301", say(301, ""), "status 301"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			p := serve(t, revoking(srv, func(_ int, w http.ResponseWriter, r *http.Request) { tt.answer(w, r) }))
			s := session(t, p)
			src := dynamic(s)
			iss := issue(t, src)
			lease := src.(credential.Revoker).Revoke(within(t, 2*time.Second), iss)
			token := s.Close(within(t, 2*time.Second))
			for what, err := range map[string]error{"lease": lease, "token": token} {
				if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
					t.Errorf("%s: %s: error %v, want %q", tt.name, what, err, tt.says)
				}
			}
		})
	}
}

// When the answer to a revocation was lost, a 403 for the next attempt says that the first did it.
func TestRevocationWhoseAnswerWasLost(t *testing.T) {
	for name, then := range map[string]http.HandlerFunc{
		"reset": reset, "bad gateway": say(502, ""), "page": say(200, "<html>"), "slow": hang,
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			p := serve(t, revoking(srv, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					unanswered(srv, then)(w, r)
					return
				}
				srv.ServeHTTP(w, r)
			}))
			s := session(t, p)
			if err := s.Close(within(t, 7*time.Second)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if srv.LiveTokens() != 0 {
				t.Errorf("%s: the token is alive", name)
			}
		})
	}
}

// A 403 is a failure where nothing says that Vault had done it before.
func TestRevocationThatVaultRefuses(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"at once": nil, "limited": say(429, ""), "sealed": say(503, ""), "not caught up": say(412, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			srv.Deny("auth/token/revoke-self")
			p := serve(t, revoking(srv, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 && fault != nil {
					fault(w, r)
					return
				}
				srv.ServeHTTP(w, r)
			}))
			wantError(t, session(t, p).Close(within(t, 5*time.Second)), credential.ErrRefused, "status 403")
			if srv.LiveTokens() != 1 {
				t.Errorf("%s: the token is gone", name)
			}
		})
	}
}

// A call that never went out has done nothing.
func TestRevocationThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		srv.Deny("auth/token/revoke-self")
		s := session(t, p)
		dials := 0
		s.SetDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 1 {
				return nil, errors.New("connection refused")
			}
			return p.dial(ctx, network, address)
		})
		wantError(t, s.Close(within(t, 5*time.Second)), credential.ErrRefused, "status 403")
	})
}

// The end of Run may break off a revocation that Vault has done already.
func TestCloseAfterABrokenOffRevocation(t *testing.T) {
	for name, end := range map[string]func(stop func(), s *vault.Session) error{
		"Run ends first": func(stop func(), s *vault.Session) error { stop(); return s.Close(context.Background()) },
		"Close ends Run": func(stop func(), s *vault.Session) error { err := s.Close(context.Background()); stop(); return err },
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, 30*time.Minute)
			asked := make(chan struct{})
			cfg := appRole(t, "http://127.0.0.1:8200")
			log := new(logBuffer)
			cfg.Log = cfg.Log.Output(log)
			s := openOver(t, serve(t, revoking(srv, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					unanswered(srv, func(w http.ResponseWriter, r *http.Request) { close(asked); hang(w, r) })(w, r)
					return
				}
				srv.ServeHTTP(w, r)
			})), cfg)
			login(t, s)
			stop := run(t, s)
			<-asked // the second login has come, and the first token is being revoked
			begin := time.Now()
			if err := end(stop, s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begin); took != 0 {
				t.Errorf("%s: took %v", name, took)
			}
			if n := srv.LiveTokens(); n != 0 {
				t.Errorf("%s: %d tokens are alive", name, n)
			}
			if strings.Contains(log.String(), "not revoked") {
				t.Errorf("%s: log: %s", name, log)
			}
		})
	}
}

// While its context lasts, Close tries again what Vault was unavailable for.
func TestCloseTriesAgain(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"sealed": say(503, ""), "reset": reset, "limited": say(429, "", "Retry-After", "1"), "page": say(200, "<html>"),
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			srv.AddTokenRole(vaulttest.Role{Name: "session", TTL: time.Hour, Orphan: true})
			var f faulty
			cfg := appRole(t, "http://127.0.0.1:8200")
			cfg.SessionTokenRole = "session"
			s := openOver(t, serve(t, f.over(srv)), cfg)
			login(t, s)
			f.set(fault)
			time.AfterFunc(900*time.Millisecond, func() { f.set(nil) })
			if err := s.Close(within(t, 3*time.Second)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n := srv.LiveTokens(); n != 0 {
				t.Errorf("%s: %d tokens are alive", name, n)
			}
		})
	}
}

// What Vault refuses is not asked for again, and goes with its parent, though later.
func TestCloseAsksForARefusalOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		srv.AddTokenRole(vaulttest.Role{Name: "bare", TTL: time.Hour, NoDefault: true})
		cfg := appRole(t, "http://127.0.0.1:8200")
		cfg.SessionTokenRole = "bare"
		calls := 0
		s := openOver(t, serve(t, revoking(srv, func(n int, w http.ResponseWriter, r *http.Request) {
			if calls = n; n == 1 {
				w.WriteHeader(403) // the child
			} else if n < 4 {
				w.WriteHeader(503)
			} else {
				srv.ServeHTTP(w, r)
			}
		})), cfg)
		login(t, s)
		if err := s.Close(within(t, 3*time.Second)); err != nil || srv.LiveTokens() != 0 || calls != 4 {
			t.Errorf("error %v, %d tokens are alive, %d calls, want 4", err, srv.LiveTokens(), calls)
		}
	})
}

// A lease, too, and Close gives up on nothing before its time is over.
func TestRevocationOfALeaseIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		src := dynamic(s)
		first, second := issue(t, src), issue(t, src)
		f.set(reset)
		time.AfterFunc(700*time.Millisecond, func() { f.set(nil) })
		if err := src.(credential.Revoker).Revoke(within(t, 5*time.Second), first); err != nil {
			t.Error(err)
		}
		if live, _ := srv.Leases(); len(live) != 1 || live[0].ID != second.Origin.LeaseID {
			t.Errorf("live leases %v", live)
		}
		f.set(reset)
		begin := time.Now()
		wantError(t, src.(credential.Revoker).Revoke(within(t, 5*time.Second), second), credential.ErrUnavailable, "revoke lease")
		if took := time.Since(begin); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("tried for %v", took)
		}
	})
}

// A revocation that the watch cuts off, though Vault is only slow, is made again at once.
func TestRevocationThatWasCut(t *testing.T) {
	lease := func(t *testing.T, s *vault.Session, iss *credential.Issuance) error {
		return dynamic(s).(credential.Revoker).Revoke(within(t, 4*time.Second), iss)
	}
	token := func(t *testing.T, s *vault.Session, _ *credential.Issuance) error {
		return s.Close(within(t, 4*time.Second))
	}
	for _, tt := range []struct {
		name   string
		done   bool // by the first call, whose answer does not come
		revoke func(*testing.T, *vault.Session, *credential.Issuance) error
	}{
		{"lease, done", true, lease}, {"lease, not done", false, lease}, {"token, done", true, token}, {"token, not done", false, token},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			var probes atomic.Int32
			answer := revoking(srv, func(n int, w http.ResponseWriter, r *http.Request) {
				switch {
				case n > 1:
					srv.ServeHTTP(w, r)
				case tt.done:
					unanswered(srv, hang)(w, r)
				default:
					hang(w, r)
				}
			})
			s := openOver(t, serve(t, probed(&probes, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/sys/health" && probes.Load() == 1 {
					hang(w, r)
					return
				}
				answer(w, r)
			})), appRole(t, "http://127.0.0.1:8200"))
			iss := issue(t, dynamic(s))
			begin := time.Now()
			if err := tt.revoke(t, s, iss); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if took := time.Since(begin); took != 2*time.Second {
				t.Errorf("%s: took %v, want the time until the second probe", tt.name, took)
			}
			if live, _ := srv.Leases(); len(live) != 0 {
				t.Errorf("%s: live leases %v", tt.name, live)
			}
		})
	}
}
