package custody

import (
	"fmt"
	"time"
)

// end says how each issuance ended, and reports what has not and what was used without having been
// issued.
func (t *tracer) end() {
	for _, s := range t.trails.sessions {
		for _, iss := range s.Issuances {
			t.endOf(s, iss)
		}
		for _, u := range s.orphans {
			t.find(Finding{
				Code: UseWithoutIssuance, Session: s.ID, Issuance: u.issuance, Seq: u.Seq, Time: u.Time,
				What: fmt.Sprintf("Record %d uses an issuance that the trail does not have: %s %s with %s.", u.Seq, u.Method, u.Host, quoted(u.issuance)),
				Hint: "the record of the issuance was removed or edited, or a segment of the trail was not given",
			})
		}
	}
	if t.trails.torn {
		t.note(1, "a trail ends in a part of a line: its process died while it wrote, and nobody was told that this record was written", "")
	}
}

// The ends of an issuance, beside the reasons of its revocation.
const (
	endExpired     = "expired"
	endSession     = "session_ended"
	endOutstanding = "outstanding"
	endGivenUp     = "given_up"
)

func (t *tracer) endOf(s *session, iss *Issuance) {
	over := !iss.ExpiresAt.After(t.report.Generated)
	left := s.unrevoked[iss.ID] || s.unrevoked[iss.Source.LeaseID]
	switch {
	case iss.End != "" && iss.End != endGivenUp:
		return
	case iss.End == endGivenUp && (over || !s.Ended.IsZero() && !s.tokenLeft && !left):
		return // its lease ended with the token
	case !s.Ended.IsZero() && !s.tokenLeft && !left:
		iss.End = endSession
		return
	case over:
		iss.End = endExpired
		return
	case iss.End == "":
		iss.End = endOutstanding
	}
	f := Finding{
		Code: IssuanceOutstanding, Session: s.ID, Issuance: iss.ID, Seq: iss.Seq, Time: iss.IssuedAt,
		What: fmt.Sprintf("Issuance %s of %s is valid until %s: the trail does not have its revocation.", iss.ID, iss.Credential, iss.ExpiresAt.Format(time.RFC3339)),
		Hint: "if the session is over, have its source end it",
	}
	if lease := iss.Source.LeaseID; lease != "" {
		f.What = fmt.Sprintf("Issuance %s of %s (lease %s) is valid until %s: the trail does not have its revocation.", iss.ID, iss.Credential, lease, iss.ExpiresAt.Format(time.RFC3339))
		f.Hint = "unless the session goes on: vault lease revoke " + lease
	}
	t.find(f)
}
