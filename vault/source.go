package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// defaultMaxAge is how long a reading without a lease is used.
const defaultMaxAge = 5 * time.Minute

// retryPause is the longest pause before a second attempt; maxRetryAfter is the longest that
// Vault may ask for.
const (
	retryPause    = 250 * time.Millisecond
	maxRetryAfter = 5 * time.Second
)

var (
	_ credential.Source  = (*source)(nil)
	_ credential.Revoker = (*source)(nil)
)

type source struct {
	session *Session
	cfg     SourceConfig
}

// Source returns a source that reads cfg.Path anew for every issuance. It also implements
// [credential.Revoker]. If cfg is not usable, its Issue always refuses and says why.
//
// Issue makes a second attempt if the first found Vault unavailable, and logs in again once
// if Vault answers 403. The issuance expires with the lease, at MaxAge, or, if it has a lease,
// with the token that obtained it, whichever comes first.
func (s *Session) Source(cfg SourceConfig) credential.Source {
	return &source{session: s, cfg: cfg}
}

// Issue implements [credential.Source].
func (src *source) Issue(ctx context.Context, id string) (*credential.Issuance, error) {
	if err := src.check(); err != nil {
		return nil, err
	}
	s := src.session
	k := call{
		what: "read " + src.cfg.Path, method: http.MethodGet, path: src.cfg.Path,
		correlation: s.client.correlation(id), relogin: true,
	}
	a, err := s.ask(ctx, k)
	if err != nil {
		return nil, err
	}
	expires := a.leaseExpiry()
	open := s.settle(a.token, a.reply.LeaseID, expires)
	iss, err := src.issuance(k, a)
	if err == nil && open {
		return iss, nil
	}
	if !open {
		return nil, credential.ErrClosed // the lease goes with its token
	}
	// A lease that no one can use must not wait for its end.
	if e := s.revokeLease(context.WithoutCancel(ctx), a.reply.LeaseID); e != nil {
		s.log.Warn().Err(e).Msg("unusable vault lease not revoked")
	}
	return nil, err
}

func (src *source) check() error {
	k := call{what: "read a credential"}
	switch c := src.cfg; {
	case !validPath(c.Path):
		return k.refused("%q is not a path such as secret/data/x", c.Path)
	case c.Field == "":
		return k.refused("no field is named")
	case c.MaxAge < 0:
		return k.refused("the maximum age %v is negative", c.MaxAge)
	}
	return nil
}

func (src *source) issuance(k call, a answer) (*credential.Issuance, error) {
	r := a.reply
	if r.Data == nil {
		return nil, k.unavailable("the reply holds no data")
	}
	fields, version := r.fields()
	if fields == nil {
		return nil, k.refused("version %d is deleted", version)
	}
	value, err := k.text(fields, src.cfg.Field)
	if err != nil {
		return nil, err
	}
	var user []byte
	if src.cfg.UserField != "" {
		if user, err = k.text(fields, src.cfg.UserField); err != nil {
			return nil, err
		}
	}
	return &credential.Issuance{
		Value:     credential.NewSecret(value),
		User:      credential.NewSecret(user),
		IssuedAt:  a.asked,
		ExpiresAt: src.expiry(a),
		Origin: credential.Origin{
			Kind:          "vault",
			Path:          src.cfg.Path,
			RequestID:     r.RequestID,
			CorrelationID: k.correlation,
			LeaseID:       r.LeaseID,
			Version:       version,
		},
	}, nil
}

func (src *source) expiry(a answer) time.Time {
	maxAge := src.cfg.MaxAge
	if maxAge == 0 && a.leaseExpiry().IsZero() {
		maxAge = defaultMaxAge
	}
	var aged, hint time.Time
	if maxAge > 0 {
		aged = a.asked.Add(maxAge)
	}
	// Without a lease the duration is KV version 1's advice on when to read again.
	if d := time.Duration(a.reply.LeaseDuration); d > 0 {
		hint = a.asked.Add(d)
	}
	return earliest(aged, hint, a.leaseExpiry())
}

// Revoke implements [credential.Revoker]. It returns nil if iss has no lease, or one that has
// ended already. The error wraps ErrRefused or ErrUnavailable; it is ErrClosed after
// [Session.Close], which revokes leases together with their tokens. A lease whose revocation
// Vault refuses ends with its token, which is then revoked as soon as it has been replaced.
func (src *source) Revoke(ctx context.Context, iss *credential.Issuance) error {
	return src.session.revokeLease(ctx, iss.Origin.LeaseID)
}

func (s *Session) revokeLease(ctx context.Context, leaseID string) error {
	if leaseID == "" {
		return nil
	}
	s.mu.Lock()
	closed, owner := s.closed, s.owner(leaseID)
	s.mu.Unlock()
	if closed {
		return credential.ErrClosed
	}
	if owner == nil {
		return nil
	}
	k := call{
		what: "revoke lease " + strconv.Quote(leaseID), method: http.MethodPut, path: "sys/leases/revoke/" + leaseID,
		correlation: s.client.correlation(uuid.NewString()), bare: true,
	}
	a, err := s.ask(ctx, k)
	if err == nil {
		s.release(a.token)
	}
	if !errors.Is(err, credential.ErrUnavailable) {
		// Refused or not, no one uses the lease any more, so it no longer keeps its token.
		s.mu.Lock()
		delete(owner.leases, leaseID)
		s.mu.Unlock()
		s.notify()
	}
	return err
}

// owner returns the token that leaseID was issued under; nil if the lease is not alive. The
// caller holds s.mu.
func (s *Session) owner(leaseID string) *token {
	now := s.now()
	for _, t := range append([]*token{s.current}, s.retired...) {
		if t == nil || t.expired(now) {
			continue
		}
		if expires, ok := t.leases[leaseID]; ok && !passed(expires, now) {
			return t
		}
	}
	return nil
}

// An answer is a reply with the token that obtained it, which is in use until it is settled.
type answer struct {
	reply *reply
	token *token
	asked time.Time // just before the call
}

// leaseExpiry is when the lease ends, by itself or with its token; zero if there is no lease
// or if neither expires.
func (a answer) leaseExpiry() time.Time {
	if a.reply.LeaseID == "" {
		return time.Time{}
	}
	var own time.Time
	if d := time.Duration(a.reply.LeaseDuration); d > 0 {
		own = a.asked.Add(d)
	}
	return earliest(own, a.token.expires)
}

// ask makes k with the session's token: once more if Vault was unavailable, and once more
// after a login if a 403 may mean that the token has gone.
func (s *Session) ask(ctx context.Context, k call) (answer, error) {
	var stale *token
	for again := true; ; {
		t, err := s.acquire(ctx, stale, readPatience)
		if err != nil {
			return answer{}, tokenless(k, err)
		}
		asked := s.now()
		k.token = t.value
		r, err := s.client.do(ctx, k)
		if err == nil {
			return answer{r, t, asked}, nil
		}
		s.release(t)
		var f *failure
		switch {
		case !errors.As(err, &f):
			return answer{}, err
		case f.status == http.StatusForbidden && k.relogin && stale == nil:
			stale = t
		case f.kind == credential.ErrUnavailable && again && s.pause(ctx, f.retryAfter):
			again = false
		default:
			return answer{}, err
		}
	}
}

// pause waits before a second attempt. It reports false, at once where it can, if there is no
// time for one.
func (s *Session) pause(ctx context.Context, asked time.Duration) bool {
	wait := asked
	if wait == 0 {
		wait = backoff(0) + retryPause/2
	}
	if deadline, ok := ctx.Deadline(); wait > maxRetryAfter || ok && time.Until(deadline) <= wait {
		return false
	}
	s.sleep(ctx, wait)
	return ctx.Err() == nil
}

// tokenless says what could not be done for want of a token.
func tokenless(k call, err error) error {
	if errors.Is(err, credential.ErrClosed) {
		return err
	}
	return fmt.Errorf("vault: %s: not logged in: %w", k.what, err)
}
