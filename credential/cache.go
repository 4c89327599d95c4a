package credential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"
)

// ErrExpired is what a [Recorder] is told when an issuance reached its expiry before it was
// given up, so that there was nothing left to revoke.
var ErrExpired = errors.New("expired before it was revoked")

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

	// RevokeTimeout bounds one revocation outside of [Cache.Close]. Zero means 5 s.
	RevokeTimeout time.Duration

	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
}

func (c CacheConfig) issueTimeout() time.Duration  { return cmp.Or(c.IssueTimeout, 10*time.Second) }
func (c CacheConfig) revokeTimeout() time.Duration { return cmp.Or(c.RevokeTimeout, 5*time.Second) }

// A Cache hands out the current issuance of one credential, obtains the next one ahead of
// time, and never hands out one that has expired. All requests that need a new issuance share
// one call to the source, which no single request's end can cancel. After a failure the source
// is left alone for a while that grows with each failure in a row (full jitter, 100 ms to 30 s).
//
// A Cache starts no goroutine that outlives a call to its source. It is safe for concurrent use.
type Cache struct {
	cfg    CacheConfig
	flight singleflight.Group
	calls  sync.WaitGroup // calls to the source that are under way; added to under mu while open

	mu       sync.Mutex
	current  *held              // may have expired; nil before the first issuance and after Close
	live     map[*held]struct{} // everything issued and not yet given up
	failures int                // in a row
	lastErr  error              // of the last failure; nil after a success
	retryAt  time.Time          // the source is not asked before this
	closed   bool
}

// held is an issuance with what the cache has to know of it. Its fields are guarded by
// Cache.mu, iss is not changed.
type held struct {
	iss       *Issuance
	refreshAt time.Time // from here on a use starts obtaining the next one
	usableTo  time.Time // a little before iss.ExpiresAt: the request has to arrive too
	uses      int
	replaced  bool
}

// NewCache returns an empty cache.
func NewCache(cfg CacheConfig) *Cache {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Cache{cfg: cfg, live: map[*held]struct{}{}}
}

// UnusableError says that there is no issuance to hand out now. It wraps the source's error.
type UnusableError struct {
	// Credential is the credential's name.
	Credential string

	// RetryAfter is how long the source will be left alone; never negative.
	RetryAfter time.Duration

	// Err is the source's last error; it wraps [ErrRefused] or [ErrUnavailable].
	Err error
}

// Error implements error. The text is for operators, not for the agent.
func (e *UnusableError) Error() string {
	return fmt.Sprintf("credential %q: %v", e.Credential, e.Err)
}

// Unwrap returns the source's error.
func (e *UnusableError) Unwrap() error { return e.Err }

// Acquire returns an issuance that is valid now. The caller must call release once, when the
// request that carries it has ended: an issuance that was replaced is revoked then.
//
// Acquire blocks while the source is asked and nothing valid is at hand, until ctx ends. The
// error is a [*UnusableError], or wraps [ErrClosed] or ctx's error.
func (c *Cache) Acquire(ctx context.Context) (iss *Issuance, release func(), err error) {
	for {
		h, wait, err := c.take(ctx)
		if err != nil {
			return nil, nil, err
		}
		if h != nil {
			return h.iss, sync.OnceFunc(func() { c.release(h) }), nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("credential %q: %w", c.cfg.Name, ctx.Err())
		}
	}
}

// take returns the current issuance if it is valid, else the channel of the call that will
// bring the next one.
func (c *Cache) take(ctx context.Context) (*held, <-chan singleflight.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, fmt.Errorf("credential %q: %w", c.cfg.Name, ErrClosed)
	}
	now := c.cfg.Now()
	if h := c.current; h != nil && before(now, h.usableTo) {
		if !before(now, h.refreshAt) && !now.Before(c.retryAt) {
			c.startIssue(ctx)
		}
		h.uses++
		return h, nil, nil
	}
	if c.lastErr != nil && now.Before(c.retryAt) {
		return nil, nil, &UnusableError{c.cfg.Name, c.retryAt.Sub(now), c.lastErr}
	}
	return nil, c.startIssue(ctx), nil
}

// startIssue starts a call to the source or joins the one under way. c.mu is held, so that a
// call cannot finish between the look at the state and the joining.
func (c *Cache) startIssue(ctx context.Context) <-chan singleflight.Result {
	ctx = context.WithoutCancel(ctx) // the call belongs to all who wait, not to who came first
	return c.flight.DoChan("", func() (any, error) {
		c.issue(ctx)
		return nil, nil
	})
}

func (c *Cache) issue(ctx context.Context) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.calls.Add(1)
	c.mu.Unlock()
	defer c.calls.Done()

	ctx, cancel := context.WithTimeout(ctx, c.cfg.issueTimeout())
	defer cancel()
	iss, err := c.obtain(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if err != nil {
		c.failures++
		c.lastErr = err
		c.retryAt = now.Add(backoff(c.failures))
		return
	}
	c.failures, c.lastErr, c.retryAt = 0, nil, time.Time{}
	h := newHeld(iss)
	c.live[h] = struct{}{}
	old := c.current
	c.current = h
	if c.closed { // Close took what was live before this one came
		c.current = nil
		old = h
	}
	if old != nil {
		old.replaced = true
		c.giveUpIfUnused(old)
	}
}

// obtain asks the source and has the answer recorded.
func (c *Cache) obtain(ctx context.Context) (*Issuance, error) {
	id := uuid.NewString()
	iss, err := c.cfg.Source.Issue(ctx, id)
	if err != nil {
		return nil, err
	}
	iss.ID, iss.Credential = id, c.cfg.Name
	switch now := c.cfg.Now(); {
	case iss.Value.IsZero():
		err = fmt.Errorf("empty value: %w", ErrRefused)
	case !before(now, iss.ExpiresAt):
		err = fmt.Errorf("value had expired when it came: %w", ErrUnavailable)
	default:
		err = c.cfg.Recorder.Issued(iss)
		if err != nil {
			err = fmt.Errorf("record issuance: %v: %w", err, ErrUnavailable)
		}
	}
	if err != nil {
		c.revokeAtSource(context.WithoutCancel(ctx), iss)
		return nil, err
	}
	return iss, nil
}

func newHeld(iss *Issuance) *held {
	ttl := iss.ExpiresAt.Sub(iss.IssuedAt)
	margin := min(ttl/20, 2*time.Second)
	ahead := time.Duration(float64(ttl) * (2.0/3 + 0.2*(rand.Float64()-0.5))) // 2/3 of the lifetime, +-10 % of it
	return &held{iss: iss, refreshAt: iss.IssuedAt.Add(ahead), usableTo: iss.ExpiresAt.Add(-margin)}
}

// before reports whether t is before deadline on the monotonic clock and on the wall clock: a
// suspended machine stops the one, a stepped clock moves the other, and neither may prolong a
// credential's life.
func before(t, deadline time.Time) bool {
	return t.Before(deadline) && t.Round(0).Before(deadline.Round(0))
}

// backoff is the pause after the nth failure in a row.
func backoff(n int) time.Duration {
	const base, longest = 100 * time.Millisecond, 30 * time.Second
	ceiling := longest
	if n < 10 {
		ceiling = min(base<<n, longest)
	}
	return base/2 + rand.N(ceiling)
}

func (c *Cache) release(h *held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.uses--
	if h.replaced {
		c.giveUpIfUnused(h)
	}
}

// giveUpIfUnused revokes h in the background unless a request still carries it. c.mu is held.
func (c *Cache) giveUpIfUnused(h *held) {
	if _, ok := c.live[h]; !ok || h.uses > 0 {
		return
	}
	delete(c.live, h)
	c.calls.Add(1)
	go func() {
		defer c.calls.Done()
		c.revoke(context.Background(), h.iss)
		h.iss.Value.Wipe()
		h.iss.User.Wipe()
	}()
}

// revoke ends iss at its source, unless it ended by itself, and records what came of it.
func (c *Cache) revoke(ctx context.Context, iss *Issuance) {
	err := error(ErrExpired)
	if before(c.cfg.Now(), iss.ExpiresAt) {
		err = c.revokeAtSource(ctx, iss)
	}
	c.cfg.Recorder.Revoked(iss, err)
}

func (c *Cache) revokeAtSource(ctx context.Context, iss *Issuance) error {
	r, ok := c.cfg.Source.(Revoker)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.revokeTimeout())
	defer cancel()
	return r.Revoke(ctx, iss)
}

// Close ends the cache: nothing is handed out any more, and everything that was issued and not
// yet given up is revoked and recorded, whether or not a request still carries it. It returns
// when all calls to the source have ended, each bounded by ctx and its own timeout. Closing
// again does nothing.
func (c *Cache) Close(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	c.current = nil
	left := c.live
	c.live = map[*held]struct{}{}
	c.mu.Unlock()
	for h := range left {
		c.calls.Go(func() { c.revoke(ctx, h.iss) })
	}
	c.calls.Wait()
}
