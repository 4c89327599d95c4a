package credential_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// The next one is there though no request came when it was due.
func TestRunRefreshesAhead(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		acquire(t, c, "v1")()
		time.Sleep(59 * time.Second)
		began := time.Now()
		acquire(t, c, "v2")()
		synctest.Wait()
		if time.Since(began) != 0 {
			t.Error("a request waited for the source")
		}
		if len(src.revoked) != 1 || src.revoked[0] != "v1" {
			t.Errorf("revoked %v, want [v1]", src.revoked)
		}
	})
}

// What nobody used for two of its lives is revoked, not refreshed; the next request starts anew.
func TestRunGivesUpTheIdle(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		acquire(t, c, "v1")()
		time.Sleep(119 * time.Second)
		if !c.Status().Held {
			t.Error("given up too early")
		}
		time.Sleep(2 * time.Second)
		issued, revoked := src.counts()
		if c.Status().Held || issued != revoked || issued > 4 {
			t.Errorf("after two idle lives: %+v, %d issued and %d revoked", c.Status(), issued, revoked)
		}
		time.Sleep(time.Hour)
		if n := src.asked(); n != issued {
			t.Errorf("%d calls while idle", n-issued)
		}
		if _, release, err := c.Acquire(t.Context()); err != nil {
			t.Error(err)
		} else {
			release()
		}
	})
}

// A session of many lives with requests all the time: each is served at once.
func TestRunLeavesNoGap(t *testing.T) {
	bubble(t, 3*time.Second, 200*time.Millisecond, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		if err := c.Prefetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		const n = 20 * 200
		if got := ask(t, c, n, 5*time.Millisecond); got != n || time.Since(began) != n*5*time.Millisecond {
			t.Errorf("%d of %d requests served in %v", got, n, time.Since(began))
		}
		if issued, _ := src.counts(); issued > 15 {
			t.Errorf("%d issuances in 20 s, want one in about 2 s", issued)
		}
	})
}

// An outage that outlasts the issuance: it is recorded as expired when it does, once, and the next
// one is there soon after the source, without a request.
func TestRunThroughAnOutage(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		acquire(t, c, "v1")()
		src.fail(errDown)
		time.Sleep(time.Minute - time.Millisecond)
		if got := rec.ended(); len(got) != 0 {
			t.Errorf("recorded before it expired: %v", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := rec.ended(); len(got) != 1 || !errors.Is(got[0], credential.ErrExpired) {
			t.Errorf("recorded %v, want [ErrExpired]", got)
		}
		src.fail(nil)
		time.Sleep(31 * time.Second)
		if !c.Status().Held {
			t.Error("not obtained again")
		}
		if got := rec.ended(); len(got) != 1 {
			t.Errorf("recorded again: %v", got)
		}
	})
}

// What a request carries beyond its expiry ends when the request does.
func TestRunAndALongRequest(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		iss, release := acquired(t, c, "v1")
		time.Sleep(time.Hour)
		if s := c.Status(); s.Held || s.InUse != 1 || string(iss.Value.Expose()) != "v1" {
			t.Errorf("%+v, value %q", s, iss.Value.Expose())
		}
		before := len(rec.ended())
		release()
		synctest.Wait()
		if got := rec.ended(); len(got) != before+1 || !errors.Is(got[before], credential.ErrExpired) {
			t.Errorf("recorded %v, want ErrExpired at last", got)
		}
		if string(iss.Value.Expose()) != "\x00\x00" || string(iss.User.Expose()) != "\x00\x00\x00\x00" {
			t.Error("not wiped")
		}
	})
}

func TestRunRevokesAgain(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		acquire(t, c, "v1")()
		src.failRevoke(errDown)
		time.Sleep(55 * time.Second) // v1 was replaced, v2 was not
		synctest.Wait()
		if got := rec.ended(); len(got) != 0 || src.revokes == 0 {
			t.Errorf("recorded %v, %d attempts", got, src.revokes)
		}
		src.failRevoke(nil)
		time.Sleep(10 * time.Second)
		if got := rec.ended(); len(got) != 1 {
			t.Errorf("recorded %v, want one end", got)
		}
	})
}

func TestRenew(t *testing.T) {
	bubble(t, time.Hour, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		c.Renew() // nothing to renew
		acquire(t, c, "v1")()
		time.Sleep(time.Minute)
		c.Renew()
		acquire(t, c, "v1")() // it goes on meanwhile
		time.Sleep(2 * time.Second)
		acquire(t, c, "v2")()
		synctest.Wait()
		if len(src.revoked) != 1 {
			t.Errorf("revoked %v, want [v1]", src.revoked)
		}
		time.Sleep(10 * time.Minute)
		if src.asked() != 2 {
			t.Errorf("%d calls, want 2", src.asked())
		}
	})
}

// A call that began before Renew may have used the old token. Only if it certainly did not, because
// the source was asked for the issuance later, is one call enough.
func TestRenewDuringACall(t *testing.T) {
	for _, tt := range []struct {
		asked time.Duration // after the call began
		want  int
	}{
		{0, 4},
		{2 * time.Second, 3},
		{-time.Hour, 4}, // wrong, but no reason to renew again and again
	} {
		synctest.Test(t, func(t *testing.T) {
			src, rec := &standIn{ttl: time.Hour, delay: 2 * time.Second}, &book{}
			c := credential.NewCache(credential.CacheConfig{Name: "api", Source: lateAsker{src, tt.asked}, Recorder: rec})
			run(t, c)
			acquire(t, c, "v1")()
			time.Sleep(50 * time.Minute) // v2 has come
			c.Renew()
			time.Sleep(time.Second)
			c.Renew()
			time.Sleep(10 * time.Minute)
			if n, _ := src.counts(); n != tt.want {
				t.Errorf("asked %v late: %d issuances, want %d", tt.asked, n, tt.want)
			}
			c.Close(t.Context())
			if err := rec.check(src); err != nil {
				t.Error(err)
			}
		})
	}
}

// A lateAsker spends time before it asks, as on a login.
type lateAsker struct {
	*standIn
	late time.Duration
}

func (l lateAsker) Issue(ctx context.Context, id string) (*credential.Issuance, error) {
	iss, err := l.standIn.Issue(ctx, id)
	if err == nil {
		iss.IssuedAt = iss.IssuedAt.Add(l.late)
	}
	return iss, err
}

func TestRenewLeavesTheIdle(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1")()
		time.Sleep(2 * time.Minute)
		c.Renew()
		synctest.Wait()
		if src.asked() != 1 {
			t.Errorf("%d calls, want 1", src.asked())
		}
		c.Close(t.Context())
		c.Renew()
	})
}

func TestRenewFails(t *testing.T) {
	bubble(t, time.Hour, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		run(t, c)
		acquire(t, c, "v1")()
		src.fail(errDown)
		time.Sleep(time.Minute)
		c.Renew()
		time.Sleep(10 * time.Minute)
		acquire(t, c, "v1")()
		src.fail(nil)
		time.Sleep(31 * time.Second)
		acquire(t, c, "v2")()
	})
}

// Run sleeps: what it does not have to do costs nothing, whatever the wall clock does.
func TestRunSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		var step atomic.Int64
		src, rec := &standIn{ttl: time.Hour}, &book{}
		c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec, Now: func() time.Time {
			looks.Add(1)
			if s := time.Duration(step.Load()); s != 0 {
				return time.Now().Round(0).Add(s)
			}
			return time.Now()
		}})
		run(t, c)
		during := func(what string, d time.Duration, most int64) {
			t.Helper()
			looks.Store(0)
			time.Sleep(d)
			synctest.Wait()
			if n := looks.Load(); n > most {
				t.Errorf("%s: %d looks at the clock in %v, want at most %d", what, n, d, most)
			}
		}
		during("empty", 1000*time.Hour, 1)
		acquire(t, c, "v1")()
		during("held", 30*time.Minute, 31)
		release := acquire(t, c, "v1")
		step.Store(int64(-30 * time.Minute))
		during("set back", 10*time.Minute, 11)
		step.Store(int64(5 * time.Hour))
		during("set forward", 20*time.Minute, 60)
		step.Store(0)
		during("idle", 10*time.Hour, 1000)
		during("idle with a long request", 1000*time.Hour, 0)
		release()
		during("given up", 1000*time.Hour, 10)
		c.Close(t.Context())
		if err := rec.check(src); err != nil {
			t.Error(err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run = %v after its context ended", err)
		}
		ended := make(chan error)
		go func() { ended <- c.Run(t.Context()) }()
		synctest.Wait()
		c.Close(t.Context())
		if err := <-ended; err != nil {
			t.Errorf("Run = %v after Close", err)
		}
	})
}
