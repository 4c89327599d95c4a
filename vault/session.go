// Package vault obtains credentials from Vault or OpenBao for one session.
//
// A [Session] logs in, keeps itself logged in while [Session.Run] runs, and revokes its
// tokens when it is closed. [Session.Source] makes a [credential.Source] that reads one path:
// a KV secret of either version, or anything that answers a read with a lease.
//
// It is a client of its own, over net/http, and keeps to the documented HTTP API: error texts
// are never looked at. It reads no environment variable, uses no proxy and follows no
// redirect. Every call carries a correlation id that Vault writes to its audit log.
//
// # Tokens
//
// A session never renews its token: it logs in again at two thirds of the TTL. Leases die
// with the token that obtained them, so an old token is kept until the last live lease that
// was issued under it has been revoked or has expired; then it is revoked itself.
//
// # Errors
//
// Every error of a call wraps [credential.ErrRefused] (Vault said no, or this package must
// not go on), [credential.ErrUnavailable] or [credential.ErrClosed], and holds the path and
// the status, never a token, a value or a reply.
package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/credential"
)

const (
	// readPatience is how long a read waits for its turn to log in.
	readPatience = loginEvery

	// forever is the patience of who has nothing else to do.
	forever = 24 * time.Hour

	// upkeepEvery bounds the sleep of Run: timers stand still while the machine is suspended.
	upkeepEvery = time.Minute

	// revokeAgain is how long after a failed revocation of an old token it is tried again.
	revokeAgain = 10 * time.Second
)

// A Session is one login to Vault and all that was obtained under it. Its methods are safe
// for concurrent use. Make one with [New].
type Session struct {
	client *client
	auth   Auth
	now    func() time.Time
	log    zerolog.Logger

	wake    chan struct{} // tells Run that there may be something to do
	closing chan struct{} // closed by Close

	mu        sync.Mutex
	closed    bool
	current   *token // nil before the first login
	retired   []*token
	flight    *flight   // the login under way, if any
	nextLogin time.Time // no login begins before; read with the monotonic clock
	failures  int       // logins that failed in a row
	lastErr   error     // of the last login; nil if it succeeded
}

// New returns a session that is not logged in yet. It does no I/O. The error is everything
// that is wrong with cfg, one a line.
func New(cfg Config) (*Session, error) {
	base, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Session{
		client:  newClient(cfg, base),
		auth:    cfg.Auth,
		now:     cfg.now(),
		log:     cfg.Log,
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
	}, nil
}

// Login logs in for the first time. While Vault is unavailable it tries again, with pauses of
// up to 5 s, until ctx ends. If Vault refuses, or a file of [Auth] cannot be read, it returns
// an error that wraps ErrRefused at once.
func (s *Session) Login(ctx context.Context) error {
	for {
		t, err := s.acquire(ctx, nil, forever)
		if err == nil {
			s.release(t)
			return nil
		}
		if !errors.Is(err, credential.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
	}
}

// Run keeps the session logged in and revokes old tokens that nothing needs any more. A login
// that fails is logged and tried again. Run returns nil when ctx ends or the session is
// closed. Without Run, a session logs in again only when a source finds its token expired.
func (s *Session) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.loginIfDue(ctx)
		s.revokeRetired(ctx)
		timer := time.NewTimer(s.nextUpkeep())
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.closing:
			timer.Stop()
			return nil
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

func (s *Session) loginIfDue(ctx context.Context) {
	s.mu.Lock()
	stale, now := s.current, s.now()
	due := (stale == nil || passed(stale.renewAt, now)) && time.Until(s.nextLogin) <= 0
	s.mu.Unlock()
	if !due {
		return
	}
	t, err := s.acquire(ctx, stale, 0)
	if err == nil {
		s.release(t)
	} else if ctx.Err() == nil && !errors.Is(err, credential.ErrClosed) {
		s.log.Warn().Err(err).Msg("vault login failed")
	}
}

// nextUpkeep returns how long Run may sleep.
func (s *Session) nextUpkeep() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	next := now.Add(upkeepEvery)
	for _, t := range s.retired {
		at := t.expires
		if t.inUse == 0 { // else its release wakes Run
			at = earliest(at, t.retryAt)
			for _, expires := range t.leases {
				at = earliest(at, expires)
			}
		}
		next = earliest(next, at)
	}
	wait := max(0, next.Sub(now))
	if s.current == nil || !s.current.renewAt.IsZero() {
		login := time.Until(s.nextLogin)
		if s.current != nil {
			login = max(login, s.current.renewAt.Sub(now))
		}
		wait = min(wait, max(0, login))
	}
	return wait
}

// revokeRetired revokes the old tokens that nothing needs any more. It tries each once.
func (s *Session) revokeRetired(ctx context.Context) {
	for t := s.nextIdle(); t != nil; t = s.nextIdle() {
		err := s.revokeSelf(ctx, t)
		s.mu.Lock()
		if errors.Is(err, credential.ErrUnavailable) {
			t.retryAt = s.now().Add(revokeAgain)
			s.retired = append(s.retired, t)
		}
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("old vault token not revoked")
		}
	}
}

// nextIdle takes an old token that is to be revoked now off the list; nil if there is none.
// It drops tokens that have expired and those that are not ours to revoke.
func (s *Session) nextIdle() *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var kept []*token
	var found *token
	for _, t := range s.retired {
		switch idle := t.idle(now); {
		case t.expired(now), idle && !t.ours:
		case found == nil && idle && (t.retryAt.IsZero() || passed(t.retryAt, now)):
			found = t
		default:
			kept = append(kept, t)
		}
	}
	s.retired = kept
	return found
}

func (s *Session) revokeSelf(ctx context.Context, t *token) error {
	if !t.ours || t.expired(s.now()) {
		return nil
	}
	_, err := s.client.do(ctx, call{
		what: "revoke the token", method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: s.client.correlation(uuid.NewString()), token: t.value, bare: true,
	})
	return err
}

// Ready reports whether the session is logged in with a token that has not expired.
func (s *Session) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.current != nil && !s.current.expired(s.now())
}

// Close ends the session: nothing is issued any more, Run returns, and every token that the
// session still holds is revoked, and its leases with it, as far as that can be done before
// ctx ends. With method "token" the token is the operator's own and is left alone. The error
// says what could not be revoked. Closing a second time does nothing.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.closing)
	held := s.retired
	if s.current != nil {
		held = append(held, s.current)
	}
	f := s.flight
	s.current, s.retired = nil, nil
	s.mu.Unlock()

	errs := make([]error, len(held))
	var wg sync.WaitGroup
	for i, t := range held {
		wg.Go(func() { errs[i] = s.revokeSelf(ctx, t) })
	}
	wg.Wait()
	if f != nil { // it may bring one more token, which it then revokes
		select {
		case <-f.done:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("vault: a login is still under way: %w", credential.ErrUnavailable))
		}
	}
	return errors.Join(errs...)
}

// release ends the use of t that acquire began.
func (s *Session) release(t *token) { s.settle(t, "", time.Time{}) }

// settle ends the use of t that acquire began, and counts the lease that it brought, if any.
// It reports whether the session is still open, so that the lease lives.
func (s *Session) settle(t *token, leaseID string, expires time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.inUse--
	if leaseID != "" {
		t.leases[leaseID] = expires
	}
	if t != s.current && t.inUse == 0 {
		s.notify()
	}
	return !s.closed
}

func (s *Session) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sleep waits for d; less if ctx ends or the session is closed.
func (s *Session) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closing:
	case <-ctx.Done():
	}
}
