package vault

import (
	"maps"
	"math/rand/v2"
	"time"
)

// A token is one generation of the session's Vault token, with what hangs on it. The
// session's mutex guards all fields that change once the token is the session's.
type token struct {
	value      hidden
	expires    time.Time // on the wall clock; zero: never
	life       deadline  // the same on both clocks
	renewal    deadline  // when the next login is due
	generation int
	metadata   map[string]string // what Vault says of the login
	batch      bool              // the login's token is a batch token

	// own is what the session is to revoke, a child before its parent. The operator's own token
	// and batch tokens are not in it. While they are revoked it is not the session's mutex that
	// guards it: see revokeSelf.
	own []ownToken

	inUse   int                  // calls under way with it: they may yet bring leases
	leases  map[string]time.Time // live leases by id, and when each expires
	retryAt time.Time            // when revoking it may be tried again
	doubted bool                 // a call found it to be no good
}

// An ownToken is one token at Vault that ends by our revoking it.
type ownToken struct {
	value  hidden
	orphan bool // its parent's end does not end it

	lost bool  // an attempt to revoke it got no answer, and may have done it
	err  error // of the last attempt
}

// newToken returns the token of value that Vault made for ttl, 0 meaning for ever, when it was
// asked. The next login is due at two thirds of ttl, give or take 10 %, so that the pods of a
// deployment do not all log in at once.
func newToken(value string, asked instant, ttl time.Duration) *token {
	t := &token{value: hide(value), leases: map[string]time.Time{}}
	if ttl > 0 {
		t.life = asked.after(ttl)
		t.expires = t.life.wall
		t.renewal = asked.after(time.Duration(float64(ttl) * 2 / 3 * (0.9 + 0.2*rand.Float64())))
	}
	return t
}

// adopt makes child the token that calls are made with. It lives no longer than its parent.
func (t *token) adopt(child *token) {
	t.value = child.value
	t.own = append(child.own, t.own...)
	if t.expires.IsZero() || !child.expires.IsZero() && child.expires.Before(t.expires) {
		t.expires, t.life, t.renewal = child.expires, child.life, child.renewal
	}
}

func (t *token) expired(now time.Time) bool { return t.life.reached(now) }

// idle reports whether nothing needs t any more. It forgets leases that have expired.
func (t *token) idle(now time.Time) bool {
	maps.DeleteFunc(t.leases, func(_ string, expires time.Time) bool { return passed(expires, now) })
	return t.inUse == 0 && len(t.leases) == 0
}

// An instant is one moment on two clocks: the wall's, which can be set while the process runs,
// and the monotonic one, which stands still while the machine is suspended.
type instant struct{ wall, mono time.Time }

func (i instant) after(d time.Duration) deadline { return deadline{i.wall.Add(d), i.mono.Add(d)} }

// A deadline is a moment to come on both clocks. The zero deadline never comes.
type deadline struct{ wall, mono time.Time }

// reached reports whether d has come on either clock: a token that may have expired is not
// used.
func (d deadline) reached(now time.Time) bool {
	return passed(d.wall, now) || passed(d.mono, time.Now())
}

// over reports whether d has come on both clocks: a token that may be alive is to be revoked.
func (d deadline) over(now time.Time) bool {
	return passed(d.wall, now) && passed(d.mono, time.Now())
}

// until returns how long it is until d is reached; less than 0 if it was. d must not be zero.
func (d deadline) until(now time.Time) time.Duration {
	return min(d.wall.Sub(now), time.Until(d.mono))
}

// untilOver returns how long it is until d is over; less than 0 if it is. d must not be zero.
func (d deadline) untilOver(now time.Time) time.Duration {
	return max(d.wall.Sub(now), time.Until(d.mono))
}

func (d deadline) never() bool { return d.wall.IsZero() }

// passed reports whether the time when, zero meaning never, has come.
func passed(when, now time.Time) bool { return !when.IsZero() && !now.Before(when) }

// earliest returns the earliest of times, passing over zero ones.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

const (
	backoffBase = 100 * time.Millisecond
	backoffMax  = 5 * time.Second
)

// backoff returns a time to wait after n failures in a row, with full jitter.
func backoff(n int) time.Duration {
	return rand.N(min(backoffMax, backoffBase<<min(n, 10))) + 1
}
