package credential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrExpired means that an issuance reached its expiry: a [Recorder] is told so when that came
// before it was given up, and [Issuance.RecordUse] when it came before the use's record was written.
var ErrExpired = errors.New("credential expired")

// CacheConfig says what a [Cache] stands before. Name, Source and Recorder are required.
type CacheConfig struct {
	// Name is the credential's name in the policy.
	Name string

	// Source obtains the values. If it is a [Revoker] too, what it issued is revoked.
	Source Source

	// Recorder keeps the trail of issuances.
	Recorder Recorder

	// IssueTimeout bounds one call to Source. Zero means 10 s.
	IssueTimeout time.Duration

	// RevokeTimeout bounds one revocation. Zero means 5 s.
	RevokeTimeout time.Duration

	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
}

func (c CacheConfig) issueTimeout() time.Duration  { return cmp.Or(c.IssueTimeout, 10*time.Second) }
func (c CacheConfig) revokeTimeout() time.Duration { return cmp.Or(c.RevokeTimeout, 5*time.Second) }

// A Cache hands out the current issuance of one credential and obtains the next one ahead of
// time. It never hands out one that has expired, nor one that it has replaced.
//
// At most one call to the source is under way at a time. All requests that need a new issuance
// share it, and no single request's end can cancel it. After a failure the source is left alone
// for a while that grows with each failure in a row, with full jitter: up to 1 s when requests
// have nothing to go on with (10 s if the source refused, or what it issued cannot be recorded), up
// to 30 s when they still have, but not past a quarter of the time that is left.
//
// An issuance that was replaced, or that nobody used for two of its lifetimes, is revoked as soon
// as no request carries it, and its bytes are wiped. While its source is unavailable that is tried
// again. Whatever was recorded as issued is recorded as revoked once.
//
// Without [Cache.Run] a cache does all this only when it is used. It is safe for concurrent use.
// End it with [Cache.Close].
type Cache struct {
	cfg     CacheConfig
	wake    chan struct{} // tells Run that there may be something to do
	closing chan struct{} // closed by Close

	// work ends with the context of Close. It bounds what belongs to the cache and not to one of
	// its callers: the calls to the source.
	work     context.Context
	stopWork context.CancelFunc
	calls    sync.WaitGroup // goroutines of the cache; added to under mu while it is not closed
	over     chan struct{}  // closed when Close has done all

	mu      sync.Mutex
	current *held              // may have expired; nil before the first issuance and after Close
	live    map[*held]struct{} // everything issued that is not given up, nor about to be
	flight  *flight            // the call to the source that is under way, if any
	closed  bool
	inUse   int // uses of all issuances

	asked    time.Time     // the last time somebody wanted an issuance
	lastUsed time.Time     // the last time a request got one
	patience time.Duration // how long after asked Run still keeps a valid one at hand; 0 before the first
	renew    time.Time     // when Renew asked for a newer issuance than was at hand; zero once there is one
	reissued time.Time     // start of the last re-mint that brought one

	failures int          // in a row
	lastErr  error        // of the last failure; nil after a success
	told     *atomic.Bool // of the last failure: see UnusableError.First
	askAt    time.Time    // while requests wait, the source is not asked before
	aheadAt  time.Time    // while they do not, it is not asked before

	unrevoked []*Issuance // given up, and the source refused to revoke them
}

// held is an issuance with what the cache has to know of it. Its fields are guarded by
// Cache.mu, iss is not changed.
type held struct {
	iss       *Issuance
	refreshAt time.Time // from here on the next one is obtained
	usableTo  time.Time // a little before iss.ExpiresAt: the request has to arrive too
	uses      int
	retired   bool      // not handed out any more
	revokeAt  time.Time // not revoked before: its source was unavailable
	gone      bool      // recorded as given up; its bytes go with the last use
}

// NewCache returns an empty cache.
func NewCache(cfg CacheConfig) *Cache {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Cache{cfg: cfg, live: map[*held]struct{}{}, wake: make(chan struct{}, 1), closing: make(chan struct{}), over: make(chan struct{})}
	c.work, c.stopWork = context.WithCancel(context.Background())
	return c
}

// UnusableError says that there is no issuance to hand out now. It wraps the source's error.
type UnusableError struct {
	// Credential is the credential's name.
	Credential string

	// RetryAfter is how long the source will be left alone; never negative.
	RetryAfter time.Duration

	// Err is the source's last error; it wraps [ErrRefused] or [ErrUnavailable].
	Err error

	told *atomic.Bool // shared by all who get the same failure; nil counts as not told
}

// First reports whether the caller is the first to ask that of one failed call to the source, which
// may fail thousands of requests: a log needs one line for it.
func (e *UnusableError) First() bool { return e.told == nil || e.told.CompareAndSwap(false, true) }

// Error implements error. The text is for operators, not for the agent.
func (e *UnusableError) Error() string {
	return fmt.Sprintf("credential %q: %v", e.Credential, e.Err)
}

// Unwrap returns the source's error.
func (e *UnusableError) Unwrap() error { return e.Err }

// Acquire returns an issuance that is valid now. The caller must call release once, when the
// request that carries it has ended: an issuance that was replaced is revoked then, and its bytes
// are wiped.
//
// Acquire blocks while the source is asked and nothing valid is at hand, until ctx ends. The
// error is a [*UnusableError], or wraps [ErrClosed] or ctx's error.
func (c *Cache) Acquire(ctx context.Context) (iss *Issuance, release func(), err error) {
	return c.handOut(c.await(ctx, c.take))
}

// Prefetch obtains the first issuance, so that no request has to wait for it, unless there is a
// valid one. Its errors are those of [Cache.Acquire]. It counts as an interest in the credential,
// as a request does, but not in [Status.LastUsed].
func (c *Cache) Prefetch(ctx context.Context) error {
	h, err := c.await(ctx, c.peek)
	if err == nil {
		c.release(h)
	}
	return err
}

func (c *Cache) handOut(h *held, err error) (*Issuance, func(), error) {
	if err != nil {
		return nil, nil, err
	}
	return h.iss, sync.OnceFunc(func() { c.release(h) }), nil
}

// A step, made with c.mu held, returns one of: an issuance to hand out, the call to the source to
// wait for before the next step, an error.
type step func(now time.Time) (*held, *flight, error)

// await makes steps until one yields an issuance, and counts its use.
func (c *Cache) await(ctx context.Context, s step) (*held, error) {
	for {
		h, f, err := c.attempt(s)
		if h != nil || err != nil {
			return h, err
		}
		select {
		case <-f.done:
			if f.err != nil {
				return nil, f.err
			}
		case <-c.closing:
		case <-ctx.Done():
			return nil, fmt.Errorf("credential %q: %w", c.cfg.Name, ctx.Err())
		}
	}
}

func (c *Cache) attempt(s step) (*held, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, c.errClosed()
	}
	now := c.cfg.Now()
	c.asked = now
	h, f, err := s(now)
	if h != nil {
		h.uses++
		c.inUse++
	}
	return h, f, err
}

func (c *Cache) errClosed() error { return fmt.Errorf("credential %q: %w", c.cfg.Name, ErrClosed) }

// peek is the step of who does not mind how old the issuance is.
func (c *Cache) peek(now time.Time) (*held, *flight, error) {
	if c.usable(now) {
		return c.current, nil, nil
	}
	f, err := c.ask(now)
	return nil, f, err
}

// take is the step of a request. It starts what Run would start, where there is no Run.
func (c *Cache) take(now time.Time) (*held, *flight, error) {
	h, f, err := c.peek(now)
	if h != nil {
		c.lastUsed = now
		if c.flight == nil && c.untilDue(now) <= 0 {
			c.start(now)
		}
	}
	return h, f, err
}

// usable reports whether the current issuance can be handed out. c.mu is held.
func (c *Cache) usable(now time.Time) bool {
	return c.current != nil && before(now, c.current.usableTo)
}

func (c *Cache) release(h *held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.uses--
	c.inUse--
	switch {
	case h.gone:
		h.wipeIfUnused()
	case h.retired:
		c.giveUpIfUnused(h, c.cfg.Now())
	}
}

// wipeIfUnused clears the bytes of an issuance that was given up. Cache.mu is held.
func (h *held) wipeIfUnused() {
	if h.uses == 0 {
		h.iss.Value.Wipe()
		h.iss.User.Wipe()
	}
}

// A Status describes a [Cache] to an operator. It holds no secret.
type Status struct {
	// Name is the credential's name in the policy.
	Name string

	// Held says that an issuance is at hand that is valid now.
	Held bool

	// ExpiresAt is when it expires; zero if none is held.
	ExpiresAt time.Time

	// LastUsed is when a request last got an issuance; zero if none did.
	LastUsed time.Time

	// InUse counts the requests under way that carry an issuance, be it one that was replaced.
	InUse int

	// Err is the source's last failure; nil after a success. It wraps [ErrRefused] or
	// [ErrUnavailable].
	Err error

	// RetryAt is when the source may be asked again; zero if Err is nil.
	RetryAt time.Time
}

// Status describes the cache as it is now.
func (c *Cache) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Name: c.cfg.Name, Held: c.usable(c.cfg.Now()), LastUsed: c.lastUsed, InUse: c.inUse, Err: c.lastErr}
	if s.Held {
		s.ExpiresAt = c.current.iss.ExpiresAt
	}
	switch {
	case s.Err != nil && s.Held:
		s.RetryAt = c.aheadAt
	case s.Err != nil:
		s.RetryAt = c.askAt
	}
	return s
}
