package vaulttest

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

type token struct {
	display   string
	accessor  string
	root      bool
	batch     bool
	renewable bool
	noDefault bool   // it lacks the default policy
	parent    string // the value of the token that it ends with; empty if there is none
	metadata  map[string]string
	expires   time.Time // zero: never
	paths     []string  // prefixes of the paths that it may use; none means all
}

func (t *token) may(path string) bool {
	return len(t.paths) == 0 || strings.HasPrefix(path, "auth/token/") ||
		slices.ContainsFunc(t.paths, func(p string) bool { return strings.HasPrefix(path, p) })
}

type lease struct {
	Lease
	token string
}

// A Lease is what a read of a dynamic path made.
type Lease struct {
	ID        string
	Path      string
	ExpiresAt time.Time
	Revoked   bool // by its id or with its token
}

type dynamic struct {
	ttl   time.Duration
	reads int
	make  func(n int) map[string]string
}

// A secret is what lies at one KV path.
type secret struct {
	v1      bool
	version int
	data    map[string]any // nil: the version is deleted
	created time.Time
}

func random() string { return rand.Text() }

// AddToken makes a token that lives for ttl, 0 meaning for ever, and returns its value. paths
// are the prefixes of the paths that it may use besides auth/token/; none means all.
func (s *Server) AddToken(ttl time.Duration, paths ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addToken(&token{display: "token", paths: paths}, ttl)
}

func (s *Server) addToken(t *token, ttl time.Duration) string {
	if ttl > 0 {
		t.expires = s.now().Add(ttl)
	}
	value := "hvs." + random()
	if t.batch {
		value = "hvb." + random()
	} else {
		t.accessor = random()
	}
	s.tokens[value] = t
	return value
}

// PutKV writes the next version of a KV version 2 secret. path is the one that is read, such as
// "secret/data/team/key".
func (s *Server) PutKV(path string, data map[string]any) {
	s.set(func() {
		version := 1
		if old := s.kv[path]; old != nil {
			version = old.version + 1
		}
		s.kv[path] = &secret{version: version, data: data, created: s.now()}
	})
}

// DeleteKV deletes the current version of a KV version 2 secret.
func (s *Server) DeleteKV(path string) {
	s.set(func() {
		if kv := s.kv[path]; kv != nil {
			s.kv[path] = &secret{version: kv.version, created: kv.created}
		}
	})
}

// PutKV1 writes a KV version 1 secret.
func (s *Server) PutKV1(path string, data map[string]any) {
	s.set(func() { s.kv[path] = &secret{v1: true, data: data} })
}

// AddDynamic makes every read of path return what make returns, with a lease of ttl. n counts
// the reads from 1. make is called with the server locked.
func (s *Server) AddDynamic(path string, ttl time.Duration, make func(n int) map[string]string) {
	s.set(func() { s.dynamic[path] = &dynamic{ttl: ttl, make: make} })
}

// Leases returns the leases that are alive and those that were revoked, by id or with their
// token, in no order. Those that ran out are in neither.
func (s *Server) Leases() (live, revoked []Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		s.token(l.token) // an expired token takes its leases with it
		switch {
		case l.Revoked:
			revoked = append(revoked, l.Lease)
		case s.now().Before(l.ExpiresAt):
			live = append(live, l.Lease)
		}
	}
	return live, revoked
}

// LiveTokens returns how many tokens are alive, without the root token.
func (s *Server) LiveTokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for value := range s.tokens {
		if t := s.token(value); t != nil && !t.root {
			n++
		}
	}
	return n
}

// RevokeTokens revokes every token but the root token, as an operator would.
func (s *Server) RevokeTokens() {
	s.set(func() {
		for value, t := range s.tokens {
			if !t.root {
				s.revokeToken(value)
			}
		}
	})
}

// token returns the live token of that value, or nil.
func (s *Server) token(value string) *token {
	t := s.tokens[value]
	if t != nil && !t.expires.IsZero() && !s.now().Before(t.expires) {
		s.revokeToken(value)
		return nil
	}
	return t
}

// revokeToken ends a token with its leases, and its children with theirs.
func (s *Server) revokeToken(value string) {
	delete(s.tokens, value)
	for child, t := range s.tokens {
		if t.parent == value {
			s.revokeToken(child)
		}
	}
	for _, l := range s.leases {
		if l.token == value && s.now().Before(l.ExpiresAt) {
			l.Revoked = true
		}
	}
}

func (s *Server) revokeLease(id string) {
	if l := s.leases[id]; l != nil && s.now().Before(l.ExpiresAt) {
		l.Revoked = true
	}
}

func (s *Server) lookup(value string, t *token) answer {
	data := map[string]any{
		"id": value, "accessor": t.accessor, "display_name": t.display, "type": t.kind(),
		"ttl": 0, "expire_time": nil, "renewable": t.renewable, "num_uses": 0, "meta": orNull(anyMap(t.metadata)),
	}
	if !t.expires.IsZero() {
		data["ttl"] = int64(t.expires.Sub(s.now()) / time.Second)
		data["expire_time"] = t.expires.UTC().Format(time.RFC3339Nano)
	}
	return ok(data, nil)
}

func (s *Server) issue(path string, d *dynamic, tokenValue string) answer {
	d.reads++
	data := map[string]any{}
	for k, v := range d.make(d.reads) {
		data[k] = v
	}
	l := &lease{Lease{ID: path + "/" + uuid.NewString(), Path: path, ExpiresAt: s.now().Add(d.ttl)}, tokenValue}
	s.leases[l.ID] = l
	a := ok(data, nil)
	a.leaseID = l.ID
	a.body["lease_id"], a.body["lease_duration"], a.body["renewable"] = l.ID, int64(d.ttl/time.Second), true
	return a
}

func (kv *secret) read() answer {
	if kv.v1 {
		a := ok(kv.data, nil)
		a.body["lease_duration"] = 32 * 24 * 60 * 60 // the system's default: advice, not a lease
		return a
	}
	meta := map[string]any{
		"version": kv.version, "created_time": kv.created.UTC().Format(time.RFC3339Nano),
		"deletion_time": "", "destroyed": false, "custom_metadata": nil,
	}
	if kv.data == nil {
		meta["deletion_time"] = kv.created.UTC().Format(time.RFC3339Nano)
		a := ok(map[string]any{"data": nil, "metadata": meta}, nil)
		a.status = http.StatusNotFound
		return a
	}
	return ok(map[string]any{"data": kv.data, "metadata": meta}, nil)
}
