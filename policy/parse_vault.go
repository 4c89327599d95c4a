package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	defaultJWTTTL = 5 * time.Minute
	minJWTTTL     = time.Minute
	maxJWTTTL     = 24 * time.Hour
)

// ownClaims are the claims that every JWT gets when it is made.
var ownClaims = []string{"exp", "iat", "jti", "nbf"}

// decodeVault decodes what is asked of Vault, for a client certificate if certificate.
func decodeVault(v strictyaml.Value, certificate bool) *VaultFrom {
	m := v.Mapping("path", "method", "data", "field", "user_field", "max_age", "jwt")
	path := m.Need("path", "write the API path, such as path: secret/data/agents/x")
	f := &VaultFrom{Path: vaultPath(path)}
	method, known := m.Get("method").Choice("read", "write")
	f.Write = method == "write"
	reads := !f.Write && (known || !m.Has("method"))
	f.Data = decodePlain(m.Get("data"), checkSessionWords)
	f.Field, _ = nonEmpty(m.Get("field"))
	f.UserField, _ = nonEmpty(m.Get("user_field"))
	f.MaxAge, _ = m.Get("max_age").Duration()
	switch {
	case m.Has("jwt"):
		f.JWT = decodeJWT(m.Get("jwt"))
		forbid(m, "a JWT is signed by one write, and is the value as a whole", "method", "data", "field", "user_field")
		if certificate {
			m.Key("jwt").Wrong("a JWT is no client certificate", "remove jwt, or inject it as bearer")
		}
		if f.Path != "" && engineVerb(f.Path) != "sign" {
			path.Wrong("a JWT is signed where the transit engine signs", "write path: transit/sign/KEY")
		}
		return f
	case certificate:
		forbid(m, "a client certificate is several fields, whose names are known", "field", "user_field")
		decodeIssue(m, f, reads)
	default:
		m.Need("field", "write the name of the field that holds the value")
	}
	if m.Has("data") && reads {
		m.Key("data").Wrong("a read has no data", "write method: write, or remove data")
	}
	if reads && mayBeKV2(f.Path) {
		m.Need("max_age", "write max_age: 1h; with data in its path the value is taken for one of KV version 2, which has no end of its own")
	}
	return f
}

// forbid records a mistake for each of keys that is there.
func forbid(m strictyaml.Mapping, why string, keys ...string) {
	for _, key := range keys {
		if m.Has(key) {
			m.Key(key).Wrong(why, "remove "+key)
		}
	}
}

// decodeIssue checks the source of a client certificate.
func decodeIssue(m strictyaml.Mapping, f *VaultFrom, reads bool) {
	verb := engineVerb(f.Path)
	if (verb == "issue" || verb == "sign") && reads {
		m.Get("path").Wrong("a certificate is issued by a write", "write method: write, and data: {common_name: NAME}")
	}
	if _, ok := f.Data["csr"]; ok && verb == "sign" {
		m.Get("data").Wrong("the signing request is made with the key, for each certificate anew", "remove csr")
	}
}

// engineVerb returns the last segment of path but one: what a secrets engine does for the role
// or key that the last one names.
func engineVerb(path string) string {
	segments := strings.Split(path, "/")
	if len(segments) < 3 {
		return ""
	}
	return segments[len(segments)-2]
}

// mayBeKV2 reports whether a read of path may be one of KV version 2, MOUNT/data/PATH. Neither
// a mount nor a path has a known number of segments, so that a segment "data" anywhere but
// at the ends is taken for one: none of KV version 2 is missed.
func mayBeKV2(path string) bool {
	segments := strings.Split(path, "/")
	return len(segments) >= 3 && slices.Contains(segments[1:len(segments)-1], "data")
}

// decodePlain decodes a mapping of names to what JSON can hold without being nested. The names of
// own are not the file's to give. check, if not nil, gets each value.
func decodePlain(v strictyaml.Value, check func(strictyaml.Value, any), own ...string) map[string]any {
	if !v.Present() {
		return nil
	}
	values := map[string]any{}
	for _, e := range v.Entries() {
		if e.Name == "" || strings.ContainsFunc(e.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			e.Key.Wrong(fmt.Sprintf("%s is not a name", strictyaml.Quote(e.Name)), "")
		}
		if slices.Contains(own, e.Name) {
			e.Key.Wrong("the claim is set for each JWT when it is made", "remove it; ttl says when the JWT ends")
		}
		if value, ok := e.Value.Plain(); ok {
			values[e.Name] = value
			if check != nil {
				check(e.Value, value)
			}
		}
	}
	return values
}

func decodeJWT(v strictyaml.Value) *VaultJWT {
	m := v.Mapping("algorithm", "key_id", "claims", "ttl")
	j := &VaultJWT{TTL: defaultJWTTTL}
	j.Algorithm, _ = m.Need("algorithm", "write the algorithm of the key, such as algorithm: RS256").
		Choice("RS256", "PS256", "ES256", "ES384", "EdDSA")
	j.KeyID, _ = nonEmpty(m.Get("key_id"))
	j.Claims = decodePlain(m.Get("claims"), nil, ownClaims...)
	if ttl, ok := m.Get("ttl").Duration(); ok {
		j.TTL = ttl
		if ttl < minJWTTTL || ttl > maxJWTTTL {
			m.Get("ttl").Wrong("the JWT is to live for at least a minute and at most 24h", "write ttl: 5m")
		}
	}
	return j
}

// vaultPath checks a path so that it can be put into a URL as it is and means there what it
// says here.
func vaultPath(v strictyaml.Value) string {
	s, ok := nonEmpty(v)
	if !ok {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("?#%\\", c) >= 0 {
			v.Wrong(fmt.Sprintf("the Vault path has the byte %s", showByte(c)), "write the path as plain ASCII, without a query")
			return ""
		}
	}
	first, _, _ := strings.Cut(s, "/")
	switch {
	case s[0] == '/':
		v.Wrong("the Vault path begins with /", fmt.Sprintf("write %s", strictyaml.Quote(strings.TrimLeft(s, "/"))))
	case s[len(s)-1] == '/':
		v.Wrong("the Vault path ends with /", fmt.Sprintf("write %s", strictyaml.Quote(strings.TrimRight(s, "/"))))
	case strings.Contains(s, ".."), slices.Contains(strings.Split(s, "/"), "."):
		v.Wrong("the Vault path has a dot segment", "write the path it leads to")
	case strings.Contains(s, "//"):
		v.Wrong("the Vault path has an empty segment (//)", "write one slash")
	case slices.Contains([]string{"sys", "auth", "cubbyhole", "identity"}, first) && !strings.HasPrefix(s, "identity/oidc/token/"):
		v.Wrong(fmt.Sprintf("%s/ belongs to Vault itself and holds no credential for a route", first),
			"write a path of a secrets engine; of identity/ only identity/oidc/token/ROLE")
	}
	return s
}
