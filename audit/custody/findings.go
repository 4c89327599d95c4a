package custody

import (
	"cmp"
	"slices"
	"time"
)

// gravity are the codes, the gravest first.
var gravity = []Code{
	VaultUnrecorded, UseWithoutIssuance, IssuanceNotInVault, CallNotInVault, IssuanceMismatch, CallMismatch,
	TrailBroken, TrailTruncated, VaultLogBroken, AccessUnrecorded, AccessMissing, AccessMismatch, IssuanceOutstanding, CallUnanswered,
}

// sort puts findings in order and sessions in that in which they began.
func (r *Report) sort() {
	rank := map[Code]int{}
	for i, c := range gravity {
		rank[c] = i
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Code], rank[b.Code]), a.Time.Compare(b.Time), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Seq, b.Seq))
	})
	slices.SortStableFunc(r.Sessions, func(a, b *Session) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID)) })
}

// count fills in the totals.
func (r *Report) count() {
	n := &r.Totals
	n.Sessions = len(r.Sessions)
	joined := func(how Join) {
		switch how {
		case ByRequestID:
			n.JoinedByID++
		case ByCorrelationID:
			n.JoinedByCorr++
		case ByPathAndTime:
			n.JoinedByPlace++
		}
	}
	for _, s := range r.Sessions {
		n.VaultCalls += len(s.Calls)
		for _, c := range s.Calls {
			joined(c.Joined)
		}
		n.Issuances += len(s.Issuances)
		for _, iss := range s.Issuances {
			for _, u := range iss.Uses {
				n.use(u)
			}
		}
		for _, ev := range s.Events {
			n.event(ev)
		}
	}
}

func (n *Totals) use(u *Use) {
	n.Uses++
	if u.Outcome == 0 {
		n.Indeterminate++
	}
	if u.Reflected {
		n.Reflections++
	}
	if u.Access != nil {
		n.AccessJoined++
	}
}

func (n *Totals) event(ev *Event) {
	switch ev.Event {
	case "request.intent":
		n.Bare++
	case "request.denied":
		n.Denials++
	case "secret.reflected":
		n.Reflections++
	}
}

// A Filter says what of a report to keep. A zero field keeps everything.
type Filter struct {
	Session    string // an id, or what others call the session
	Role       string
	Credential string
	Lease      string
	Since      time.Time
}

// apply drops what f does not keep. Of findings those stay that are about what is kept, or about no
// session.
func (f Filter) apply(r *Report) {
	if f == (Filter{}) {
		return
	}
	kept := map[string]bool{}
	issuances := map[string]bool{}
	r.Sessions = slices.DeleteFunc(r.Sessions, func(s *Session) bool {
		if !f.keepsSession(s) {
			return true
		}
		for _, iss := range s.Issuances {
			if f.keepsIssuance(iss) {
				issuances[iss.ID], kept[s.ID] = true, true
			}
		}
		kept[s.ID] = kept[s.ID] || !f.narrows()
		f.narrow(s)
		return len(s.Issuances) == 0 && (f.narrows() || len(s.Calls)+len(s.Events) == 0)
	})
	r.Findings = slices.DeleteFunc(r.Findings, func(x Finding) bool {
		switch {
		case !f.Since.IsZero() && !x.Time.IsZero() && x.Time.Before(f.Since):
			return true
		case x.Session != "" && !kept[x.Session] && x.Session != f.Session && x.Session != givenID(f.Session):
			return true
		case f.narrows() && x.Issuance == "" && (x.Code == CallNotInVault || x.Code == CallMismatch):
			return true
		}
		return x.Issuance != "" && !issuances[x.Issuance] && x.Code != UseWithoutIssuance
	})
}

// narrows reports whether f is about single issuances.
func (f Filter) narrows() bool { return f.Credential != "" || f.Lease != "" }

func (f Filter) keepsSession(s *Session) bool {
	return (f.Session == "" || f.Session == s.ID || f.Session == givenID(s.ID)) && (f.Role == "" || f.Role == s.Role)
}

func (f Filter) keepsIssuance(iss *Issuance) bool {
	return (f.Credential == "" || f.Credential == iss.Credential) && (f.Lease == "" || f.Lease == iss.Source.LeaseID)
}

// narrow drops what f does not keep of a session.
func (f Filter) narrow(s *Session) {
	ids := map[string]bool{}
	s.Issuances = slices.DeleteFunc(s.Issuances, func(iss *Issuance) bool {
		if !f.keepsIssuance(iss) {
			return true
		}
		iss.Uses = slices.DeleteFunc(iss.Uses, func(u *Use) bool { return u.Time.Before(f.Since) })
		ids[iss.Source.RequestID], ids[iss.Source.CorrelationID] = true, true
		return iss.IssuedAt.Before(f.Since) && len(iss.Uses) == 0 && (iss.RevokedAt.IsZero() || iss.RevokedAt.Before(f.Since)) && iss.End != endOutstanding
	})
	delete(ids, "")
	s.Calls = slices.DeleteFunc(s.Calls, func(c *Call) bool {
		return c.Time.Before(f.Since) || f.narrows() && !ids[c.RequestID] && !ids[c.CorrelationID]
	})
	s.Events = slices.DeleteFunc(s.Events, func(e *Event) bool { return e.Time.Before(f.Since) || f.narrows() })
}
