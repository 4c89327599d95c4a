package credential

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// remintEvery is the least time between two re-mints. An upstream that refuses everything must not
// make the source issue without end.
const remintEvery = 10 * time.Second

// ErrReissuedRecently means that an upstream refused an issuance while the last re-mint is less
// than 10 s ago: another new one would hardly help, and the source is spared.
var ErrReissuedRecently = errors.New("credential was issued anew a moment ago")

// Reissue is for a request whose upstream answered that refused, which the caller acquired, is not
// valid. It returns an issuance to try instead, to be released as one of [Cache.Acquire].
//
// That is the current one if refused is not. Otherwise the source is asked for one that replaces
// refused (a re-mint), unless it is already being asked; all who wait share the call. In 10 s, from
// the start of the last, there is at most one re-mint; a failed one does not count, and is followed
// by the usual pause instead. Once replaced, refused is never handed out again, and it is revoked
// when the last request has released it. Until then it stays current: the refusal may be a whim of
// one upstream, and a credential that some still accept is better than none.
//
// The error is one of Acquire's, or wraps [ErrReissuedRecently].
func (c *Cache) Reissue(ctx context.Context, refused *Issuance) (iss *Issuance, release func(), err error) {
	return c.handOut(c.await(ctx, func(now time.Time) (*held, *flight, error) {
		return c.retake(now, refused.ID)
	}))
}

// retake is the step of a request that was refused.
func (c *Cache) retake(now time.Time, refused string) (*held, *flight, error) {
	if !c.usable(now) || c.current.iss.ID != refused {
		return c.take(now)
	}
	if c.flight == nil && c.reissuedBefore(now) {
		return nil, nil, fmt.Errorf("credential %q: %w", c.cfg.Name, ErrReissuedRecently)
	}
	f, err := c.ask(now)
	if err == nil && f.replaces == "" && !f.answered && !c.reissuedBefore(f.began) {
		f.replaces = refused // though it may have begun as a refresh
	}
	return nil, f, err
}

// reissuedBefore reports whether a re-mint at t would come too soon after the last. c.mu is held.
func (c *Cache) reissuedBefore(t time.Time) bool {
	return !c.reissued.IsZero() && t.Sub(c.reissued) < remintEvery
}
