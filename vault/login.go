package vault

import (
	"bytes"
	"context"
	"crypto/tls"
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

// maxFile is the largest file that a login reads, in bytes.
const maxFile = 64 << 10

// replyAuth is the part of a reply that tells of a token that Vault made.
type replyAuth struct {
	ClientToken   string            `json:"client_token"`
	LeaseDuration seconds           `json:"lease_duration"`
	TokenType     string            `json:"token_type"`
	Orphan        bool              `json:"orphan"`
	Metadata      map[string]string `json:"metadata"`
}

// authenticate logs in once, checks who Vault says has logged in, and makes the child token if
// there is to be one. If it fails, what it made is revoked. The error wraps ErrRefused or
// ErrUnavailable.
func (s *Session) authenticate(ctx context.Context) (*token, error) {
	t, err := s.signIn(ctx)
	if err != nil {
		return nil, err
	}
	if err = s.verify(t); err == nil && s.tokenRole != "" {
		err = s.makeChild(ctx, t)
	}
	if err != nil {
		s.discard(ctx, t)
		return nil, err
	}
	return t, nil
}

// signIn obtains the login's own token.
func (s *Session) signIn(ctx context.Context) (*token, error) {
	if s.auth.Method == methodToken {
		return s.lookup(ctx)
	}
	body, err := s.proof(ctx)
	if err != nil {
		return nil, err
	}
	k := s.loginCall()
	k.body = body
	asked := s.instant()
	r, err := s.client.do(ctx, k)
	if err != nil {
		return nil, s.auth.advise(err)
	}
	t, err := k.minted(r, asked)
	if err != nil {
		return nil, err
	}
	t.metadata = r.Auth.Metadata
	return t, nil
}

// loginCall is the login without its body.
func (s *Session) loginCall() call {
	path := s.auth.mount() + "/login"
	k := call{what: "log in at " + path, method: http.MethodPost, path: path}
	if s.auth.Method == methodToken {
		k = call{what: "look up the token", method: http.MethodGet, path: "auth/token/lookup-self"}
	}
	k.correlation = s.client.correlation(uuid.NewString())
	return k
}

// proof returns the body of the login: what the session shows for itself.
func (s *Session) proof(ctx context.Context) (map[string]string, error) {
	a, body := s.auth, map[string]string{}
	var err error
	switch a.Method {
	case methodKubernetes, methodJWT:
		body["role"] = a.Role
		body["jwt"], err = readFile(a.TokenFile)
	case methodCert:
		if a.Role != "" {
			body["name"] = a.Role
		}
		err = s.client.offer(a.CertFile, a.KeyFile)
	case methodAppRole:
		if body["role_id"] = a.RoleID; a.RoleIDFile != "" {
			body["role_id"], err = readFile(a.RoleIDFile)
		}
		if err == nil {
			body["secret_id"], err = s.secretID(ctx)
		}
	}
	return body, err
}

// minted returns the token that r, which answers k, brought.
func (k call) minted(r *reply, asked instant) (*token, error) {
	if r.Auth == nil || r.Auth.ClientToken == "" || strings.ContainsFunc(r.Auth.ClientToken, notGraphic) {
		return nil, k.unavailable("the reply holds no token")
	}
	t := newToken(r.Auth.ClientToken, asked, time.Duration(r.Auth.LeaseDuration))
	if t.batch = r.Auth.TokenType == "batch"; !t.batch {
		t.own = []ownToken{{value: t.value, orphan: r.Auth.Orphan}}
	}
	return t, nil
}

// lookup is the login of method token: it asks how long the operator's token still lives.
func (s *Session) lookup(ctx context.Context) (*token, error) {
	value, err := readFile(s.auth.TokenFile)
	if err != nil {
		return nil, err
	}
	k := s.loginCall()
	k.token = hide(value)
	asked := s.instant()
	r, err := s.client.do(ctx, k)
	if err != nil {
		return nil, s.auth.advise(err)
	}
	var (
		ttl  seconds
		kind string
	)
	if raw, ok := r.Data["ttl"]; !ok || json.Unmarshal(raw, &ttl) != nil {
		return nil, k.unavailable("the reply holds no TTL")
	}
	if end := string(r.Data["expire_time"]); ttl == 0 && end != "" && end != "null" {
		return nil, k.refused("the token expires within a second")
	}
	t := newToken(value, asked, time.Duration(ttl))
	_ = json.Unmarshal(r.Data["type"], &kind)
	t.batch = kind == "batch"
	_ = json.Unmarshal(r.Data["meta"], &t.metadata) // null if it has none
	return t, nil
}

// offer makes every connection from now on offer the client certificate of the two files.
func (c *client) offer(certFile, keyFile string) error {
	chain, err := readAll(certFile)
	if err != nil {
		return err
	}
	key, err := readAll(keyFile)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil { // err may quote the files
		return fmt.Errorf("vault: log in: %s and %s hold no certificate with its key, in PEM: %w", certFile, keyFile, credential.ErrRefused)
	}
	c.cert.Store(&cert)
	return nil
}

// readFile returns what the file holds, which must be one word.
func readFile(path string) (string, error) {
	b, err := readAll(path)
	if err != nil {
		return "", err
	}
	word := string(bytes.TrimSpace(b))
	switch {
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

func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("vault: log in: %v: %w", err, credential.ErrRefused) // err names the file
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("vault: log in: %v: %w", err, credential.ErrRefused)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("vault: log in: read %s: over 64 KiB: %w", path, credential.ErrRefused)
	}
	return b, nil
}
