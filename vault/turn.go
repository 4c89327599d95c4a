package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/sidekey/sidekey/credential"
)

const (
	// loginEvery is the least time from the beginning of one login to that of the next.
	loginEvery = time.Second

	// loginSpread is what the logins of many sessions are spread over after an outage. With
	// loginEvery it bounds how long a session without a token takes to notice that Vault is back.
	loginSpread = 500 * time.Millisecond

	// doubtSpread is the same when Vault has lost its tokens. Reads wait for it.
	doubtSpread = readPatience * 9 / 10

	// idlePause is the longest time between two logins that fail while the session still has a
	// token, and refusedPause the longest between two that Vault refuses: it locks out who
	// comes too often.
	idlePause    = 30 * time.Second
	refusedPause = time.Minute

	// maxLoginRetryAfter is the longest that Vault may ask to be left alone with logins.
	maxLoginRetryAfter = time.Minute
)

// A turn says when the next login may begin. The session's mutex guards it. Its times are
// read with the monotonic clock.
type turn struct {
	next     time.Time
	began    time.Time // when the last login began
	failures int       // in a row
	err      error     // of the last login; nil if it succeeded

	// part picks a part of what logins are spread over. Nil picks at random; a test takes the same
	// part for all sessions, to show what happens then.
	part func(of time.Duration) time.Duration
}

func (t *turn) some(of time.Duration) time.Duration {
	if t.part != nil {
		return t.part(of)
	}
	return rand.N(of)
}

// A flight is one login that all who need it wait for.
type flight struct {
	done   chan struct{}
	landed bool  // the token is there, and OnLogin is being told
	err    error // set before done is closed
}

// acquire returns the current token and counts the caller as using it; release undoes that.
// If there is no current token, if it has expired or if it is stale (a token that the caller
// found to be no good, or nil), acquire logs in first. A login whose turn is further away
// than patience is not waited for. The error wraps ErrRefused, ErrUnavailable or ErrClosed.
func (s *Session) acquire(ctx context.Context, stale *token, patience time.Duration) (*token, error) {
	until := time.Now().Add(patience)
	for {
		t, f, wait, err := s.step(ctx, stale, until)
		if t != nil || err != nil {
			return t, err
		}
		if f == nil {
			s.sleep(ctx, wait)
		} else {
			select {
			case <-f.done:
				err = f.err
			case <-ctx.Done():
			}
		}
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return nil, s.lastFailure()
		}
	}
}

// step returns one of: a token, now in use; a login under way, to wait for; how long until a
// login may begin; an error.
func (s *Session) step(ctx context.Context, stale *token, until time.Time) (*token, *flight, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, 0, credential.ErrClosed
	}
	if s.flight != nil && s.flight.landed {
		return nil, s.flight, 0, nil
	}
	if t := s.current; t != nil && t != stale && !t.expired(s.now()) {
		t.inUse++
		return t, nil, 0, nil
	}
	if s.flight == nil {
		s.doubt(stale)
		if s.turn.next.After(until) {
			return nil, nil, 0, s.lastFailure()
		}
		if wait := time.Until(s.turn.next); wait > 0 {
			return nil, nil, wait, nil
		}
		s.takeOff(ctx)
	}
	return nil, s.flight, 0, nil
}

// doubt moves the next login to the near future if stale, which Vault no longer knows, is the
// current token. A Vault that has lost one session's token has most likely lost those of all,
// so they must not come back at the same moment. The caller holds s.mu.
func (s *Session) doubt(stale *token) {
	if stale == nil || stale != s.current || stale.doubted {
		return
	}
	stale.doubted = true
	s.turn.next = time.Now().Add(s.turn.some(doubtSpread))
	if at := s.turn.began.Add(loginEvery); at.After(s.turn.next) {
		s.turn.next = at
	}
}

// takeOff begins a login. It is shared by all who wait for it, so it must not die with the one
// that happened to start it; the client bounds it. The caller holds s.mu.
func (s *Session) takeOff(ctx context.Context) {
	s.flight = &flight{done: make(chan struct{})}
	go s.fly(context.WithoutCancel(ctx), s.flight)
}

// fly logs in once and lets those who wait for f go on.
func (s *Session) fly(ctx context.Context, f *flight) {
	began := time.Now()
	t, err := s.authenticate(ctx)
	if !s.land(f, t, err, began) && t != nil {
		s.discard(ctx, t) // the session has ended meanwhile
	} else if err == nil {
		e := s.log.Info().Int("generation", t.generation)
		if !t.expires.IsZero() {
			e = e.Time("expires_at", t.expires)
		}
		e.Msg("logged in to vault")
		if s.onLogin != nil {
			s.onLogin(Login{Metadata: maps.Clone(t.metadata), ExpiresAt: t.expires, Generation: t.generation})
		}
	}
	s.mu.Lock()
	s.flight = nil
	f.err = err
	close(f.done)
	s.mu.Unlock()
	s.notify()
}

// land makes t the current token and sets when the next login may begin. It reports whether
// the session has a use for t.
func (s *Session) land(f *flight, t *token, err error, began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn.began, s.turn.next, s.turn.err = began, began.Add(loginEvery), err
	switch {
	case err != nil:
		s.turn.next = s.afterFailure(err)
		s.turn.failures++
		return false
	case s.closed:
		return false
	}
	s.turn.failures = 0
	if s.current != nil {
		s.retired = append(s.retired, s.current)
	}
	s.generation++
	t.generation = s.generation
	s.current = t
	f.landed = true
	return true
}

// afterFailure returns when a login may be tried again. A session without a token is soon:
// requests wait for it. The caller holds s.mu.
func (s *Session) afterFailure(err error) time.Time {
	now, pause := time.Now(), loginSpread
	grow := func(longest time.Duration) time.Duration {
		return min(longest, loginSpread<<min(s.turn.failures, 10))
	}
	if t := s.current; errors.Is(err, credential.ErrRefused) {
		pause = grow(refusedPause)
	} else if t != nil && !t.doubted && !t.expired(s.now()) {
		pause = grow(idlePause)
		if !t.life.never() { // the nearer the end, the more often
			pause = max(loginSpread, min(pause, t.life.until(s.now())/4))
		}
	}
	next := now.Add(s.turn.some(pause) + 1)
	if at := s.turn.began.Add(loginEvery + s.turn.some(loginSpread)); at.After(next) {
		next = at
	}
	var f *failure
	if errors.As(err, &f) && f.retryAfter > 0 {
		asked := min(f.retryAfter, maxLoginRetryAfter)
		if at := now.Add(asked + s.turn.some(loginSpread)); at.After(next) {
			next = at
		}
	}
	return next
}

// lastFailure returns why there is no token. The caller holds s.mu.
func (s *Session) lastFailure() error {
	if s.turn.err != nil {
		return s.turn.err
	}
	return fmt.Errorf("vault: log in: no time left: %w", credential.ErrUnavailable)
}
