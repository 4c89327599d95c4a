package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// revokeRetired revokes the old tokens that nothing needs any more. It tries each once.
func (s *Session) revokeRetired(ctx context.Context) {
	for t := s.nextIdle(); t != nil; t = s.nextIdle() {
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

// revokeSelf revokes what of t is the session's own, a child before its parent. Only one
// goroutine at a time does this to a token, which is not on the list of the retired then. What
// Vault was unavailable for stays the token's own.
func (s *Session) revokeSelf(ctx context.Context, t *token) error {
	if t.life.over(s.now()) {
		return nil
	}
	type leftover struct {
		ownToken
		err error
	}
	var left []leftover
	for _, o := range t.own {
		err := s.revokeOne(ctx, t, o)
		if err != nil {
			left = append(left, leftover{o, err})
			continue
		}
		left = slices.DeleteFunc(left, func(l leftover) bool { return !l.orphan }) // a child ends with its parent
	}
	t.own = nil
	var errs []error
	for _, l := range left {
		errs = append(errs, l.err)
		if errors.Is(l.err, credential.ErrUnavailable) {
			t.own = append(t.own, l.ownToken)
		}
	}
	return errors.Join(errs...)
}

func (s *Session) revokeOne(ctx context.Context, t *token, o ownToken) error {
	_, err := s.client.do(ctx, call{
		what: "revoke the token", method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: s.client.correlation(uuid.NewString()), token: o.value, bare: true,
	})
	var f *failure
	if !errors.As(err, &f) || f.status != http.StatusForbidden {
		return err
	}
	if t.doubted || t.expired(s.now()) { // Vault has forgotten it
		return nil
	}
	f.hint = `it was revoked already, or its policies lack path "auth/token/revoke-self" { capabilities = ["update"] }, which the default policy has`
	return f
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
	f := s.flight
	s.mu.Unlock()

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
		wg.Go(func() { errs[i] = s.revokeSelf(ctx, t) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
