package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

func TestRunLogsInBeforeTheTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		s := session(t, p)
		defer run(t, s)()
		begin := time.Now()
		for time.Since(begin) < 8*time.Hour {
			if !s.Ready() {
				t.Fatalf("not ready after %v", time.Since(begin))
			}
			if n := srv.LiveTokens(); n > 2 {
				t.Fatalf("%d tokens are alive after %v", n, time.Since(begin))
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		var last time.Time
		for _, r := range srv.Requests() {
			if r.Path != loginAt {
				continue
			}
			if gap := r.Time.Sub(last); !last.IsZero() && (gap < 18*time.Minute || gap > 22*time.Minute) {
				t.Errorf("%v between two logins, want 20m give or take 10 %%", gap)
			}
			last = r.Time
		}
		if n := srv.LiveTokens(); n != 1 {
			t.Errorf("%d tokens are alive, want 1: old ones are revoked", n)
		}
		if n := count(srv, "auth/token/renew-self"); n != 0 {
			t.Errorf("%d renewals", n)
		}
	})
}

func TestOldTokenLivesAsLongAsItsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		srv.AddDynamic("short", 25*time.Minute, func(int) map[string]string { return map[string]string{"token": "v"} })
		s := session(t, p)
		defer run(t, s)()
		src := dynamic(s)
		short := issue(t, s.Source(vault.SourceConfig{Path: "short", Field: "token"}))
		time.Sleep(17 * time.Minute)
		old := issue(t, src)
		time.Sleep(6 * time.Minute) // 23 minutes: the token has been replaced
		if live, _ := srv.Leases(); srv.LiveTokens() != 2 || len(live) != 2 {
			t.Fatalf("%d tokens and %d leases are alive, want 2 and 2", srv.LiveTokens(), len(live))
		}
		fresh := issue(t, src)
		revoke(t, src, old)
		synctest.Wait()
		if srv.LiveTokens() != 2 {
			t.Fatal("the old token was revoked while a lease of its lived")
		}
		time.Sleep(time.Until(short.ExpiresAt) + time.Second)
		synctest.Wait()
		if srv.LiveTokens() != 1 {
			t.Fatal("the old token is still alive after its last lease ran out")
		}
		if live, _ := srv.Leases(); len(live) != 1 || live[0].ID != fresh.Origin.LeaseID {
			t.Errorf("live leases %v, want the fresh one", live)
		}
	})
}

// A read that began under the old token may yet bring a lease under it.
func TestOldTokenLivesAsLongAsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, 30*time.Minute)
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			srv.ServeHTTP(w, r)
			if r.URL.Path == "/v1/"+dynPath { // the reply is held back until the handler returns
				time.Sleep(6 * time.Minute)
			}
		})
		cfg := appRole(t, "http://127.0.0.1:8200")
		cfg.CallTimeout = 10 * time.Minute
		s := open(t, cfg)
		s.SetDial(p.dial)
		login(t, s)
		defer run(t, s)()
		time.Sleep(17 * time.Minute)
		iss := issue(t, dynamic(s)) // until 23 minutes; the token is replaced after 22 at most
		live, _ := srv.Leases()
		if len(live) != 1 || live[0].ID != iss.Origin.LeaseID || count(srv, loginAt) != 2 {
			t.Errorf("live %v, %d logins: the lease died with its token", live, count(srv, loginAt))
		}
		revoke(t, dynamic(s), iss)
		synctest.Wait()
		if srv.LiveTokens() != 1 {
			t.Error("the old token is still alive")
		}
	})
}

// Without the permission to revoke leases, they end with their token.
func TestLeaseThatVaultWillNotRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 12*time.Minute)
		srv.Deny("sys/leases/")
		s := session(t, p)
		defer run(t, s)()
		src := dynamic(s)
		iss := issue(t, src)
		err := src.(credential.Revoker).Revoke(t.Context(), iss)
		wantError(t, err, credential.ErrRefused, "status 403")
		if n := count(srv, loginAt); n != 1 {
			t.Errorf("%d logins, want 1: a revocation is not worth a login", n)
		}
		time.Sleep(9 * time.Minute) // the lease lives for 10, the token is replaced after 8.8 at most
		synctest.Wait()
		if live, revoked := srv.Leases(); len(live) != 0 || len(revoked) != 1 {
			t.Errorf("live %v, revoked %v", live, revoked)
		}
	})
}

func TestRunOutlastsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		log := new(logBuffer)
		cfg := appRole(t, "http://127.0.0.1:8200")
		cfg.Log = cfg.Log.Output(log)
		s := open(t, cfg)
		s.SetDial(p.dial)
		login(t, s)
		defer run(t, s)()
		time.Sleep(10 * time.Minute)
		srv.SetDown(true)
		time.Sleep(15 * time.Minute)
		if !s.Ready() {
			t.Error("not ready although the token is still valid")
		}
		time.Sleep(6 * time.Minute)
		if s.Ready() {
			t.Error("ready with an expired token")
		}
		for range 30 {
			begin := time.Now()
			_, err := kv(s).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrUnavailable, "not logged in")
			if took := time.Since(begin); took > time.Second {
				t.Errorf("a read waited %v for a login", took)
			}
			time.Sleep(time.Second)
		}
		srv.SetDown(false)
		time.Sleep(6 * time.Second)
		if !s.Ready() {
			t.Error("not ready 6s after the outage")
		}
		issue(t, kv(s))
		if !strings.Contains(log.String(), "vault login failed") || strings.Contains(log.String(), canary) {
			t.Errorf("log: %s", log)
		}
	})
}

// An old token that cannot be revoked at once is revoked later.
func TestRevocationOfAnOldTokenIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, 30*time.Minute)
		revocations := 0
		var first, last time.Time
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/auth/token/revoke-self" {
				last = time.Now()
				if revocations++; revocations == 1 {
					first = last
				}
				if revocations < 3 {
					w.WriteHeader(503)
					return
				}
			}
			srv.ServeHTTP(w, r)
		})
		s := session(t, p)
		defer run(t, s)()
		time.Sleep(23 * time.Minute) // logged in again after 22 at most
		synctest.Wait()
		if revocations != 3 || srv.LiveTokens() != 1 {
			t.Errorf("%d revocations, %d tokens are alive, want 3 and 1", revocations, srv.LiveTokens())
		}
		if took := last.Sub(first); took != 20*time.Second {
			t.Errorf("%v from the first try to the third, want 20s", took)
		}
	})
}

func TestExpiredTokenWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Minute)
		s := session(t, p)
		time.Sleep(time.Minute)
		srv.Seal()
		_, err := kv(s).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrUnavailable, "read "+kvPath+": not logged in")
		if n := count(srv, kvPath); n != 0 {
			t.Errorf("%d reads with an expired token", n)
		}
		srv.Unseal()
		time.Sleep(time.Second)
		issue(t, kv(s))
		if !s.Ready() {
			t.Error("not ready")
		}
	})
}

func TestRevokedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.RevokeTokens()
		begin := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { issue(t, kv(s)) })
		}
		wg.Wait()
		if n := count(srv, loginAt); n != 2 {
			t.Errorf("%d logins, want 2", n)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v, want 1s: no two logins within a second", took)
		}
	})
}

func TestDeniedPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		srv.Deny(kvPath)
		s := session(t, p)
		begin := time.Now()
		for range 10 {
			_, err := kv(s).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, "status 403")
		}
		if n, most := count(srv, loginAt), 1+int(time.Since(begin)/time.Second); n != 11 || n > most {
			t.Errorf("%d logins in %v", n, time.Since(begin))
		}
		issue(t, dynamic(s))
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 30*time.Minute)
		s := session(t, p)
		src := dynamic(s)
		iss := issue(t, src)
		stop := run(t, s)
		time.Sleep(23 * time.Minute)
		iss2 := issue(t, src) // under the second token
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		if live, _ := srv.Leases(); srv.LiveTokens() != 0 || len(live) != 0 {
			t.Errorf("%d tokens and %d leases are alive", srv.LiveTokens(), len(live))
		}
		if s.Ready() {
			t.Error("ready")
		}
		before := len(srv.Requests())
		_, err := src.Issue(t.Context(), "id")
		wantError(t, err, credential.ErrClosed, "")
		wantError(t, s.Login(t.Context()), credential.ErrClosed, "")
		wantError(t, src.(credential.Revoker).Revoke(t.Context(), iss), credential.ErrClosed, "")
		wantError(t, src.(credential.Revoker).Revoke(t.Context(), iss2), credential.ErrClosed, "")
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if n := len(srv.Requests()); n != before {
			t.Errorf("%d calls after Close", n-before)
		}
	})
}

func TestCloseEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := stand(t, time.Hour)
		s := session(t, p)
		done := make(chan error)
		go func() { done <- s.Run(context.Background()) }()
		synctest.Wait()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestCloseLeavesTheOperatorsToken(t *testing.T) {
	srv := vaulttest.Start(t)
	cfg := appRole(t, srv.URL())
	cfg.Auth = vault.Auth{Method: "token", TokenFile: file(t, srv.AddToken(time.Hour))}
	s := open(t, cfg)
	login(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if srv.LiveTokens() != 1 {
		t.Error("the operator's token was revoked")
	}
}

func TestCloseWhileVaultHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.SetLatency(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		wantError(t, s.Close(ctx), credential.ErrUnavailable, "revoke the token")
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
		srv.SetLatency(0)
	})
}

// A login that is under way when the session ends brings a token that no one knows of.
func TestCloseDuringLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := open(t, appRole(t, "http://127.0.0.1:8200"))
		s.SetDial(p.dial)
		srv.SetLatency(time.Second)
		result := make(chan error)
		go func() { result <- s.Login(context.Background()) }()
		synctest.Wait()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantError(t, <-result, credential.ErrClosed, "")
		if count(srv, loginAt) != 1 || srv.LiveTokens() != 0 {
			t.Errorf("%d logins, %d tokens are alive", count(srv, loginAt), srv.LiveTokens())
		}
	})
}

// A read that is under way when the session ends yields nothing.
func TestCloseDuringIssue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.SetLatency(time.Second)
		result := make(chan error)
		go func() { _, err := dynamic(s).Issue(context.Background(), "id"); result <- err }()
		time.Sleep(time.Second / 2)
		go func() {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		wantError(t, <-result, credential.ErrClosed, "")
		time.Sleep(time.Second)
		synctest.Wait()
		if live, _ := srv.Leases(); len(live) != 0 || srv.LiveTokens() != 0 {
			t.Errorf("live leases %v, %d tokens are alive", live, srv.LiveTokens())
		}
	})
}

// The waiting caller goes; the login that it began goes on for the others.
func TestSharedLoginOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := open(t, appRole(t, "http://127.0.0.1:8200"))
		s.SetDial(p.dial)
		srv.SetLatency(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error)
		go func() { _, err := kv(s).Issue(ctx, "id"); first <- err }()
		synctest.Wait()
		second := make(chan error)
		go func() { _, err := kv(s).Issue(context.Background(), "id"); second <- err }()
		wantError(t, <-first, credential.ErrUnavailable, "no time left")
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := count(srv, loginAt); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
	})
}

// Sources at work for hours, with outages, revocations and a wall of callers; for -race, and
// that nothing is left over.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, 5*time.Minute)
		s := session(t, p)
		stop := run(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				src := dynamic(s)
				for n := 0; ctx.Err() == nil; n++ {
					iss, err := src.Issue(ctx, fmt.Sprint(i, n))
					if err == nil {
						time.Sleep(min(time.Until(iss.ExpiresAt), 3*time.Minute))
						_ = src.(credential.Revoker).Revoke(ctx, iss)
					} else {
						time.Sleep(time.Second)
					}
				}
			})
		}
		for range 8 {
			time.Sleep(13 * time.Minute)
			srv.SetDown(true)
			time.Sleep(time.Minute)
			srv.SetDown(false)
			srv.RevokeTokens()
		}
		wg.Wait()
		stop()
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if live, _ := srv.Leases(); len(live) != 0 || srv.LiveTokens() != 0 {
			t.Errorf("%d leases and %d tokens are left over", len(live), srv.LiveTokens())
		}
		if sources := distinct(srv.Requests()); sources < 100 {
			t.Errorf("only %d reads", sources)
		}
	})
}

func distinct(requests []vaulttest.Request) int {
	ids := map[string]bool{}
	for _, r := range requests {
		if r.Path == dynPath && r.Status == 200 {
			ids[r.ID] = true
		}
	}
	return len(ids)
}
