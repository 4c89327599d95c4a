package vaulttest

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

// A Role says what a login, or a token role, yields.
type Role struct {
	// Name is the role's name.
	Name string

	// TTL is how long the tokens live, in whole seconds.
	TTL time.Duration

	// Metadata is what a login's reply says of who logged in. A token role has none: the one who
	// asks gives it.
	Metadata map[string]string

	// Batch makes batch tokens, which cannot be revoked and cannot make others.
	Batch bool

	// Orphan says, of a token role, that its tokens do not end with the token that made them.
	Orphan bool

	// NoDefault says, of a token role, that its tokens lack the default policy: they may not
	// revoke themselves.
	NoDefault bool
}

// A login is a way to log in that was set up.
type login struct {
	mount string
	proof map[string]string // the fields of the body, all of which must be as here
	leaf  []byte            // the client certificate in DER; nil for no matter
	role  Role

	reviewed bool // a wrong JWT for the role is the Kubernetes API's to refuse, which is 403
}

// A wrapped is a response that was wrapped.
type wrapped struct {
	path    string
	data    map[string]any
	expires time.Time
	used    bool
}

// A caller is who makes a request.
type caller struct {
	token string
	leaf  []byte // the client certificate in DER; nil if there is none
}

func leaf(r *http.Request) []byte {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0].Raw
}

// AddAppRole lets roleID with secretID log in at auth/<mount>/login, for tokens of ttl.
func (s *Server) AddAppRole(mount, roleID, secretID string, ttl time.Duration) {
	role := Role{Name: roleID, TTL: ttl, Metadata: map[string]string{"role_name": roleID}}
	s.addLogin(login{mount: mount, proof: map[string]string{"role_id": roleID, "secret_id": secretID}, role: role})
}

// AddKubernetesRole lets jwt log in as name at auth/<mount>/login, for tokens of ttl. It may be
// called several times with different JWTs.
func (s *Server) AddKubernetesRole(mount, name, jwt string, ttl time.Duration) {
	role := Role{Name: name, TTL: ttl, Metadata: map[string]string{"role": name}}
	s.addLogin(login{mount: mount, proof: map[string]string{"role": name, "jwt": jwt}, role: role, reviewed: true})
}

// AddJWTRole lets jwt log in as role at auth/<mount>/login. It may be called several times with
// different JWTs.
func (s *Server) AddJWTRole(mount, jwt string, role Role) {
	s.addLogin(login{mount: mount, proof: map[string]string{"role": role.Name, "jwt": jwt}, role: role})
}

// AddCertRole lets the client certificate leaf, in DER, log in at auth/<mount>/login, with the
// role's name or without one.
func (s *Server) AddCertRole(mount string, leaf []byte, role Role) {
	s.addLogin(login{mount: mount, leaf: leaf, proof: map[string]string{"name": role.Name}, role: role})
	s.addLogin(login{mount: mount, leaf: leaf, role: role})
}

func (s *Server) addLogin(l login) { s.set(func() { s.logins = append(s.logins, l) }) }

// AddTokenRole makes auth/token/create/<name> yield tokens, to every token but a batch token.
func (s *Server) AddTokenRole(role Role) { s.set(func() { s.makers[role.Name] = role }) }

// Wrap returns a response-wrapping token for data, as if it had been the reply to path, such as
// "auth/approle/role/reviewer/secret-id".
func (s *Server) Wrap(path string, data map[string]any, ttl time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	value := "hvs." + random()
	s.wrapped[value] = &wrapped{path: path, data: data, expires: s.now().Add(ttl)}
	return value
}

func (s *Server) login(entry *Request, by caller, body map[string]any) answer {
	mount := strings.TrimSuffix(strings.TrimPrefix(entry.Path, "auth/"), "/login")
	status := http.StatusForbidden // what Vault says where nothing is mounted
	for _, l := range s.logins {
		if l.mount != mount {
			continue
		}
		status = http.StatusBadRequest
		if !l.accepts(by, body) {
			if l.reviewed && body["role"] == l.role.Name {
				status = http.StatusForbidden
			}
			continue
		}
		t := &token{display: mount + "-" + l.role.Name, batch: l.role.Batch, renewable: !l.role.Batch, metadata: l.role.Metadata}
		entry.Metadata = t.metadata
		return s.grant(t, l.role.TTL, true)
	}
	return refuse(status, "permission denied, or another text of its own for each auth method")
}

func (l login) accepts(by caller, body map[string]any) bool {
	given := 0
	for name, want := range l.proof {
		if got, ok := body[name].(string); !ok || got != want {
			return false
		}
		given++
	}
	return given == len(body) && (l.leaf == nil || bytes.Equal(l.leaf, by.leaf))
}

// grant makes t a token and returns the reply that hands it out.
func (s *Server) grant(t *token, ttl time.Duration, orphan bool) answer {
	value := s.addToken(t, ttl)
	return ok(nil, map[string]any{
		"client_token": value, "accessor": t.accessor, "token_type": t.kind(),
		"lease_duration": int64(ttl / time.Second), "renewable": t.renewable, "orphan": orphan, "num_uses": 0,
		"policies": []string{"default"}, "metadata": anyMap(t.metadata),
	})
}

func (t *token) kind() string {
	if t.batch {
		return "batch"
	}
	return "service"
}

func anyMap(m map[string]string) map[string]any {
	if m == nil {
		return nil
	}
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// createToken makes a child of the token of that value.
func (s *Server) createToken(value string, parent *token, name string, body map[string]any) answer {
	role, found := s.makers[name]
	switch {
	case parent.batch:
		return refuse(http.StatusBadRequest, "batch tokens cannot create more tokens")
	case !found:
		return refuse(http.StatusBadRequest, "unknown role "+name)
	}
	display, _ := body["display_name"].(string)
	t := &token{display: "token-" + display, batch: role.Batch, parent: value, noDefault: role.NoDefault}
	if role.Orphan {
		t.parent = ""
	}
	if meta, ok := body["meta"].(map[string]any); ok {
		t.metadata = map[string]string{}
		for k, v := range meta {
			t.metadata[k], _ = v.(string)
		}
	}
	ttl := role.TTL
	if asked, err := time.ParseDuration(orZero(body["ttl"])); err == nil && asked > 0 {
		ttl = min(ttl, asked)
	}
	return s.grant(t, ttl, role.Orphan)
}

func orZero(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return "0s"
}

func (s *Server) revokeSelf(value string, t *token) answer {
	switch {
	case t.noDefault:
		return permissionDenied
	case t.batch:
		return refuse(http.StatusBadRequest, "batch tokens cannot be revoked")
	}
	s.revokeToken(value)
	return noContent
}

// wrapping handles sys/wrapping/, which the wrapping token itself opens.
func (s *Server) wrapping(what, token string, body map[string]any) answer {
	if given, ok := body["token"].(string); ok {
		token = given
	}
	w := s.wrapped[token]
	if w == nil || w.used || !s.now().Before(w.expires) {
		return refuse(http.StatusBadRequest, "wrapping token is not valid or does not exist")
	}
	switch what {
	case "lookup":
		return ok(map[string]any{"creation_path": w.path, "creation_ttl": 60}, nil)
	case "unwrap":
		w.used = true
		return ok(w.data, nil)
	}
	return notFound
}

// Unwrap uses a wrapping token up, as someone would who got hold of it.
func (s *Server) Unwrap(token string) {
	s.set(func() {
		if w := s.wrapped[token]; w != nil {
			w.used = true
		}
	})
}
