package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// revokeRetired revokes the old tokens that nothing needs any more. It tries each once.
func (s *Session) revokeRetired(ctx context.Context) {
	for ctx.Err() == nil {
		t := s.nextIdle()
		if t == nil {
			return
		}
		s.discard(ctx, t)
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
		case t.life.over(now), idle && len(t.own) == 0:
		case found == nil && idle && (t.retryAt.IsZero() || passed(t.retryAt, now)):
			found = t
		default:
			kept = append(kept, t)
		}
	}
	s.retired = kept
	return found
}

// discard revokes t, which nothing uses. If Vault is unavailable, Run and Close try again.
func (s *Session) discard(ctx context.Context, t *token) {
	err := s.revokeSelf(ctx, t)
	if err == nil {
		return
	}
	if errors.Is(err, credential.ErrUnavailable) {
		s.mu.Lock()
		t.retryAt = s.now().Add(revokeAgain)
		s.retired = append(s.retired, t)
		s.mu.Unlock()
	}
	if ctx.Err() == nil {
		s.log.Warn().Err(err).Msg("vault token not revoked")
	}
}

// revokeSelf revokes what of t is the session's own, a child before its parent, and keeps what it
// could not revoke. Only one goroutine at a time does this to a token, which is not on the list of
// the retired then.
func (s *Session) revokeSelf(ctx context.Context, t *token) error {
	if t.life.over(s.now()) {
		return nil
	}
	var left []ownToken
	for _, o := range t.own {
		if !errors.Is(o.err, credential.ErrRefused) { // which would be refused again
			o.err = s.revokeOne(ctx, t, &o)
		}
		if o.err != nil {
			left = append(left, o)
			continue
		}
		left = slices.DeleteFunc(left, func(l ownToken) bool { return !l.orphan }) // a child ends with its parent
	}
	t.own = left
	var errs []error
	for _, o := range left {
		errs = append(errs, o.err)
	}
	return errors.Join(errs...)
}

// revokeOne revokes o, which is of t. A 403 is a success if Vault may have forgotten it by then.
func (s *Session) revokeOne(ctx context.Context, t *token, o *ownToken) error {
	k := call{
		what: "revoke the token", method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: s.client.correlation(uuid.NewString()), token: o.value, bare: true,
	}
	for {
		_, err := s.client.do(ctx, k)
		var f *failure
		switch {
		case !errors.As(err, &f):
			return err
		case f.status != http.StatusForbidden:
		case o.lost, t.doubted, t.expired(s.now()):
			return nil
		default:
			f.hint = `it was revoked already, or its policies lack path "auth/token/revoke-self" { capabilities = ["update"] }, which the default policy has`
			return f
		}
		o.lost = o.lost || f.lost()
		if !f.stale || ctx.Err() != nil {
			return err
		}
	}
}

// Close ends the session: nothing is issued any more, Run returns, and every token that the
// session still holds is revoked, and its leases with it, as far as that can be done before
// ctx ends. While Vault is unavailable it tries again and again, so ctx should have a deadline. With
// method "token" the token is the operator's own and is left alone. The error says what could not
// be revoked. Closing a second time does nothing.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.closing)
	f := s.flight
	s.mu.Unlock()
	s.running.Wait() // it may be revoking a token, and puts it back

	err := s.revokeHeld(ctx)
	if f == nil {
		return err
	}
	select {
	case <-f.done: // it may have left a token that it could not revoke
		return errors.Join(err, s.revokeHeld(ctx))
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("vault: a login is still under way: %w", credential.ErrUnavailable))
	}
}

// revokeHeld revokes all tokens, at the same time.
func (s *Session) revokeHeld(ctx context.Context) error {
	s.mu.Lock()
	held := s.held()
	s.current, s.retired = nil, nil
	s.mu.Unlock()
	errs := make([]error, len(held))
	var wg sync.WaitGroup
	for i, t := range held {
		wg.Go(func() { errs[i] = s.revokeAtLast(ctx, t) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// revokeAtLast is revokeSelf, again and again while Vault is unavailable and ctx leaves time for it.
// There is little of that, so the pauses stay short.
func (s *Session) revokeAtLast(ctx context.Context, t *token) error {
	for n := 0; ; n++ {
		err := s.revokeSelf(ctx, t)
		var f *failure
		if !errors.Is(err, credential.ErrUnavailable) || !errors.As(err, &f) {
			return err
		}
		wait := max(f.retryAfter, backoff(min(n, 2)))
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
