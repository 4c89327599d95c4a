package audit

import (
	"bytes"
	"time"
)

// A chain is what [Verify] knows of the session it reads.
type chain struct {
	session Session
	pod     Pod
	context []byte // session and pod as they stand in every line
	at      position
	over    bool // a SessionEnded was read
	ended   bool // it was the last record, or what signs it is

	partial  bool   // its beginning was not read
	key      string // that signs it, in hex; "" if it is not known
	segments int
	unsigned int // records since the last signature

	policy     Policy
	policyJSON []byte // nil until the first use

	records, intents, outcomes, denied int

	open   map[uint64]struct{}  // intents without an outcome
	live   map[string]time.Time // issuances not revoked, with their expiry
	sweeps int                  // the size of live at which expired ones are dropped
}

// minSweep is how many issuances are kept before expired ones are dropped.
const minSweep = 256

// keepExpired is for how long an expired issuance is remembered, so that a clock that was set
// back does not break an honest trail.
const keepExpired = 24 * time.Hour

func newChain(e *Entry, context []byte) *chain {
	return &chain{
		session: e.Session,
		pod:     e.Pod,
		context: context,
		at:      position{hash: noDigest},
		open:    make(map[uint64]struct{}),
		live:    make(map[string]time.Time),
		sweeps:  minSweep,
	}
}

// beginAt takes e, whose predecessors were not read, for the next.
func (c *chain) beginAt(e *Entry) {
	c.partial = true
	c.at = position{seq: e.Seq - 1}
	copy(c.at.hash[:], e.Prev)
}

// verified takes over the attribution of a [SessionVerified], which is all that may change of a
// session and only to a higher level. It reports whether e is such a change.
func (c *chain) verified(enc *encoder, e *Entry) bool {
	want := c.session
	want.Attribution = e.Session.Attribution
	if e.Event != SessionVerified || e.Session != want || level(want.Attribution) <= level(c.session.Attribution) {
		return false
	}
	context, err := encodeContext(enc, want, c.pod)
	if err != nil {
		return false
	}
	c.session, c.context = want, context
	return true
}

// encodePolicy returns p as it stands in a line. It seldom changes from one to the next.
func (c *chain) encodePolicy(enc *encoder, p Policy) ([]byte, error) {
	if c.policyJSON == nil || p != c.policy {
		b, err := enc.encode(p)
		if err != nil {
			return nil, err
		}
		c.policy, c.policyJSON = p, bytes.Clone(b)
	}
	return c.policyJSON, nil
}

// apply takes an intact record and returns what is wrong with its meaning, or "".
func (c *chain) apply(e *Entry) string {
	if err := e.check(); err != nil {
		return err.Error()
	}
	if c.over && (e.Event == SessionStarted || e.Event == CredentialIssued || e.Event == CredentialReissued ||
		e.Event == RequestIntent && e.Issuance != "") {
		return "follows the end of the session"
	}
	c.records++
	c.unsigned++
	c.ended = e.Event == SessionEnded || c.ended && e.Event == SegmentSigned
	switch e.Event {
	case SessionStarted:
		if e.Seq == 1 {
			c.key = e.SigningKey
		}
	case SegmentSigned:
		return c.signed(e)
	case CredentialIssued, CredentialReissued:
		return c.issue(e)
	case CredentialRevoked:
		delete(c.live, e.Issuance)
	case RequestIntent:
		return c.intent(e)
	case RequestOutcome:
		if _, ok := c.open[e.Intent]; !ok && !c.partial {
			return "an outcome names no open intent"
		}
		delete(c.open, e.Intent)
		c.outcomes++
	case RequestDenied:
		c.denied++
	case SessionEnded:
		c.over = true
	}
	return ""
}

// issue remembers an issuance. A [CredentialReissued] may renew one that is live.
func (c *chain) issue(e *Entry) string {
	if e.Issuance == "" || e.ExpiresAt.IsZero() {
		return ""
	}
	if _, ok := c.live[e.Issuance]; ok && e.Event == CredentialIssued {
		return "an issuance is recorded twice"
	}
	c.live[e.Issuance] = e.ExpiresAt
	if len(c.live) > c.sweeps {
		for id, expiry := range c.live {
			if e.Time.Sub(expiry) > keepExpired {
				delete(c.live, id)
			}
		}
		c.sweeps = max(minSweep, 2*len(c.live))
	}
	return ""
}

func (c *chain) intent(e *Entry) string {
	if e.Issuance != "" {
		expiry, ok := c.live[e.Issuance]
		switch {
		case !ok && c.partial:
		case !ok:
			return "an intent uses an issuance that was not issued or is revoked"
		case !expiry.After(e.Time):
			return "an intent uses an issuance that has expired"
		}
	}
	c.open[e.Seq] = struct{}{}
	c.intents++
	return ""
}

func (c *chain) summary() SessionSummary {
	return SessionSummary{
		ID:            c.session.ID,
		Role:          c.session.Role,
		Records:       c.records,
		Intents:       c.intents,
		Outcomes:      c.outcomes,
		Indeterminate: len(c.open),
		Denied:        c.denied,
		Head:          string(c.at.hash[:]),
		Ended:         c.ended,
		SigningKey:    c.key,
		Segments:      c.segments,
		Unsigned:      c.unsigned,
	}
}
