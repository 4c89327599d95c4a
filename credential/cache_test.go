package credential_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// standIn is a source whose issuances live for ttl. It counts calls and can fail.
type standIn struct {
	ttl   time.Duration
	delay time.Duration

	mu      sync.Mutex
	err     error
	issued  int
	revoked []string // values, in order
}

func (s *standIn) Issue(ctx context.Context, id string) (*credential.Issuance, error) {
	start := time.Now()
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return nil, fmt.Errorf("stand-in: %v: %w", ctx.Err(), credential.ErrUnavailable)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	s.issued++
	return &credential.Issuance{
		Value:    credential.NewSecret(fmt.Appendf(nil, "v%d", s.issued)),
		IssuedAt: start, ExpiresAt: start.Add(s.ttl),
	}, nil
}

func (s *standIn) Revoke(_ context.Context, iss *credential.Issuance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = append(s.revoked, string(iss.Value.Expose()))
	return nil
}

func (s *standIn) fail(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.err = err }

func (s *standIn) counts() (issued, revoked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued, len(s.revoked)
}

// book records issuances and can refuse to.
type book struct {
	mu      sync.Mutex
	err     error
	issued  []string
	revoked []error
}

func (b *book) Issued(iss *credential.Issuance) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issued = append(b.issued, iss.ID)
	return b.err
}

func (b *book) Revoked(_ *credential.Issuance, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revoked = append(b.revoked, err)
}

func acquire(t *testing.T, c *credential.Cache, want string) (release func()) {
	t.Helper()
	iss, release, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	if got := string(iss.Value.Expose()); got != want {
		t.Fatalf("Acquire = %s, want %s", got, want)
	}
	if !time.Now().Before(iss.ExpiresAt) {
		t.Fatal("Acquire handed out an expired issuance")
	}
	return release
}

func bubble(t *testing.T, ttl, delay time.Duration, f func(*testing.T, *credential.Cache, *standIn, *book)) {
	synctest.Test(t, func(t *testing.T) {
		src, rec := &standIn{ttl: ttl, delay: delay}, &book{}
		c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec})
		f(t, c, src, rec)
		c.Close(t.Context())
	})
}

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
		src.fail(fmt.Errorf("down: %w", credential.ErrUnavailable))
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
		time.Sleep(31 * time.Second)
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
	})
}

func TestCacheCloseRevokesEverything(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1") // never released
		c.Close(t.Context())
		if _, n := src.counts(); n != 1 {
			t.Errorf("revoked %d, want 1", n)
		}
		if _, _, err := c.Acquire(t.Context()); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Acquire after Close = %v, want ErrClosed", err)
		}
	})
}

// A value that arrives after Close is revoked, not lost.
func TestCacheCloseDuringCall(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		done := make(chan error)
		go func() { _, _, err := c.Acquire(t.Context()); done <- err }()
		synctest.Wait()
		c.Close(t.Context())
		if err := <-done; !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Acquire = %v, want ErrClosed", err)
		}
		if issued, revoked := src.counts(); issued != 1 || revoked != 1 {
			t.Errorf("issued %d, revoked %d, want 1 and 1", issued, revoked)
		}
	})
}

// An issuance that ran out by itself is not revoked at the source, and the record says so.
func TestCacheExpiredIsNotRevokedTwice(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1")()
		time.Sleep(2 * time.Minute)
		acquire(t, c, "v2")()
		synctest.Wait()
		if _, n := src.counts(); n != 0 || len(rec.revoked) != 1 || !errors.Is(rec.revoked[0], credential.ErrExpired) {
			t.Errorf("revoked %d at the source, records %v; want none, and [ErrExpired]", n, rec.revoked)
		}
	})
}

func TestCacheRefusesUnusableValues(t *testing.T) {
	for name, iss := range map[string]*credential.Issuance{
		"empty":   {ExpiresAt: time.Now().Add(time.Hour)},
		"expired": {Value: credential.NewSecret([]byte("x")), ExpiresAt: time.Now().Add(-time.Second)},
		"no end":  {Value: credential.NewSecret([]byte("x"))},
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
