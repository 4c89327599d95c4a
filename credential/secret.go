package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Secret is a byte string that does not print: every fmt verb, JSON, YAML and text encoding
// show "[redacted]". [Secret.Expose] is the only way out; only inject, redact and the token
// exchanges call it, and internal/archtest holds that. The zero Secret is empty.
//
// A Secret is a handle: copies share the bytes, and [Secret.Wipe] on one clears all.
type Secret struct {
	// bytes is a function because fmt calls no method of a field that is not exported: it
	// would print a slice's bytes, under some verbs a pointer's too, and of a function it
	// prints the address.
	bytes func() []byte
}

// NewSecret takes ownership of b: the caller must not read or change it afterwards.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// Expose returns the bytes themselves, not a copy. The caller must neither change nor keep
// them beyond one request.
func (s Secret) Expose() []byte {
	if s.bytes == nil {
		return nil
	}
	return s.bytes()
}

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return len(s.Expose()) == 0 }

// Wipe overwrites the bytes. Go may have copied them (strings inside net/http), so wiping
// shortens a secret's stay in memory and does not end it. No other goroutine may be using s.
func (s Secret) Wipe() { clear(s.Expose()) }

// Format implements [fmt.Formatter] for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler], which JSON, YAML and zerolog follow.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// String implements [fmt.Stringer].
func (Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return redacted }

// Fingerprint stands for the secret in records: an HMAC-SHA256 under key, cut to 128 bits, in
// hex. Equal secrets have equal fingerprints under one key, and nothing about a secret can be
// learnt from its fingerprint without the key.
func (s Secret) Fingerprint(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(s.Expose())
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
