package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// defaultMaxAge is how long a reading without a lease is used.
const defaultMaxAge = 5 * time.Minute

// identityTokens is where Vault signs JWTs for the identity of a token.
const identityTokens = "identity/oidc/token/"

// retryPause is about the pause before a second attempt, and each that follows is twice as long;
// maxRetryAfter is the longest pause, and the longest that Vault may ask for.
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

	// ahead is how far Vault's clock was ahead of this one, in nanoseconds, when a JWT last
	// showed that it matters.
	ahead atomic.Int64
}

// Source returns a source that asks cfg.Path anew for every issuance. It also implements
// [credential.Revoker]. If cfg is not usable, its Issue always refuses and says why.
//
// Issue makes a second attempt if the first found Vault unavailable, and logs in again once
// if Vault answers 403. The issuance expires with the lease, with the certificate or the token
// that it is, at MaxAge, or, if it has a lease, with the token that obtained it, whichever
// comes first. A value that has an end in time of its own has it on Vault's clock; it is
// translated, so this process's clock may be wrong.
//
// Only leases are revoked. A certificate without one (a role without generate_lease) lives until
// it expires: to revoke it at its mount takes the right to revoke those of others.
func (s *Session) Source(cfg SourceConfig) credential.Source {
	return &source{session: s, cfg: cfg}
}

// Issue implements [credential.Source].
func (src *source) Issue(ctx context.Context, id string) (*credential.Issuance, error) {
	if err := src.cfg.check(); err != nil {
		return nil, err
	}
	iss, err := src.attempt(ctx, id)
	if errors.Is(err, errClock) {
		return src.attempt(ctx, id)
	}
	return iss, err
}

// attempt obtains an issuance. Nothing is left behind if it fails. The error wraps errClock if
// there is reason to try once more.
func (src *source) attempt(ctx context.Context, id string) (*credential.Issuance, error) {
	s := src.session
	d, err := src.draft(id)
	if err != nil {
		return nil, err
	}
	k := src.call(d)
	k.correlation = s.client.correlation(id)
	a, err := s.ask(ctx, k)
	if err != nil {
		return nil, src.explain(k, a.reply, err)
	}
	open := s.settle(a.token, a.reply.LeaseID, a.leaseExpiry())
	iss, err := src.issuance(k, d, a)
	if err == nil && open {
		return iss, nil
	}
	if !open {
		return nil, credential.ErrClosed // the lease goes with its token
	}
	// A lease that no one can use must not wait for its end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.client.timeout)
	defer cancel()
	if e := s.revokeLease(ctx, a.reply.LeaseID); e != nil {
		s.log.Warn().Err(e).Msg("unusable vault lease not revoked")
	}
	return nil, err
}

// A draft is what is made here of an issuance before Vault is asked.
type draft struct {
	body  any           // of the call; nil for a read
	key   []byte        // PEM of the private key that Vault makes a certificate for
	jwt   string        // the header and the claims, which Vault signs
	exp   time.Time     // of the JWT
	ahead time.Duration // how far ahead of this process's clock that of the JWT was taken to be
}

func (src *source) draft(id string) (draft, error) {
	switch cfg := src.cfg; {
	case cfg.JWT != nil:
		return cfg.JWT.draft(id, src.session.now(), time.Duration(src.ahead.Load()))
	case cfg.makesKey():
		return draftKey(cfg.Data)
	case cfg.Certificate && cfg.Write:
		return draft{body: signingBody(cfg.Data)}, nil
	case cfg.Write && cfg.Data == nil:
		return draft{body: struct{}{}}, nil
	case cfg.Write:
		return draft{body: cfg.Data}, nil
	}
	return draft{}, nil
}

func (src *source) call(d draft) call {
	k := call{what: "read " + src.cfg.Path, method: http.MethodGet, path: src.cfg.Path, relogin: true}
	if d.body != nil {
		k.what, k.method, k.body = "write "+src.cfg.Path, http.MethodPut, d.body
	}
	return k
}

// A grant is what a reply brings.
type grant struct {
	value, user, chain []byte
	version            int
	ends               time.Time // when the value itself ends, on this process's clock; zero if it does not say
}

func (src *source) issuance(k call, d draft, a answer) (*credential.Issuance, error) {
	if a.reply.Data == nil {
		return nil, k.unavailable("the reply holds no data")
	}
	g, err := src.grant(k, d, a)
	if err != nil {
		return nil, err
	}
	if passed(g.ends, a.asked) {
		return nil, k.refused("what Vault gave has expired already")
	}
	return &credential.Issuance{
		Value:       credential.NewSecret(g.value),
		User:        credential.NewSecret(g.user),
		Certificate: g.chain,
		IssuedAt:    a.asked,
		ExpiresAt:   src.expiry(a, g.ends),
		Origin: credential.Origin{
			Kind:          "vault",
			Path:          src.cfg.Path,
			RequestID:     a.reply.RequestID,
			CorrelationID: k.correlation,
			LeaseID:       a.reply.LeaseID,
			Version:       g.version,
		},
	}, nil
}

func (src *source) grant(k call, d draft, a answer) (g grant, err error) {
	fields, version := a.reply.fields()
	switch {
	case fields == nil:
		return grant{}, k.refused("version %d is deleted", version)
	case src.cfg.JWT != nil:
		return src.grantJWT(k, d, a)
	case src.cfg.Certificate:
		g, err = grantCertificate(k, d, a, fields)
	default:
		g, err = src.grantField(k, a, fields)
	}
	g.version = version
	return g, err
}

func (src *source) grantField(k call, a answer, fields map[string]json.RawMessage) (g grant, err error) {
	if g.value, err = k.text(fields, src.cfg.Field); err != nil {
		return grant{}, err
	}
	if src.cfg.UserField != "" {
		if g.user, err = k.text(fields, src.cfg.UserField); err != nil {
			return grant{}, err
		}
	}
	if g.ends, err = k.ends(fields, a.asked); err != nil {
		return grant{}, err
	}
	return g, nil
}

// ends returns when the value ends by the reply's own word, on this process's clock; zero if it
// has none. Two paths answer without a lease but with a field ttl: that of identity tokens, and
// those of the passwords that Vault rotates ("static roles").
func (k call) ends(fields map[string]json.RawMessage, asked time.Time) (time.Time, error) {
	segments := strings.Split(k.path, "/")
	identity := strings.HasPrefix(k.path, identityTokens)
	rotated := len(segments) >= 3 && segments[len(segments)-2] == "static-creds"
	raw, ok := fields["ttl"]
	if !identity && (!rotated || !ok) {
		return time.Time{}, nil
	}
	var ttl seconds
	if !ok || json.Unmarshal(raw, &ttl) != nil {
		return time.Time{}, k.unavailable("the reply holds no TTL")
	}
	if rotated {
		ttl = max(ttl, seconds(time.Second)) // 0 for a moment, until Vault has rotated it
	}
	return asked.Add(time.Duration(ttl)), nil
}

func (src *source) expiry(a answer, ends time.Time) time.Time {
	maxAge := src.cfg.MaxAge
	if maxAge == 0 && a.leaseExpiry().IsZero() && ends.IsZero() {
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
	return earliest(aged, hint, a.leaseExpiry(), ends)
}

// Revoke implements [credential.Revoker]. While Vault is unavailable it makes a few attempts, ever more
// rarely, until ctx ends. It returns nil if iss has no lease, or one that has ended already. The error
// wraps ErrRefused or ErrUnavailable; it is ErrClosed after [Session.Close], which revokes leases
// together with their tokens. A lease whose revocation Vault refuses ends with its token, which is
// then revoked as soon as it has been replaced.
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
	got   time.Time // just after it
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

// ask makes k with the session's token: once more if Vault was unavailable, or several times if k
// is bare, and once more after a login if a 403 may mean that the token has gone. A call that the
// watch cut off does not count. If there is an error, the answer holds at most a reply.
func (s *Session) ask(ctx context.Context, k call) (answer, error) {
	var stale *token
	for tries := 0; ; {
		t, err := s.acquire(ctx, stale, readPatience)
		if err != nil {
			return answer{}, tokenless(k, err)
		}
		asked := s.now()
		k.token = t.value
		r, err := s.client.do(ctx, k)
		if err == nil {
			return answer{r, t, asked, s.now()}, nil
		}
		s.release(t)
		var f *failure
		switch {
		case !errors.As(err, &f):
			return answer{}, err
		case f.status == http.StatusForbidden && k.relogin && stale == nil:
			stale = t
		case f.stale && ctx.Err() == nil:
		case f.kind == credential.ErrUnavailable && (tries == 0 || k.bare) && s.pause(ctx, tries, f.retryAfter):
			tries++
		default:
			return answer{reply: r}, err
		}
	}
}

// pause waits before the attempt that follows n that were made again. It reports false, at once
// where it can, if there is no time for one.
func (s *Session) pause(ctx context.Context, n int, asked time.Duration) bool {
	wait := max(asked, backoff(n)+retryPause/2<<n)
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
