package vault

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// SourceConfig says what to ask of Vault for one credential, and what of the reply is its
// value. There are three kinds: a field of any reply, a client certificate (Certificate), and a
// JWT that Vault signs (JWT).
type SourceConfig struct {
	// Path is the API path without "/v1/", such as "secret/data/team/key" (KV version 2, with
	// its "data"), "github/token/reviewer", "pki/issue/agent" or, for a JWT, "transit/sign/key".
	Path string

	// Write says that Path is written, with Data, instead of read. A JWT is always a write.
	Write bool

	// Data is the body of a write: texts, numbers, true and false, and lists of texts. Nil means
	// an empty object. It must not change. A read and a JWT have none.
	Data map[string]any

	// Field is the field of the reply that holds the value. Required, but for a certificate and
	// a JWT, which have none.
	Field string

	// UserField is the field that holds the user name. Empty means that there is none.
	UserField string

	// MaxAge bounds how long one reply is used. Zero means no bound for a reply with an end of
	// its own (a lease, a certificate, a token), and 5 minutes for one without.
	MaxAge time.Duration

	// Certificate says that the value is the private key of a client certificate: the fields
	// private_key, certificate, and ca_chain or issuing_ca of the reply, in PEM, as of a write of
	// pki/issue/ROLE. With a path that ends in sign/ROLE the key is made here (ECDSA P-256,
	// which the role must allow) and never travels; Data then has no "csr".
	Certificate bool

	// JWT makes the value a JWT that the transit engine signs; nil for none.
	JWT *JWTConfig
}

// JWTConfig says what stands in a JWT (RFC 7519) that Vault's transit engine signs: the key
// never leaves Vault.
type JWTConfig struct {
	// Algorithm is "RS256", "PS256", "ES256", "ES384" or "EdDSA" (RFC 7518, RFC 8037). It must
	// fit the type of the key.
	Algorithm string

	// KeyID is the header's kid. Empty means that there is none.
	KeyID string

	// Claims are the claims but for iat, nbf, exp and jti, which are set for each JWT. Nil means
	// no others. It must not change.
	Claims map[string]any

	// TTL is the time from iat to exp, at least a minute and at most 24 h; parts of a second are cut
	// off.
	TTL time.Duration
}

const (
	minJWTTTL = time.Minute
	maxJWTTTL = 24 * time.Hour
)

// ownClaims are those that every JWT gets here.
var ownClaims = []string{"exp", "iat", "jti", "nbf"}

// check returns nil if a source can be made of c, else a *failure that refuses.
func (c SourceConfig) check() error {
	k := call{what: "obtain a credential"}
	switch {
	case !validPath(c.Path):
		return k.refused("%q is not a path such as secret/data/x", c.Path)
	case c.MaxAge < 0:
		return k.refused("the maximum age %v is negative", c.MaxAge)
	case c.JWT != nil:
		return c.checkJWT(k)
	case c.Data != nil && !c.Write:
		return k.refused("a read has no data")
	case c.Certificate && (c.Field != "" || c.UserField != ""):
		return k.refused("a certificate has no field")
	case c.Certificate && c.makesKey() && !c.Write:
		return k.refused("%s is not to be read but written", c.Path)
	case c.Certificate && c.makesKey() && c.Data["csr"] != nil:
		return k.refused("the certificate signing request is made here")
	case !c.Certificate && c.Field == "":
		return k.refused("no field is named")
	}
	return nil
}

func (c SourceConfig) checkJWT(k call) error {
	j := c.JWT
	segments := strings.Split(c.Path, "/")
	switch {
	case c.Field != "" || c.UserField != "" || c.Data != nil || c.Certificate:
		return k.refused("a JWT has no field, no data and no certificate")
	case len(segments) < 3 || segments[len(segments)-2] != "sign":
		return k.refused("%q is not a path such as transit/sign/KEY", c.Path)
	case algorithms[j.Algorithm].least == 0:
		return k.refused("algorithm %q is not one of %s", j.Algorithm, strings.Join(slices.Sorted(maps.Keys(algorithms)), ", "))
	case j.TTL < minJWTTTL || j.TTL > maxJWTTTL:
		return k.refused("the TTL %v is not between %v and %v", j.TTL, minJWTTTL, maxJWTTTL)
	}
	for _, name := range ownClaims {
		if _, ok := j.Claims[name]; ok {
			return k.refused("claim %s is set for each JWT and cannot be given", name)
		}
	}
	return nil
}

// makesKey reports whether the private key is made here and only signed for.
func (c SourceConfig) makesKey() bool {
	segments := strings.Split(c.Path, "/")
	return c.Certificate && len(segments) >= 3 && segments[len(segments)-2] == "sign"
}
