// Package vault obtains credentials from Vault or OpenBao for one session.
//
// A [Session] logs in, keeps itself logged in while [Session.Run] runs, and revokes its
// tokens when it is closed. [Session.Source] makes a [credential.Source] that asks one path.
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
// A login begins at most once a second. Logins that many sessions need at the same moment,
// because Vault is back or has lost its tokens, are spread over a second. A token's
// life is reckoned from the duration that Vault gives, so it does not matter what this machine's
// clock says; setting the clock while a session runs costs at most a login.
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
	"slices"
	"sync"
	"time"

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
	client    *client
	auth      Auth
	tokenRole string
	meta      map[string]string
	expect    map[string]string
	require   []string
	onLogin   func(Login)
	now       func() time.Time
	log       zerolog.Logger

	wake    chan struct{}  // tells Run that there may be something to do
	closing chan struct{}  // closed by Close
	running sync.WaitGroup // calls of Run; added to under mu while the session is open

	wrapped wrapped // of the login under way

	mu         sync.Mutex
	closed     bool
	current    *token // nil before the first login
	retired    []*token
	generation int     // logins so far
	flight     *flight // the login under way, if any
	turn       turn
}

// New returns a session that is not logged in yet. It does no I/O. The error is everything
// that is wrong with cfg, one a line.
func New(cfg Config) (*Session, error) {
	base, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Session{
		client:    newClient(cfg, base),
		auth:      cfg.Auth,
		tokenRole: cfg.SessionTokenRole,
		meta:      cfg.Meta,
		expect:    cfg.Expect,
		require:   cfg.Require,
		onLogin:   cfg.OnLogin,
		now:       cfg.now(),
		log:       cfg.Log,
		wake:      make(chan struct{}, 1),
		closing:   make(chan struct{}),
	}, nil
}

// Login logs in for the first time. While Vault is unavailable it tries again, every 1 to
// 1.5 s or when Vault asks for it, until ctx ends. If Vault refuses, if it contradicts what
// is expected, or if a file of [Auth] cannot be read, it returns an error that wraps ErrRefused
// at once.
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
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		s.loginIfDue(ctx)
		s.revokeRetired(ctx)
		timer := time.NewTimer(s.nextUpkeep())
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

func (s *Session) loginIfDue(ctx context.Context) {
	s.mu.Lock()
	t, f := s.current, s.flight
	due := t == nil || t.renewal.reached(s.now()) || t.expired(s.now())
	if f == nil && due && !s.closed && time.Until(s.turn.next) <= 0 {
		s.takeOff(ctx)
		f = s.flight
	}
	s.mu.Unlock()
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return
	}
	if f.err != nil {
		s.log.Warn().Err(f.err).Msg("vault login failed")
	}
}

// nextUpkeep returns how long Run may sleep.
func (s *Session) nextUpkeep() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	wait := upkeepEvery
	for _, t := range s.retired {
		if !t.life.never() {
			wait = min(wait, t.life.untilOver(now))
		}
		if t.inUse > 0 { // its release wakes Run
			continue
		}
		at := t.retryAt
		for _, expires := range t.leases {
			at = earliest(at, expires)
		}
		if !at.IsZero() {
			wait = min(wait, at.Sub(now))
		}
	}
	if s.current == nil || !s.current.renewal.never() {
		login := time.Until(s.turn.next)
		if s.current != nil {
			login = max(login, s.current.renewal.until(now))
		}
		wait = min(wait, login)
	}
	return max(0, wait)
}

// Ready reports whether the session is logged in with a token that has not expired.
func (s *Session) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.current != nil && !s.current.expired(s.now())
}

// Status tells how a session is doing.
type Status struct {
	// LoggedIn says that the session has a token that has not expired.
	LoggedIn bool

	// ExpiresAt is when that token expires; zero if it does not or if there is none.
	ExpiresAt time.Time

	// Generation counts the logins so far; 0 before the first.
	Generation int

	// Err is why the last login failed; nil if it did not. It holds no secret.
	Err error

	// Leases is how many leases are alive that were issued to the session.
	Leases int

	// Tokens is how many tokens of the session's own Vault still holds: a login and its child
	// are two, and an old token counts until it is revoked.
	Tokens int
}

// Status returns how the session is doing now.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	st := Status{Generation: s.generation, Err: s.turn.err}
	if t := s.current; !s.closed && t != nil && !t.expired(now) {
		st.LoggedIn, st.ExpiresAt = true, t.expires
	}
	for _, t := range s.held() {
		if t.life.over(now) {
			continue
		}
		st.Tokens += len(t.own)
		for _, expires := range t.leases {
			if !passed(expires, now) {
				st.Leases++
			}
		}
	}
	return st
}

// held returns the tokens that are not revoked, the oldest first. The caller holds s.mu.
func (s *Session) held() []*token {
	held := slices.Clone(s.retired)
	if s.current != nil {
		held = append(held, s.current)
	}
	return held
}

func (s *Session) instant() instant { return instant{s.now(), time.Now()} }

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
