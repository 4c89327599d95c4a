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

// ask has n requests come, each after a pause, and returns how many got an issuance.
func ask(t *testing.T, c *credential.Cache, n int, pause time.Duration) (served int) {
	t.Helper()
	for range n {
		_, release, err := c.Acquire(t.Context())
		if err == nil {
			served++
			release()
		}
		time.Sleep(pause)
	}
	return served
}

// While requests have nothing to go on with, the source is asked again and again, though not by
// each of them, and they go on within a second of its return.
func TestOutageEndsWithinASecond(t *testing.T) {
	for range 10 { // the pauses are random
		bubble(t, time.Minute, 10*time.Millisecond, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
			src.fail(errDown)
			const outage = time.Minute
			if n := ask(t, c, int(outage/(10*time.Millisecond)), 10*time.Millisecond); n != 0 {
				t.Fatalf("%d requests were served", n)
			}
			if n := src.asked(); n < 60 || n > 180 {
				t.Errorf("the source was asked %d times in %v, want about twice a second", n, outage)
			}
			src.fail(nil)
			returned := time.Now()
			for ask(t, c, 1, time.Millisecond) == 0 {
			}
			if took := time.Since(returned); took > 1100*time.Millisecond {
				t.Errorf("it took %v from the source's return to the first request", took)
			}
		})
	}
}

func TestPauseAfterFailure(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		recorder error
		longest  time.Duration
	}{
		{"unavailable", errDown, nil, time.Second},
		{"refused", errRefused, nil, 10 * time.Second},
		{"unrecorded", nil, errors.New("disk full"), 10 * time.Second}, // each attempt issues something
	} {
		bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
			src.err, rec.err = tt.err, tt.recorder
			var longest time.Duration
			for range 100 {
				_, _, err := c.Acquire(t.Context())
				u, ok := errors.AsType[*credential.UnusableError](err)
				if !ok {
					t.Fatalf("%s: %v", tt.name, err)
				}
				longest = max(longest, u.RetryAfter)
				time.Sleep(u.RetryAfter)
			}
			if n := src.asked(); longest > tt.longest || longest < tt.longest/2 || n != 100 {
				t.Errorf("%s: the longest pause of %d was %v, want up to %v", tt.name, n, longest, tt.longest)
			}
		})
	}
}

// Many requests get the failure of one call to the source, and one of them is the first.
func TestFirstOfAFailure(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, _ *book) {
		src.fail(errDown)
		var first, all int
		for range 1000 {
			_, _, err := c.Acquire(t.Context())
			if u, ok := errors.AsType[*credential.UnusableError](err); !ok {
				t.Fatal(err)
			} else if all++; u.First() {
				first++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := src.asked(); first != n || first < 5 {
			t.Errorf("%d of %d were the first, and the source was asked %d times", first, all, n)
		}
	})
}

// With a valid issuance at hand there is time: many requests, few attempts, and still some before
// it expires.
func TestRefreshFailingLeavesTheSourceAlone(t *testing.T) {
	for range 10 { // the pauses are random
		bubble(t, time.Hour, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
			acquire(t, c, "v1")()
			src.fail(errDown)
			time.Sleep(46 * time.Minute) // a refresh is due now, whatever the jitter
			const seconds = 13 * 60
			if n := ask(t, c, seconds, time.Second); n != seconds {
				t.Errorf("%d of %d requests were served", n, seconds)
			}
			if n := src.asked() - 1; n < 20 || n > 150 {
				t.Errorf("the source was asked %d times in 13 min, want one time in about 15 s", n)
			}
			ask(t, c, 200, 100*time.Millisecond)
			last := src.asked()
			ask(t, c, 200, 100*time.Millisecond)
			if n := src.asked() - last; n < 2 {
				t.Errorf("in 20 s of the last 40 the source was asked %d times, want more often", n)
			}
		})
	}
}

func TestSourceThatHangs(t *testing.T) {
	bubble(t, time.Minute, time.Hour, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		began := time.Now()
		_, _, err := c.Acquire(t.Context())
		if took := time.Since(began); !errors.Is(err, credential.ErrUnavailable) || took != 10*time.Second {
			t.Errorf("Acquire = %v after %v, want ErrUnavailable after 10 s", err, took)
		}
		src.slow(0)
		time.Sleep(time.Second)
		acquire(t, c, "v1")()
	})
}

// A wall clock that went on while the monotonic one stood still, as in a suspended machine, counts.
func TestSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		clock := func() time.Time {
			if d := time.Duration(slept.Load()); d != 0 {
				return time.Now().Round(0).Add(d) // compared by the wall clock
			}
			return time.Now()
		}
		src, rec := &standIn{ttl: 50 * time.Minute, now: clock}, &book{}
		c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec, Now: clock})
		iss, release, err := c.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run(t, c)
		synctest.Wait()
		slept.Store(int64(time.Hour))
		if err := iss.RecordUse(mustNotRecord(t)); !errors.Is(err, credential.ErrExpired) {
			t.Errorf("RecordUse = %v, want ErrExpired", err)
		}
		release()
		iss, release, err = c.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(iss.Value.Expose()); got != "v2" {
			t.Errorf("Acquire = %s, want v2", got)
		}
		release()
		slept.Store(int64(3 * time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(rec.ended()); n != 2 {
			t.Errorf("a minute after the machine woke up %d ends were recorded, want 2", n)
		}
		c.Close(t.Context())
		if err := rec.check(src); err != nil {
			t.Error(err)
		}
	})
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	bubble(t, time.Minute, time.Minute, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := c.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Acquire = %v, want DeadlineExceeded", err)
		}
	})
}
