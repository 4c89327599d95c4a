package credential

import (
	"context"
	"time"
)

const (
	// idleLives is for how many lives of an issuance without a request the next one is still
	// obtained ahead of time. Then it is given up.
	idleLives = 2

	// longestNap bounds the sleep of Run while it waits for a point in time: timers stand still
	// while the machine is suspended.
	longestNap = time.Minute

	// revokeAgain is how long after a failed revocation it is tried again.
	revokeAgain = 10 * time.Second
)

// Run keeps a valid issuance at hand while the credential is in use, though no request may come at
// the moment the next one is due. One that nobody asked for in two lifetimes is given up: it is
// revoked, and the next request obtains another. One that expires all the same is recorded as
// expired then. Run returns nil when ctx ends or the cache is closed. Call it once.
func (c *Cache) Run(ctx context.Context) error {
	for {
		var timer <-chan time.Time
		nap, ok := c.upkeep()
		if ok {
			timer = time.After(nap)
		}
		select {
		case <-timer:
		case <-c.wake:
		case <-c.closing:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// upkeep does what is due, and returns how long until something is; ok is false if nothing will be
// before c.notify is called. Who acquires a valid issuance need not call that: it only puts off
// what Run waits for.
func (c *Cache) upkeep() (nap time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, false
	}
	now := c.cfg.Now()
	wanted := c.wanted(now)
	if !wanted && c.current != nil {
		c.current.retired = true
	}
	c.sweep(now)
	nap, ok = longestNap, wanted
	if wanted && c.flight == nil {
		due := c.untilDue(now)
		if due <= 0 {
			c.start(now)
		}
		nap = min(nap, max(due, 0))
	}
	if c.current != nil {
		nap = min(nap, c.patience-now.Sub(c.asked))
	}
	for h := range c.live {
		switch {
		case !h.retired:
			nap, ok = min(nap, until(now, h.iss.ExpiresAt)), true
		case h.uses == 0: // else the last release gives it up
			nap, ok = min(nap, h.revokeAt.Sub(now)), true
		}
	}
	return nap, ok
}

// wanted reports whether the credential was asked for so recently that a valid issuance is to be
// kept at hand. c.mu is held.
func (c *Cache) wanted(now time.Time) bool { return now.Sub(c.asked) < c.patience }

// untilDue returns how long until the next issuance is to be obtained, if the credential is wanted.
// c.mu is held.
func (c *Cache) untilDue(now time.Time) time.Duration {
	pause := c.aheadAt.Sub(now)
	if c.current == nil || !c.renew.IsZero() {
		return pause
	}
	return max(pause, until(now, c.current.refreshAt))
}

// Renew is for when the session has a new token, with whose predecessor the current issuance may
// end. It has that replaced in the background, if anybody asked for one within the last two
// lifetimes, and returns at once. If the source fails, [Cache.Run], or the next request, tries
// again. An issuance whose IssuedAt is not before the call of Renew will do.
func (c *Cache) Renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	now := c.cfg.Now()
	c.renew = now
	if c.wanted(now) && c.flight == nil {
		c.start(now)
	}
	c.notify()
}

func (c *Cache) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
