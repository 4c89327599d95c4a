package credential_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

func TestCacheSharesOneCall(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { acquire(t, c, "v1")() })
		}
		wg.Wait()
		if n, _ := src.counts(); n != 1 || len(rec.issued) != 1 {
			t.Errorf("%d calls and %d records for 50 requests, want 1 and 1", n, len(rec.issued))
		}
	})
}

// The first request's end must not fail those that share its call.
func TestCacheCallOutlivesItsStarter(t *testing.T) {
	bubble(t, time.Minute, 2*time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error)
		go func() { _, _, err := c.Acquire(ctx); done <- err }()
		synctest.Wait()
		go func() { acquire(t, c, "v1")(); done <- nil }()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("starter got %v, want its own deadline", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCacheRefreshesAheadAndRevokesTheOld(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		long := acquire(t, c, "v1") // a request that stays
		time.Sleep(55 * time.Second)
		acquire(t, c, "v1")() // still valid; starts the refresh and does not wait for it
		time.Sleep(2 * time.Second)
		synctest.Wait()
		acquire(t, c, "v2")()
		if _, n := src.counts(); n != 0 {
			t.Error("revoked while a request still carried it")
		}
		long()
		long() // a second release is nothing
		synctest.Wait()
		if _, n := src.counts(); n != 1 || src.revoked[0] != "v1" {
			t.Errorf("revoked %v, want [v1]", src.revoked)
		}
	})
}

// I13: past expiry nothing is handed out, however long the source stays away; and it is asked
// with growing pauses.
func TestCacheNeverPastExpiry(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1")()
		src.fail(errDown)
		served := 0
		for i := range 1200 {
			iss, release, err := c.Acquire(t.Context())
			if err == nil {
				if !time.Now().Before(iss.ExpiresAt) {
					t.Fatalf("expired issuance handed out after %d s", i/10)
				}
				served = i
				release()
			} else if u, ok := errors.AsType[*credential.UnusableError](err); !ok || !errors.Is(err, credential.ErrUnavailable) || u.RetryAfter < 0 {
				t.Fatalf("error %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if served < 570 {
			t.Errorf("served for %d ms only, want nearly a minute", served*100)
		}
		src.fail(nil)
		time.Sleep(time.Second)
		acquire(t, c, "v2")()
	})
}

func TestCacheUnrecordedIsNotUsed(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		rec.err = errors.New("disk full")
		if _, _, err := c.Acquire(t.Context()); !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("Acquire = %v, want ErrUnavailable", err)
		}
		if issued, revoked := src.counts(); issued != 1 || revoked != 1 {
			t.Errorf("issued %d, revoked %d, want 1 and 1", issued, revoked)
		}
		if got := string(rec.last.Value.Expose()) + string(rec.last.User.Expose()); got != "\x00\x00\x00\x00\x00\x00" {
			t.Errorf("not wiped: %q", got)
		}
	})
}

// An issuance that ran out by itself is recorded as expired. The source is told all the same: what
// it keeps of it may live longer.
func TestCacheExpiredIsRecordedOnce(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1")()
		time.Sleep(2 * time.Minute)
		acquire(t, c, "v2")()
		synctest.Wait()
		if got := rec.ended(); src.revokes != 1 || len(got) != 1 || !errors.Is(got[0], credential.ErrExpired) {
			t.Errorf("%d calls of Revoke, records %v; want one, and [ErrExpired]", src.revokes, got)
		}
	})
}

func TestCacheRefusesUnusableValues(t *testing.T) {
	for name, iss := range map[string]*credential.Issuance{
		"empty":   {ExpiresAt: time.Now().Add(time.Hour)},
		"expired": {Value: credential.NewSecret([]byte("x")), ExpiresAt: time.Now().Add(-time.Second)},
		"no end":  {Value: credential.NewSecret([]byte("x"))},
		"ending":  {Value: credential.NewSecret([]byte("x")), ExpiresAt: time.Now().Add(50 * time.Millisecond)},
		"no":      nil,
	} {
		c := credential.NewCache(credential.CacheConfig{Name: "api", Source: fixed{iss}, Recorder: &book{}})
		if _, _, err := c.Acquire(t.Context()); err == nil {
			t.Errorf("%s value was handed out", name)
		}
		c.Close(t.Context())
	}
}

type fixed struct{ iss *credential.Issuance }

func (f fixed) Issue(context.Context, string) (*credential.Issuance, error) { return f.iss, nil }

func TestPrefetch(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		src.fail(errRefused)
		if err := c.Prefetch(t.Context()); !errors.Is(err, credential.ErrRefused) {
			t.Errorf("Prefetch = %v, want the source's error", err)
		}
		src.fail(nil)
		time.Sleep(time.Second)
		for range 2 {
			if err := c.Prefetch(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		acquire(t, c, "v1")()
		if waited := time.Since(began); waited != 0 || src.asked() != 2 {
			t.Errorf("after Prefetch Acquire waited %v, and the source was asked %d times; want 0 and 2", waited, src.asked())
		}
		c.Close(t.Context())
		if err := c.Prefetch(t.Context()); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Prefetch after Close = %v, want ErrClosed", err)
		}
	})
}

func TestStatus(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		same := func(when string, want credential.Status) {
			t.Helper()
			synctest.Wait()
			got := c.Status()
			if want.Err != nil && got.RetryAt.After(time.Now()) && got.RetryAt.Before(time.Now().Add(time.Second)) {
				want.RetryAt = got.RetryAt
			}
			want.Name = "api"
			if got != want {
				t.Errorf("%s: %+v, want %+v", when, got, want)
			}
		}
		began := time.Now()
		same("at first", credential.Status{})
		if err := c.Prefetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		same("prefetched", credential.Status{Held: true, ExpiresAt: began.Add(time.Minute)})
		src.fail(errDown)
		time.Sleep(50 * time.Second)
		used := time.Now()
		release := acquire(t, c, "v1")
		same("in use, source down", credential.Status{Held: true, ExpiresAt: began.Add(time.Minute), LastUsed: used, InUse: 1, Err: errDown})
		time.Sleep(20 * time.Second)
		if _, _, err := c.Acquire(t.Context()); err == nil {
			t.Error("acquired an expired issuance")
		}
		same("expired", credential.Status{LastUsed: used, InUse: 1, Err: errDown})
		release()
		src.fail(nil)
		time.Sleep(time.Second)
		used = time.Now()
		acquire(t, c, "v2")()
		same("recovered", credential.Status{Held: true, ExpiresAt: used.Add(time.Minute), LastUsed: used})
	})
}

func BenchmarkAcquire(b *testing.B) {
	c := credential.NewCache(credential.CacheConfig{Name: "api", Source: &standIn{ttl: time.Hour}, Recorder: &book{}})
	b.ReportAllocs()
	for b.Loop() {
		_, release, err := c.Acquire(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
