package vault

import (
	"maps"
	"math/rand/v2"
	"time"
)

// A token is one generation of the session's Vault token, with what hangs on it. The
// session's mutex guards all fields that change.
type token struct {
	value   hidden
	expires time.Time // zero: never
	renewAt time.Time // when the next login is due; zero: never
	ours    bool      // a login made it for us alone, so it is ours to revoke

	inUse   int                  // calls under way with it: they may yet bring leases
	leases  map[string]time.Time // live leases by id, and when each expires
	retryAt time.Time            // when revoking it may be tried again
}

// newToken returns the token that a login begun at asked brought; ttl 0 means that it does
// not expire. The next login is due at two thirds of the TTL, give or take 10 %, so that the
// pods of a deployment do not all log in at once.
func newToken(value string, asked time.Time, ttl time.Duration, ours bool) *token {
	t := &token{value: hide(value), ours: ours, leases: map[string]time.Time{}}
	if ttl > 0 {
		t.expires = asked.Add(ttl)
		t.renewAt = asked.Add(time.Duration(float64(ttl) * 2 / 3 * (0.9 + 0.2*rand.Float64())))
	}
	return t
}

func (t *token) expired(now time.Time) bool { return passed(t.expires, now) }

// idle reports whether nothing needs t any more. It forgets leases that have expired.
func (t *token) idle(now time.Time) bool {
	maps.DeleteFunc(t.leases, func(_ string, expires time.Time) bool { return passed(expires, now) })
	return t.inUse == 0 && len(t.leases) == 0
}

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
