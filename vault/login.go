package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// loginEvery is the least time between two logins that Vault answered.
const loginEvery = time.Second

// maxFile is the largest file that a login reads, in bytes.
const maxFile = 64 << 10

// authenticate logs in once. The error wraps ErrRefused or ErrUnavailable.
func (s *Session) authenticate(ctx context.Context) (*token, error) {
	a := s.auth
	if a.Method == methodToken {
		return s.lookup(ctx)
	}
	body := map[string]string{}
	var err error
	switch a.Method {
	case methodKubernetes:
		body["role"] = a.Role
		body["jwt"], err = readFile(a.TokenFile)
	case methodAppRole:
		if body["role_id"] = a.RoleID; a.RoleIDFile != "" {
			body["role_id"], err = readFile(a.RoleIDFile)
		}
		if err == nil {
			body["secret_id"], err = readFile(a.SecretIDFile)
		}
	}
	if err != nil {
		return nil, err
	}
	k := call{
		what: "log in at " + a.loginPath(), method: http.MethodPost, path: a.loginPath(),
		correlation: s.client.correlation(uuid.NewString()), body: body,
	}
	asked := s.now()
	r, err := s.client.do(ctx, k)
	if err != nil {
		return nil, err
	}
	if r.Auth == nil || r.Auth.ClientToken == "" || strings.ContainsFunc(r.Auth.ClientToken, notGraphic) {
		return nil, k.unavailable("the reply holds no token")
	}
	revocable := r.Auth.TokenType != "batch"
	return newToken(r.Auth.ClientToken, asked, time.Duration(r.Auth.LeaseDuration), revocable), nil
}

// lookup is the login of method token: it asks how long the operator's token still lives.
func (s *Session) lookup(ctx context.Context) (*token, error) {
	value, err := readFile(s.auth.TokenFile)
	if err != nil {
		return nil, err
	}
	k := call{
		what: "look up the token", method: http.MethodGet, path: "auth/token/lookup-self",
		correlation: s.client.correlation(uuid.NewString()), token: hide(value),
	}
	asked := s.now()
	r, err := s.client.do(ctx, k)
	if err != nil {
		return nil, err
	}
	var ttl seconds
	if raw, ok := r.Data["ttl"]; !ok || json.Unmarshal(raw, &ttl) != nil {
		return nil, k.unavailable("the reply holds no TTL")
	}
	return newToken(value, asked, time.Duration(ttl), false), nil
}

// readFile returns what the file holds, which must be one word.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("vault: log in: %v: %w", err, credential.ErrRefused) // err names the file
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("vault: log in: %v: %w", err, credential.ErrRefused)
	}
	word := string(bytes.TrimSpace(b))
	switch {
	case len(b) > maxFile:
		err = errors.New("over 64 KiB")
	case word == "":
		err = errors.New("empty")
	case strings.ContainsFunc(word, notGraphic):
		err = errors.New("more than one word, or not ASCII")
	}
	if err != nil {
		return "", fmt.Errorf("vault: log in: read %s: %v: %w", path, err, credential.ErrRefused)
	}
	return word, nil
}

// A flight is one login that all who need it wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
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
	if t := s.current; t != nil && t != stale && !t.expired(s.now()) {
		t.inUse++
		return t, nil, 0, nil
	}
	if s.flight == nil {
		if s.nextLogin.After(until) {
			return nil, nil, 0, s.lastFailure()
		}
		if wait := time.Until(s.nextLogin); wait > 0 {
			return nil, nil, wait, nil
		}
		s.flight = &flight{done: make(chan struct{})}
		// The login is shared by all who wait for it, so it must not die with the one that
		// happened to start it. The client bounds it.
		go s.fly(context.WithoutCancel(ctx), s.flight)
	}
	return nil, s.flight, 0, nil
}

// fly logs in once and lets those who wait for f go on.
func (s *Session) fly(ctx context.Context, f *flight) {
	began := time.Now()
	t, err := s.authenticate(ctx)
	orphan := s.land(t, err, began)
	if orphan != nil {
		_ = s.revokeSelf(ctx, orphan) // the session ended meanwhile; the token's TTL is the bound
	}
	if err == nil {
		e := s.log.Info()
		if !t.expires.IsZero() {
			e = e.Time("expires_at", t.expires)
		}
		e.Msg("logged in to vault")
	}
	f.err = err
	close(f.done)
	s.notify()
}

// land makes t the current token and sets when the next login may begin. It returns t if the
// session has ended and t is to be revoked.
func (s *Session) land(t *token, err error, began time.Time) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if err != nil {
		s.lastErr = err
		s.nextLogin = time.Now().Add(backoff(s.failures))
		s.failures++
		if errors.Is(err, credential.ErrUnavailable) {
			return nil
		}
	}
	if turn := began.Add(loginEvery); turn.After(s.nextLogin) {
		s.nextLogin = turn
	}
	switch {
	case err != nil:
		return nil
	case s.closed:
		return t
	}
	s.failures, s.lastErr = 0, nil
	if s.current != nil {
		s.retired = append(s.retired, s.current)
	}
	s.current = t
	return nil
}

// lastFailure returns why there is no token. The caller holds s.mu.
func (s *Session) lastFailure() error {
	if s.lastErr != nil {
		return s.lastErr
	}
	return fmt.Errorf("vault: log in: no time left: %w", credential.ErrUnavailable)
}
