package custody

import (
	"time"

	"github.com/sidekey/sidekey/audit"
)

// record adds what one record says.
func (s *session) record(e *audit.Entry) {
	switch e.Event {
	case audit.VaultCalled:
		s.called(e)
	case audit.CredentialIssued:
		s.issued(e)
	case audit.CredentialReissued:
		if iss := s.issuances[e.Issuance]; iss != nil {
			iss.Replaces = e.Detail
		}
	case audit.CredentialRevoked:
		s.revoked(e)
	case audit.RequestIntent:
		s.intent(e)
	case audit.RequestOutcome:
		s.outcome(e)
	case audit.SecretReflected:
		s.reflected(e)
	case audit.SegmentSigned: // says something of the trail, nothing of the session
	case audit.SessionStarted:
		s.Version = e.Version
		s.event(e)
	case audit.SessionEnded:
		s.over(e)
		s.event(e)
	default:
		s.event(e)
	}
}

func (s *session) event(e *audit.Entry) *Event {
	ev := eventOf(e)
	s.Events = append(s.Events, &ev)
	return &ev
}

func eventOf(e *audit.Entry) Event {
	return Event{
		Seq: e.Seq, Time: e.Time.UTC(), Event: e.Event, Method: e.Method, Host: e.Host, Path: e.Path, PathSent: e.PathSent,
		PathHMAC: e.PathHMAC, Route: e.Route, RequestID: e.RequestID, Status: e.Status, Reason: e.Reason,
		WouldDeny: e.WouldDeny, Error: e.Error, Detail: e.Detail, By: e.By,
	}
}

func (s *session) called(e *audit.Entry) {
	c := &Call{Seq: e.Seq, Time: e.Time.UTC(), Method: e.Method, Status: e.Status, Error: e.Error, DurationMS: e.DurationMS}
	if src := e.Source; src != nil {
		c.Path, c.RequestID, c.CorrelationID, c.LeaseID = src.Path, src.RequestID, src.CorrelationID, src.LeaseID
	}
	s.Calls = append(s.Calls, c)
	if c.RequestID != "" {
		s.calls[c.RequestID] = c
	}
	if c.CorrelationID != "" {
		s.calls[c.CorrelationID+" "+c.Path] = c // the last attempt is the one that may have issued
	}
}

func (s *session) issued(e *audit.Entry) {
	iss := &Issuance{
		ID: e.Issuance, Credential: e.Credential, Seq: e.Seq, Fingerprint: e.Fingerprint,
		IssuedAt: e.IssuedAt.UTC(), ExpiresAt: e.ExpiresAt.UTC(),
	}
	if e.Source != nil {
		iss.Source = *e.Source
	}
	s.issuances[iss.ID] = iss
	s.Issuances = append(s.Issuances, iss)
	if iss.Source.Kind != kindVault {
		return
	}
	call := s.calls[iss.Source.RequestID]
	if call == nil || iss.Source.RequestID == "" {
		call = s.calls[iss.Source.CorrelationID+" "+iss.Source.Path]
	}
	if call == nil || s.links[call] != nil {
		s.loose = append(s.loose, &target{
			s: s, iss: iss, seq: e.Seq, at: e.Time.UTC(), took: -1, path: iss.Source.Path, status: 200,
			requestID: iss.Source.RequestID, corr: iss.Source.CorrelationID, lease: iss.Source.LeaseID,
		})
		return
	}
	s.links[call] = iss
}

func (s *session) revoked(e *audit.Entry) {
	iss := s.issuances[e.Issuance]
	if iss == nil {
		s.event(e)
		return
	}
	iss.RevokedAt, iss.End = e.Time.UTC(), e.Reason
}

func (s *session) intent(e *audit.Entry) {
	if e.Issuance == "" {
		s.bare[e.Seq] = s.event(e)
		return
	}
	u := &Use{Event: eventOf(e)}
	s.intents[e.Seq] = u
	s.latest[reflecting{e.Conn, e.Route, e.Issuance}] = u
	if iss := s.issuances[e.Issuance]; iss != nil {
		iss.Uses = append(iss.Uses, u)
		return
	}
	s.Events = append(s.Events, &u.Event)
	s.orphans = append(s.orphans, orphan{u, e.Issuance})
}

func (s *session) outcome(e *audit.Entry) {
	if ev := s.bare[e.Intent]; ev != nil {
		ev.take(e)
		delete(s.bare, e.Intent)
		return
	}
	u := s.intents[e.Intent]
	if u == nil {
		s.event(e)
		return
	}
	delete(s.intents, e.Intent)
	u.take(e)
	u.Outcome, u.Attempts, u.BytesIn, u.BytesOut, u.DurationMS = e.Seq, e.Attempts, e.BytesIn, e.BytesOut, e.DurationMS
}

// take adds what an outcome says to its intent.
func (ev *Event) take(e *audit.Entry) {
	ev.Status, ev.Error = e.Status, e.Error
	for _, p := range [...][2]*string{{&ev.Reason, &e.Reason}, {&ev.WouldDeny, &e.WouldDeny}, {&ev.RequestID, &e.RequestID}, {&ev.PathSent, &e.PathSent}, {&ev.Detail, &e.Detail}} {
		if *p[1] != "" {
			*p[0] = *p[1]
		}
	}
}

// reflected marks the use whose answer held the credential: the latest of its connection and route.
func (s *session) reflected(e *audit.Entry) {
	if u := s.latest[reflecting{e.Conn, e.Route, e.Issuance}]; u != nil && e.Issuance != "" {
		u.Reflected = true
		return
	}
	s.event(e)
}

// over takes the first session.ended: a process that goes on after that writes one more.
func (s *session) over(e *audit.Entry) {
	if !s.Ended.IsZero() {
		return
	}
	s.Ended, s.EndReason = e.Time.UTC(), e.Reason
	s.tokenLeft = e.Error != ""
	for _, id := range e.Unrevoked {
		s.unrevoked[id] = true
	}
}

// An orphan is a use of an issuance that the trail does not have.
type orphan struct {
	*Use
	issuance string
}

// A target is a call that is looked for in Vault's log, or an issuance that no recorded call led to.
type target struct {
	s    *session
	call *Call     // nil if there is none
	iss  *Issuance // nil if it issued nothing

	seq       uint64
	at        time.Time     // when the answer had come
	took      time.Duration // negative if it is not known
	method    string
	path      string
	status    int
	requestID string
	corr      string
	lease     string

	pair *pair
	how  Join
}

func (s *session) targets() []*target {
	var all []*target
	for _, c := range s.Calls {
		all = append(all, &target{
			s: s, call: c, iss: s.links[c], seq: c.Seq, at: c.Time, took: time.Duration(c.DurationMS * float64(time.Millisecond)),
			method: c.Method, path: c.Path, status: c.Status, requestID: c.RequestID, corr: c.CorrelationID, lease: c.LeaseID,
		})
	}
	return append(all, s.loose...)
}
