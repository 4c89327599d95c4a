package audit

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"time"
)

// DefaultSegment is how many bytes of a chain are signed at once where a config does not say.
const DefaultSegment = 64 << 20

// A segment is what of a chain was written since it was signed last.
type segment struct {
	key    ed25519.PrivateKey // of this chain only; it ends with the process
	public string             // hex
	told   bool               // the chain has a SessionStarted, which says what the key is
	limit  int64              // bytes
	size   int64
	open   bool // something was written since
}

func newSegment(limit int64) (segment, error) {
	public, key, err := ed25519.GenerateKey(nil)
	if limit <= 0 {
		limit = DefaultSegment
	}
	return segment{key: key, public: hex.EncodeToString(public), limit: limit}, err
}

// signedText is what a [SegmentSigned] that follows at signs: the chain up to there, which the hash
// stands for, and nothing that could be taken for something else that is signed.
func signedText(session string, at position) []byte {
	return fmt.Appendf(nil, "sidekey segment v1\n%s\n%d\n%s\n", session, at.seq, at.hash[:])
}

// sign appends the record that signs the chain up to head, and returns its position.
func (s *segment) sign(dst []byte, session string, head position, at time.Time, context, policy []byte) ([]byte, position) {
	signature := ed25519.Sign(s.key, signedText(session, head))
	fields := fmt.Appendf(nil, `{"signing_key":"%s","signature":"%x"}`, s.public, signature)
	return appendLine(dst, head, at, SegmentSigned, context, policy, fields)
}

// signed checks a [SegmentSigned] against the session's key.
func (c *chain) signed(e *Entry) string {
	public, err := hex.DecodeString(e.SigningKey)
	signature, err2 := hex.DecodeString(e.Signature)
	switch {
	case err != nil || err2 != nil || len(public) != ed25519.PublicKeySize:
		return "a signature or its key is malformed"
	case c.key == "" && !c.partial:
		return "is signed with a key that the session did not begin with"
	case c.key != "" && c.key != e.SigningKey:
		return "is signed with another key than the session's"
	case !ed25519.Verify(public, signedText(c.session.ID, c.at), signature):
		return "the signature does not match"
	}
	c.key = e.SigningKey
	c.segments++
	c.unsigned = 0
	return ""
}
