package vault

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/sidekey/sidekey/credential"
)

const (
	// maxBackdate is how far in the past a JWT begins at most, for upstreams whose clock is a
	// little late and that take no token from the future.
	maxBackdate = 30 * time.Second

	// clockTolerance is by how much this process's clock and Vault's may differ before Vault's is
	// taken to be the right one. It is under a tenth of minJWTTTL, so that no JWT begins in
	// the future.
	clockTolerance = 5 * time.Second
)

// errClock means that a JWT was made by a clock that Vault's contradicts.
var errClock = fmt.Errorf("vault's clock and this one disagree: %w", credential.ErrUnavailable)

// An algorithm is how transit is asked for a signature that a JWT can hold.
type algorithm struct {
	ask         map[string]any
	least, most int // bytes of a signature

	// digest hashes the input here. Vault then refuses an Ed25519 key, whose signatures are as
	// long as those of ES256. Nil leaves it to Vault.
	digest func([]byte) []byte
}

var algorithms = map[string]algorithm{
	"RS256": {map[string]any{"hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15"}, 256, 2048, nil},
	// RFC 7518 section 3.5: the salt is as long as the hash.
	"PS256": {map[string]any{"hash_algorithm": "sha2-256", "signature_algorithm": "pss", "salt_length": "hash"}, 256, 2048, nil},
	// RFC 7518 section 3.4: both numbers in full length, not in ASN.1.
	"ES256": {map[string]any{"hash_algorithm": "sha2-256", "prehashed": true, "marshaling_algorithm": "jws"}, 64, 64, sum256},
	"ES384": {map[string]any{"hash_algorithm": "sha2-384", "prehashed": true, "marshaling_algorithm": "jws"}, 96, 96, sum384},
	"EdDSA": {map[string]any{}, 64, 64, nil}, // RFC 8037
}

func sum256(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }

func sum384(b []byte) []byte { sum := sha512.Sum384(b); return sum[:] }

// draft writes the header and the claims of a JWT by a clock that is ahead of now. id becomes
// its jti.
func (j *JWTConfig) draft(id string, now time.Time, ahead time.Duration) (draft, error) {
	ttl := j.TTL.Truncate(time.Second)
	begin := now.Add(ahead - min(maxBackdate, ttl/10)).Truncate(time.Second)
	d := draft{exp: begin.Add(ttl), ahead: ahead}
	header := map[string]string{"alg": j.Algorithm, "typ": "JWT"}
	if j.KeyID != "" {
		header["kid"] = j.KeyID
	}
	claims := map[string]any{}
	maps.Copy(claims, j.Claims)
	claims["iat"], claims["nbf"], claims["exp"], claims["jti"] = begin.Unix(), begin.Unix(), d.exp.Unix(), id
	head, err1 := json.Marshal(header)
	payload, err2 := json.Marshal(claims)
	if err := errors.Join(err1, err2); err != nil {
		return draft{}, call{what: "write a JWT"}.refused("the claims are no JSON")
	}
	d.jwt = base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(payload)
	input, alg := []byte(d.jwt), algorithms[j.Algorithm]
	if alg.digest != nil {
		input = alg.digest(input)
	}
	body := map[string]any{"input": base64.StdEncoding.EncodeToString(input)}
	maps.Copy(body, alg.ask)
	d.body = body
	return d, nil
}

// grantJWT puts Vault's signature under the JWT.
func (src *source) grantJWT(k call, d draft, a answer) (grant, error) {
	if err := src.checkClock(k, d, a); err != nil {
		return grant{}, err
	}
	var text string
	if json.Unmarshal(a.reply.Data["signature"], &text) != nil {
		return grant{}, k.unavailable("the reply holds no signature")
	}
	// "vault:v1:..." in the alphabet of RFC 4648 section 4 or, with "jws", of section 5.
	parts := strings.Split(text, ":")
	encoded := strings.NewReplacer("-", "+", "_", "/", "=", "").Replace(parts[len(parts)-1])
	signature, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || len(parts) != 3 {
		return grant{}, k.unavailable("the signature is malformed")
	}
	alg := algorithms[src.cfg.JWT.Algorithm]
	if n := len(signature); n < alg.least || n > alg.most {
		return grant{}, k.refused("a signature of %d bytes is not one of %s: the key is of another type", n, src.cfg.JWT.Algorithm)
	}
	g := grant{value: []byte(d.jwt + "." + base64.RawURLEncoding.EncodeToString(signature)), ends: d.exp.Add(-d.ahead)}
	if !a.reply.date.IsZero() {
		g.ends = a.here(d.exp)
	}
	return g, nil
}

// checkClock returns an error that wraps errClock if Vault's clock shows that the JWT's was
// wrong. The next draft goes by Vault's. Which of two clocks is right cannot be known from
// here, but upstreams and Vault are more likely to be kept right than one node.
func (src *source) checkClock(k call, d draft, a answer) error {
	if a.reply.date.IsZero() {
		return nil
	}
	ahead := a.reply.date.Sub(a.got)
	if (ahead - d.ahead).Abs() <= clockTolerance {
		return nil
	}
	if ahead.Abs() <= clockTolerance {
		ahead = 0
	}
	src.ahead.Store(int64(ahead))
	return &failure{what: k.what, why: fmt.Sprintf("by %v", (ahead - d.ahead).Abs().Round(time.Second)), kind: errClock}
}

// here returns when t, on Vault's clock, comes on this process's clock, and rather too early than
// too late. Without Vault's clock it is t.
func (a answer) here(t time.Time) time.Time {
	if a.reply.date.IsZero() {
		return t
	}
	return a.asked.Add(t.Sub(a.reply.date) - time.Second) // Date is cut to the second
}
