package credential

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// askCeiling bounds the pause after a failure while requests wait, and so how much longer than
	// the source itself they are without a credential.
	askCeiling = time.Second

	// refusedCeiling bounds it if the source said no, which only an operator can change and every
	// sidecar of the role is told alike, or if each attempt costs an issuance.
	refusedCeiling = 10 * time.Second

	// aheadCeiling bounds it while there is a valid issuance.
	aheadCeiling = 30 * time.Second

	// shortestLife is what an issuance must have before it when it comes. A source whose values
	// end at once would be asked without a pause.
	shortestLife = 100 * time.Millisecond

	// longestLife is what a longer one counts as, so that multiples of it are durations.
	longestLife = 10 * 365 * 24 * time.Hour
)

// errUnrecorded tells the recorder's failures from the source's.
var errUnrecorded = errors.New("issuance could not be recorded")

// A flight is one call to the source, which all who need it wait for.
type flight struct {
	began time.Time
	done  chan struct{}
	err   error // set before done is closed

	// Cache.mu guards these.
	replaces string // ID of the refused issuance that this call replaces; "" if none
	answered bool   // the source has: too late to change replaces
}

// ask returns the call to the source that is under way, or starts one unless the source is being
// left alone. c.mu is held.
func (c *Cache) ask(now time.Time) (*flight, error) {
	switch {
	case c.flight != nil:
		return c.flight, nil
	case c.lastErr != nil && now.Before(c.askAt):
		return nil, c.unusable(now)
	}
	return c.start(now), nil
}

// start starts a call to the source. c.mu is held, c is not closed, and no call is under way.
func (c *Cache) start(now time.Time) *flight {
	f := &flight{began: now, done: make(chan struct{})}
	c.flight = f
	c.calls.Go(func() { c.fly(f) })
	return f
}

// fly makes the call, and takes what it brings in.
func (c *Cache) fly(f *flight) {
	iss, err := c.obtain(f)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	c.flight = nil
	switch {
	case err == nil:
		c.land(f, iss, now)
	case !c.closed: // else who waits gets ErrClosed
		f.err = c.fail(err, now)
	}
	close(f.done)
	c.notify()
}

// obtain asks the source and has the answer recorded.
func (c *Cache) obtain(f *flight) (*Issuance, error) {
	ctx, cancel := context.WithTimeout(c.work, c.cfg.issueTimeout())
	defer cancel()
	id := uuid.NewString()
	iss, err := c.cfg.Source.Issue(ctx, id)
	if err == nil && iss == nil {
		err = fmt.Errorf("source returned nothing: %w", ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	iss.ID, iss.Credential, iss.ExpiresAt = id, c.cfg.Name, endOf(iss, c.cfg.Now())
	c.mu.Lock()
	f.answered, iss.Replaces = true, f.replaces
	c.mu.Unlock()
	switch {
	case iss.Value.IsZero():
		err = fmt.Errorf("empty value: %w", ErrRefused)
	case until(c.cfg.Now(), iss.ExpiresAt) < shortestLife:
		err = fmt.Errorf("value had expired, or nearly so, when it came: %w", ErrUnavailable)
	default:
		if err = c.cfg.Recorder.Issued(iss); err != nil {
			err = fmt.Errorf("%w: %v: %w", errUnrecorded, err, ErrUnavailable)
		}
	}
	if err != nil {
		_ = c.revokeAtSource(c.work, iss) // it was never used; its expiry is the bound
		iss.Value.Wipe()
		iss.User.Wipe()
		return nil, err
	}
	return iss, nil
}

// land makes iss, which f brought, the current issuance. c.mu is held.
func (c *Cache) land(f *flight, iss *Issuance, now time.Time) {
	c.failures, c.lastErr, c.askAt, c.aheadAt = 0, nil, time.Time{}, time.Time{}
	h, life := newHeld(iss, now, c.cfg.Now)
	c.live[h] = struct{}{}
	if c.closed { // Close gives it up
		return
	}
	if c.current != nil {
		c.current.retired = true
	}
	c.current = h
	c.patience = idleLives * life
	if f.replaces != "" {
		c.reissued = f.began
	}
	if !f.began.Before(c.renew) || !iss.IssuedAt.Before(c.renew) {
		c.renew = time.Time{}
	}
	c.sweep(now)
}

// fail notes that a call failed, and returns what who waited for it gets. c.mu is held.
func (c *Cache) fail(err error, now time.Time) error {
	c.failures++
	c.lastErr, c.told = err, new(atomic.Bool)
	ceiling := askCeiling
	if errors.Is(err, ErrRefused) || errors.Is(err, errUnrecorded) {
		ceiling = refusedCeiling
	}
	c.askAt = now.Add(backoff(c.failures, ceiling))
	ahead := aheadCeiling
	if c.usable(now) { // several more attempts before it expires
		ahead = min(ahead, max(ceiling, until(now, c.current.usableTo)/4))
	}
	c.aheadAt = now.Add(backoff(c.failures, ahead))
	return c.unusable(now)
}

// unusable returns the last failure as who needs an issuance gets it. c.mu is held.
func (c *Cache) unusable(now time.Time) error {
	return &UnusableError{c.cfg.Name, max(0, c.askAt.Sub(now)), c.lastErr, c.told}
}

// backoff is the pause after the nth failure in a row, at most longest.
func backoff(n int, longest time.Duration) time.Duration {
	const base = 100 * time.Millisecond
	ceiling := longest
	if n < 10 {
		ceiling = min(base<<n, longest)
	}
	return base/2 + rand.N(ceiling-base/2)
}

// endOf returns when iss, which came now, expires, on both clocks: a source may tell it of the wall
// clock alone, and setting that back must not prolong a life. If it was set while the source was
// asked, the life is what the source meant by it.
func endOf(iss *Issuance, now time.Time) time.Time {
	left := until(now, iss.ExpiresAt)
	if meant := iss.ExpiresAt.Sub(iss.IssuedAt); meant >= shortestLife {
		left = min(left, meant)
	}
	return now.Add(left)
}

// newHeld returns iss, which came now, as the cache holds it, and how long it will live. Who uses
// it loses a margin of that: half for the way from here to the record of the use, half for the way
// from there to the upstream.
func newHeld(iss *Issuance, now time.Time, clock func() time.Time) (h *held, life time.Duration) {
	life = min(max(until(now, iss.ExpiresAt), 0), longestLife) // it may have expired while it was recorded
	margin := min(life/20, 2*time.Second)
	ahead := time.Duration(float64(life) * (2.0/3 + 0.2*(rand.Float64()-0.5))) // 2/3 of its life, +-10 % of it
	iss.uses = &useGate{now: clock, until: iss.ExpiresAt.Add(-margin / 2)}
	return &held{iss: iss, refreshAt: now.Add(ahead), usableTo: iss.ExpiresAt.Add(-margin)}, life
}

// before reports whether t is before deadline on the monotonic clock and on the wall clock: a
// suspended machine stops the one, a stepped clock moves the other, and neither may prolong a
// credential's life.
func before(t, deadline time.Time) bool { return until(t, deadline) > 0 }

// until returns how long t is before deadline, on the clock that says less.
func until(t, deadline time.Time) time.Duration {
	return min(deadline.Sub(t), deadline.Round(0).Sub(t.Round(0)))
}
