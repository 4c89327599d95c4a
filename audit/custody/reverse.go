package custody

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A claim says whose a token is.
type claim struct {
	s    *session
	lent bool // the session did not log in for it: it is its operator's own
}

// claimJoined notes the tokens of all calls that were joined. A session with auth method "token" is lent
// its token, and what its owner does with it is no finding.
func (t *tracer) claimJoined() {
	t.claims = map[string]claim{}
	lent := map[*session]bool{}
	for _, target := range t.targets {
		switch {
		case strings.HasSuffix(target.path, "/login") || strings.Contains(target.path, "/login/"):
			lent[target.s] = false
		case target.path == "auth/token/lookup-self":
			if _, known := lent[target.s]; !known {
				lent[target.s] = true
			}
		}
	}
	for _, target := range t.targets {
		p := target.pair
		if p == nil || strings.TrimSuffix(p.either().Path, "/") != strings.TrimSuffix(target.path, "/") {
			continue
		}
		p.owner = target.s
		for _, k := range p.issued {
			t.claims[k] = claim{s: target.s}
		}
	}
	for _, target := range t.targets {
		if p := target.pair; p != nil && p.owner == target.s {
			for _, k := range p.tokens {
				if _, known := t.claims[k]; !known {
					t.claims[k] = claim{target.s, lent[target.s]}
				}
			}
		}
	}
	// A token is known by several keys, and issued under but some of them.
	for _, target := range t.targets {
		if p := target.pair; p != nil && p.owner != nil && slices.ContainsFunc(p.tokens, func(k string) bool { return !t.claims[k].lent }) {
			for _, k := range p.tokens {
				t.claims[k] = claim{s: t.claims[k].s}
			}
		}
	}
}

// claimOf returns whose the token is that made the call.
func (t *tracer) claimOf(p *pair) claim {
	var found claim
	for _, k := range p.tokens {
		if c := t.claims[k]; c.s != nil && (found.s == nil || found.lent) {
			found = c
		}
	}
	return found
}

// ownerOf returns whose the call is by its token, or what Vault says of that; nil if it is not known.
func (t *tracer) ownerOf(p *pair) *session {
	if p.owner != nil {
		return p.owner
	}
	if c := t.claimOf(p); c.s != nil {
		return c.s
	}
	return t.trails.byID[p.either().metadata["session_id"]]
}

// checkReverse looks at what Vault's log has of sessions and no call was joined to.
func (t *tracer) checkReverse() {
	t.claimJoined()
	given := map[string][]*session{}
	for _, s := range t.trails.sessions {
		given[givenID(s.ID)] = append(given[givenID(s.ID)], s)
	}
	slices.SortStableFunc(t.vault.pairs, func(a, b *pair) int { return a.at().Compare(b.at()) })
	for _, p := range t.vault.pairs {
		a, anchored := parseAnchor(p.corr())
		if p.target != nil {
			if anchored && p.owner != nil {
				p.owner.checkAnchor(a, p.at(), p.either().where())
			}
			continue
		}
		t.unjoined(p, a, anchored, given)
	}
	t.noteUnjoined()
}

// unjoined looks at a call that no trail has.
func (t *tracer) unjoined(p *pair, a anchor, anchored bool, given map[string][]*session) {
	var named *session // whose trail has the record that the call's anchor names, as the last one by then
	if anchored {
		if named = t.sessionOf(a); named != nil && !named.wasNewest(a, p.at(), t.skew) {
			named = nil // the correlation id was copied from an earlier call
		}
	}
	c := t.claimOf(p)
	owner := c.s
	if owner == nil {
		owner = t.trails.byID[p.either().metadata["session_id"]]
	}
	switch {
	case c.lent:
		c.s.lent++
	case owner == nil && named == nil:
		t.stranger(p, anchored, given)
	case named != nil && (owner == nil || owner == named):
		p.owner = named
		t.claim(p, append(p.issued, p.tokens...))
		if t.issues(p) {
			t.find(unanswered(p, named))
		}
	default:
		p.owner = owner
		t.claim(p, p.issued)
		if anchored {
			owner.checkAnchor(a, p.at(), p.either().where())
		}
		t.find(unrecorded(p, owner, anchored && a.seq > owner.last()))
	}
}

// claim notes that tokens are p's owner's, unless they are known to be somebody's.
func (t *tracer) claim(p *pair, tokens []string) {
	for _, k := range tokens {
		if _, known := t.claims[k]; !known {
			t.claims[k] = claim{s: p.owner}
		}
	}
}

// stranger looks at a call whose session is not known. A login names its session by what others call
// it, which several have that ran in one pod.
func (t *tracer) stranger(p *pair, anchored bool, given map[string][]*session) {
	h := p.either()
	id := h.metadata["session_id"]
	if anchored {
		t.strangers++
	}
	if id != "" && t.wanted(id) {
		f := unrecorded(p, &session{Session: &Session{ID: id}}, false)
		f.Hint = "no trail of this session was given: give it; if there is none, it was removed, or the session is not a sidecar's"
		t.find(f)
		return
	}
	runs := given[id]
	if id == "" || len(runs) == 0 {
		return
	}
	if !anchored {
		p.owner = runs[0]
		t.find(unrecorded(p, p.owner, false))
		return
	}
	i := slices.IndexFunc(runs, func(s *session) bool { return s.Ended.IsZero() && p.at().After(s.Last) })
	if i < 0 {
		runs[0].foreign++ // no given run can have made it: another one has
		return
	}
	p.owner = runs[i]
	f := unrecorded(p, p.owner, true)
	f.Code = TrailTruncated
	f.What = fmt.Sprintf("Vault's log has a call for %s after the last record of session %s (%s), and names a record that no given trail has.", id, p.owner.ID, called(p))
	f.Hint = "the end of the trail is missing; or another run of the same session made the call, whose trail was not given"
	t.find(f)
}

// wanted reports whether the session that Vault calls id was asked for, and no given trail is of it.
func (t *tracer) wanted(id string) bool {
	only := t.cfg.Filter.Session
	if only != id && givenID(only) != id {
		return false
	}
	return !slices.ContainsFunc(t.trails.sessions, func(s *session) bool { return t.cfg.Filter.keepsSession(s.Session) })
}

// issues reports whether Vault gave something away with the call: a lease, a token, or what was read.
func (t *tracer) issues(p *pair) bool {
	if failed, _ := p.failed(); failed || p.resp == nil {
		return false
	}
	path := p.resp.Path
	if p.resp.lease != "" || len(p.issued) > 0 {
		return true
	}
	return t.credentialPaths()[path] || p.resp.Operation == "read" && !strings.HasPrefix(path, "sys/") && !strings.HasPrefix(path, "auth/")
}

// credentialPaths are where the sessions' issuances came from.
func (t *tracer) credentialPaths() map[string]bool {
	if t.paths == nil {
		t.paths = map[string]bool{}
		for _, target := range t.targets {
			if target.iss != nil {
				t.paths[target.path] = true
			}
		}
	}
	return t.paths
}

// called says what a call was, for people.
func called(p *pair) string {
	h := p.either()
	text := fmt.Sprintf("%s of %s at %s from %s, request %s", h.Operation, quoted(h.Path), h.at.Format(time.RFC3339Nano), remote(h), h.id)
	if failed, _ := p.failed(); failed {
		text += ", refused"
	}
	return text
}

func remote(h *half) string {
	if h.Address == "" {
		return "an unknown address"
	}
	return h.Address
}

func unanswered(p *pair, s *session) Finding {
	return Finding{
		Code: CallUnanswered, Session: s.ID, Time: p.at(), Where: p.either().where(),
		What: fmt.Sprintf("Vault served a call of session %s that the sidecar could not record any more: %s.", s.ID, called(p)),
		Hint: "the sidecar was killed or its sink failed; what was issued is unused and ends with its lease or token, unless it is revoked before",
	}
}

func unrecorded(p *pair, s *session, beyond bool) Finding {
	f := Finding{
		Code: VaultUnrecorded, Session: s.ID, Time: p.at(), Where: p.either().where(),
		What: fmt.Sprintf("Vault was called with a token of session %s, and the trail does not have the call: %s.", s.ID, called(p)),
		Hint: "the token is used elsewhere: revoke it, and find out who calls from " + remote(p.either()),
	}
	if beyond {
		f.Hint = "the end of the trail is missing, or the token is used elsewhere: revoke it, and find out who calls from " + remote(p.either())
	}
	return f
}

// noteUnjoined says what could not be decided.
func (t *tracer) noteUnjoined() {
	lent, foreign := 0, 0
	for _, s := range t.trails.sessions {
		lent += s.lent
		foreign += s.foreign
	}
	t.note(lent, fmt.Sprintf("%d calls to Vault were made with a token that a session was lent (auth method token); whether it was used elsewhere cannot be said", lent),
		"have the sidecar log in by itself")
	t.note(foreign, fmt.Sprintf("%d calls to Vault are of sessions with the name of a given one, and their trails were not given", foreign),
		"give the trails of all runs of the pod")
	t.note(t.strangers-foreign, fmt.Sprintf("%d calls to Vault are of sidecars whose trails were not given", t.strangers-foreign), "give their trails to check them too")
	t.note(t.unseen, fmt.Sprintf("%d calls were not answered, or not by Vault itself, and Vault's log does not have them", t.unseen), "")
	t.noteBlind()
}
