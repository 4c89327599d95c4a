package vault_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/vault/vaulttest"
)

// A clock shows the time with an error that can be set.
type clock struct{ off atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.off.Load()))
}

// A clock that is wrong from the start makes no difference.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, 30*time.Minute)
			var c clock
			c.off.Store(int64(off))
			cfg := appRole(t, "http://127.0.0.1:8200")
			cfg.Now = c.now
			s := openOver(t, p, cfg)
			login(t, s)
			stop := run(t, s)
			for range 3 * 60 {
				if iss := issue(t, kv(s)); !s.Ready() || iss.ExpiresAt.Sub(c.now()) != 5*time.Minute {
					t.Fatalf("ready: %t, the issuance expires in %v", s.Ready(), iss.ExpiresAt.Sub(c.now()))
				}
				time.Sleep(time.Minute)
			}
			stop()
			if n := count(srv, loginAt); n < 8 || n > 11 {
				t.Errorf("%d logins in 3h, want one in 20m", n)
			}
		})
	}
}

// A clock that is set while the session runs costs a login at most, and leaves nothing behind.
func TestClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, 30*time.Minute)
			var c clock
			cfg := appRole(t, "http://127.0.0.1:8200")
			cfg.Now = c.now
			s := openOver(t, p, cfg)
			login(t, s)
			defer run(t, s)()
			issue(t, dynamic(s)) // a lease of 10 minutes
			time.Sleep(5 * time.Minute)
			c.off.Store(int64(step))
			for range 60 {
				time.Sleep(time.Minute)
				issue(t, kv(s))
			}
			if denied := statuses(srv.Requests(), 403); denied != 0 {
				t.Errorf("step %v: %d calls with a dead token", step, denied)
			}
			if n := count(srv, loginAt); n < 3 || n > 5 {
				t.Errorf("step %v: %d logins in 65m", step, n)
			}
			if n := srv.LiveTokens(); n > 2 {
				t.Errorf("step %v: %d tokens are alive", step, n)
			}
			if err := s.Close(t.Context()); err != nil || srv.LiveTokens() != 0 {
				t.Errorf("step %v: close: %v, %d tokens are left", step, err, srv.LiveTokens())
			}
		})
	}
}

// statuses returns how many requests were answered with status.
func statuses(requests []vaulttest.Request, status int) int {
	n := 0
	for _, r := range requests {
		if r.Status == status {
			n++
		}
	}
	return n
}
