package credential_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/credential"
)

// A user makes requests and checks what it gets. All users of a cache share newest.
type user struct {
	c      *credential.Cache
	newest *atomic.Int64 // the highest number that anyone was handed
	served *atomic.Int64
}

// serve checks an issuance, keeps it for a while and releases it.
func (u user) serve(iss *credential.Issuance, release func(), since int64, keep time.Duration) error {
	defer release()
	n, err := strconv.ParseInt(string(iss.Value.Expose()[1:]), 10, 64)
	switch {
	case err != nil:
		return fmt.Errorf("value %q", iss.Value.Expose())
	case n < since:
		return fmt.Errorf("v%d was handed out after v%d had been", n, since)
	case !time.Now().Before(iss.ExpiresAt):
		return fmt.Errorf("v%d was handed out when it had expired", n)
	}
	for old := u.newest.Load(); n > old && !u.newest.CompareAndSwap(old, n); old = u.newest.Load() {
	}
	u.served.Add(1)
	time.Sleep(keep)
	if got := string(iss.Value.Expose()[1:]); got != strconv.FormatInt(n, 10) {
		return fmt.Errorf("the value of v%d became %q while it was in use", n, got)
	}
	return nil
}

// request is one request, which may be refused by its upstream.
func (u user) request(ctx context.Context, keep time.Duration, refused bool) error {
	since := u.newest.Load()
	iss, release, err := u.c.Acquire(ctx)
	if err != nil {
		return expected(err)
	}
	if err := iss.RecordUse(func() error { return nil }); err != nil {
		release()
		return expected(err)
	}
	if !refused {
		return u.serve(iss, release, since, keep)
	}
	defer release()
	n, _ := strconv.ParseInt(string(iss.Value.Expose()[1:]), 10, 64)
	next, again, err := u.c.Reissue(ctx, iss)
	if err != nil {
		return expected(err)
	}
	return u.serve(next, again, n+1, keep)
}

func expected(err error) error {
	if errors.Is(err, credential.ErrUnavailable) || errors.Is(err, credential.ErrClosed) || errors.Is(err, credential.ErrReissuedRecently) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, credential.ErrExpired) {
		return nil
	}
	return err
}

// Many at once, with failures, refusals, new tokens and a Close in the middle of it.
func TestStress(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			src, rec := &standIn{ttl: 3 * time.Second, delay: 30 * time.Millisecond}, &book{}
			c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec})
			u := user{c, new(atomic.Int64), new(atomic.Int64)}
			if seed%4 != 0 {
				run(t, c)
			}
			var all sync.WaitGroup
			for i := range uint64(60) {
				r := rand.New(rand.NewPCG(seed, i))
				all.Go(func() {
					for range 100 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(500))*time.Millisecond)
						if err := u.request(ctx, time.Duration(r.IntN(300))*time.Millisecond, r.IntN(20) == 0); err != nil {
							t.Error(err)
						}
						cancel()
						time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
					}
				})
			}
			all.Go(func() {
				r := rand.New(rand.NewPCG(seed, 1000))
				for range 100 {
					switch r.IntN(8) {
					case 0:
						src.fail(errDown)
					case 1:
						src.failRevoke(errDown)
					case 2:
						c.Renew()
					case 3:
						if err := c.Prefetch(t.Context()); err != nil && expected(err) != nil {
							t.Error(err)
						}
					default:
						src.fail(nil)
						src.failRevoke(nil)
					}
					time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
				}
			})
			time.Sleep(20 * time.Second)
			c.Close(t.Context())
			all.Wait()
			if err := rec.check(src); err != nil {
				t.Error(err)
			}
			if u.served.Load() < 1000 {
				t.Errorf("only %d requests were served", u.served.Load())
			}
		})
	}
}

// For every sequence of events: nothing expired or replaced is handed out, the source is asked once
// at a time, re-mints are 10 s apart, and each issuance has one end.
func TestCacheProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		events := rapid.SliceOfN(rapid.Custom(drawEvent), 1, 60).Draw(r, "events")
		kept := rapid.Bool().Draw(r, "run")
		delay := time.Duration(rapid.IntRange(0, 3000).Draw(r, "delay")) * time.Millisecond
		var err error
		synctest.Test(t, func(t *testing.T) { err = play(t.Context(), events, kept, delay) })
		if err != nil {
			r.Fatal(err)
		}
	})
}

type event struct {
	What string
	For  time.Duration
}

func drawEvent(r *rapid.T) event {
	return event{
		rapid.SampledFrom([]string{"sleep", "request", "refused", "renew", "prefetch", "down", "up", "stuck", "loose"}).Draw(r, "what"),
		time.Duration(rapid.IntRange(0, 30_000).Draw(r, "ms")) * time.Millisecond,
	}
}

// play has the events happen, one after the other while requests last as long as they do.
func play(ctx context.Context, events []event, kept bool, delay time.Duration) error {
	src, rec := &standIn{ttl: 10 * time.Second, delay: delay}, &book{}
	c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec})
	u := user{c, new(atomic.Int64), new(atomic.Int64)}
	var all sync.WaitGroup
	if kept {
		all.Go(func() { c.Run(ctx) })
	}
	found := make(chan error, len(events))
	request := func(e event) {
		all.Go(func() { found <- u.request(ctx, e.For, e.What == "refused") })
	}
	for _, e := range events {
		switch e.What {
		case "sleep":
			time.Sleep(e.For)
		case "request", "refused":
			request(e)
		case "renew":
			c.Renew()
		case "prefetch":
			all.Go(func() { c.Prefetch(ctx) })
		case "down":
			src.fail(errDown)
		case "up":
			src.fail(nil)
		case "stuck":
			src.failRevoke(errDown)
		case "loose":
			src.failRevoke(nil)
		}
	}
	c.Close(ctx)
	all.Wait()
	close(found)
	errs := []error{rec.check(src), remints(rec, src)}
	for err := range found {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remints checks that what replaced a refused issuance was asked for 10 s after the one before.
func remints(rec *book, src *standIn) error {
	var last time.Time
	for i, replaced := range rec.replaces {
		if replaced == "" {
			continue
		}
		if at := src.starts[i]; !last.IsZero() && at.Sub(last) < 10*time.Second {
			return fmt.Errorf("two re-mints within %v", at.Sub(last))
		} else {
			last = at
		}
	}
	return nil
}
