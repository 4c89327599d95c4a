package credential_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// reissued has refused replaced, which must bring want.
func reissued(t *testing.T, c *credential.Cache, refused *credential.Issuance, want string) (*credential.Issuance, func()) {
	t.Helper()
	iss, release, err := c.Reissue(t.Context(), refused)
	if err != nil {
		t.Fatalf("Reissue: %v", err)
	}
	if got := string(iss.Value.Expose()); got != want {
		t.Fatalf("Reissue = %s, want %s", got, want)
	}
	return iss, release
}

// A credential that was revoked behind our back: a thousand requests, one re-mint.
func TestReissueIsShared(t *testing.T) {
	bubble(t, time.Hour, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		first := acquire(t, c, "v1")
		var wg sync.WaitGroup
		for range 1000 {
			iss, release := acquired(t, c, "v1")
			wg.Go(func() {
				defer release()
				got, again, err := c.Reissue(t.Context(), iss)
				if err != nil {
					t.Error(err)
					return
				}
				if v := string(got.Value.Expose()); v != "v2" || got.Replaces != iss.ID {
					t.Errorf("Reissue = %s, replaces %q; want v2, replaces %q", v, got.Replaces, iss.ID)
				}
				again()
			})
		}
		wg.Wait()
		acquire(t, c, "v2")()
		if src.asked() != 2 || len(src.revoked) != 0 {
			t.Errorf("%d calls, revoked %v; want 2, and nothing yet", src.asked(), src.revoked)
		}
		first()
		synctest.Wait()
		if len(src.revoked) != 1 || src.revoked[0] != "v1" {
			t.Errorf("revoked %v, want [v1]", src.revoked)
		}
		if rec.replaces[0] != "" || rec.replaces[1] != rec.issued[0] {
			t.Errorf("recorded as replacing: %q", rec.replaces)
		}
	})
}

// One that came late asks for what is there already.
func TestReissueOfAnEarlierOne(t *testing.T) {
	bubble(t, time.Hour, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		v1, release1 := acquired(t, c, "v1")
		_, release2 := reissued(t, c, v1, "v2")
		_, release3 := reissued(t, c, v1, "v2")
		release1()
		release2()
		release3()
		if src.asked() != 2 {
			t.Errorf("%d calls, want 2", src.asked())
		}
	})
}

// The breaker: 10 s from the start of the last re-mint.
func TestReissueStorm(t *testing.T) {
	bubble(t, time.Hour, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		next, releaseNext := reissued(t, c, iss, "v2")
		release()
		for range 89 {
			if _, _, err := c.Reissue(t.Context(), next); !errors.Is(err, credential.ErrReissuedRecently) {
				t.Fatalf("Reissue = %v, want ErrReissuedRecently", err)
			}
			acquire(t, c, "v2")() // it stays current
			time.Sleep(100 * time.Millisecond)
		}
		if src.asked() != 2 {
			t.Errorf("%d calls, want 2", src.asked())
		}
		time.Sleep(100 * time.Millisecond)
		_, release = reissued(t, c, next, "v3")
		release()
		releaseNext()
	})
}

// Where the source fails, what was refused stays current, and the failure is no re-mint.
func TestReissueFails(t *testing.T) {
	bubble(t, time.Hour, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		src.fail(errDown)
		for range 100 {
			if _, _, err := c.Reissue(t.Context(), iss); !errors.Is(err, credential.ErrUnavailable) {
				t.Fatalf("Reissue = %v, want ErrUnavailable", err)
			}
			acquire(t, c, "v1")()
		}
		if src.asked() != 2 {
			t.Errorf("%d calls, want 2: the source is left alone for a while", src.asked())
		}
		src.fail(nil)
		time.Sleep(time.Second)
		_, again := reissued(t, c, iss, "v2")
		again()
		release()
	})
}

func TestReissueJoinsARefresh(t *testing.T) {
	bubble(t, time.Minute, 2*time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1")()
		time.Sleep(50 * time.Second)
		iss, release := acquired(t, c, "v1") // starts it
		time.Sleep(time.Second)
		next, again := reissued(t, c, iss, "v2")
		release()
		if next.Replaces != iss.ID || src.asked() != 2 {
			t.Errorf("replaces %q, %d calls; want %q and 2", next.Replaces, src.asked(), iss.ID)
		}
		if _, _, err := c.Reissue(t.Context(), next); !errors.Is(err, credential.ErrReissuedRecently) {
			t.Errorf("Reissue = %v, want ErrReissuedRecently", err)
		}
		again()
	})
}

// A refresh that is being recorded is too late to be recorded as a re-mint, and does not count.
func TestReissueJoinsARefreshLate(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		rec.slow = 2 * time.Second
		acquire(t, c, "v1")()
		time.Sleep(50 * time.Second)
		iss, release := acquired(t, c, "v1") // starts it
		time.Sleep(time.Second)
		next, releaseNext := reissued(t, c, iss, "v2")
		release()
		last, releaseLast := reissued(t, c, next, "v3")
		releaseNext()
		releaseLast()
		if next.Replaces != "" || last.Replaces != next.ID {
			t.Errorf("v2 replaces %q and v3 %q; want nothing and v2", next.Replaces, last.Replaces)
		}
	})
}

// Soon after a re-mint there is no other, but one that is coming anyway will do.
func TestReissueJoinsDespiteTheStorm(t *testing.T) {
	bubble(t, time.Hour, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		next, releaseNext := reissued(t, c, iss, "v2")
		release()
		time.Sleep(time.Second)
		c.Renew()
		last, releaseLast := reissued(t, c, next, "v3")
		releaseNext()
		releaseLast()
		if last.Replaces != "" {
			t.Error("v3 is recorded as a second re-mint")
		}
	})
}

// A refused one that has expired meanwhile needs no re-mint but the next issuance.
func TestReissueOfAnExpiredOne(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		time.Sleep(time.Hour)
		next, again := reissued(t, c, iss, "v2")
		release()
		if next.Replaces != "" {
			t.Errorf("replaces %q, want nothing", next.Replaces)
		}
		_, again2 := reissued(t, c, next, "v3") // it does not count
		again()
		again2()
		c.Close(t.Context())
		if _, _, err := c.Reissue(t.Context(), next); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Reissue after Close = %v, want ErrClosed", err)
		}
	})
}
