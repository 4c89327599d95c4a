package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/policy"
)

// draft returns what a record of event says that all records of the use say. The reason of the policy
// comes before that of a limit, as it was found first.
func (ex *exchange) draft(event audit.Event) audit.Record {
	rec := ex.rec
	rec.Event = event
	if over := ex.over.Load(); over != nil && rec.WouldDeny == "" {
		rec.WouldDeny = over.code
	}
	return rec
}

// recordIntent writes what is about to be sent into the trail (I7). Without that, nothing is sent.
func (ex *exchange) recordIntent() *refusal {
	rec := ex.draft(audit.RequestIntent)
	rec.PathHMAC = ex.s.pathHMAC(ex.target)
	if ex.iss != nil {
		rec.NotAfter = ex.iss.ExpiresAt
	}
	record := func() error {
		ref, err := ex.s.cfg.Trail.Append(rec)
		if err == nil {
			ex.intent = ref
		}
		return err
	}
	var err error
	if ex.iss == nil {
		err = record()
	} else {
		err = ex.iss.RecordUse(record)
	}
	switch {
	case err == nil:
	case errors.Is(err, credential.ErrClosed), errors.Is(err, credential.ErrExpired), errors.Is(err, audit.ErrLate): // a moment ago
		return ex.credentialRefusal(err)
	default:
		ex.s.cfg.Log.Error().Err(err).Msg("audit trail cannot be written; requests are refused")
		return auditUnavailable(ex.rec.Route)
	}
	ex.pass.reach(passRecorded)
	return nil
}

func auditUnavailable(route string) *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, reason: "audit_unavailable", route: route, retryAfter: time.Second,
		detail: "nothing is sent that cannot be recorded; an operator has to look at the audit sink",
	}
}

// pathHMAC stands for the request target in the trail: equal targets have equal ones, and what
// the target was cannot be read from it.
func (s *Server) pathHMAC(t policy.Target) string {
	mac := s.pathMACs.Get().(hash.Hash)
	defer s.pathMACs.Put(mac)
	mac.Reset()
	io.WriteString(mac, t.RequestURI())
	var sum [sha256.Size]byte
	return hex.EncodeToString(mac.Sum(sum[:0])[:16])
}

// record is the part of refuse that the trail gets.
func (ex *exchange) record(f *refusal) audit.Ref {
	ref := ex.intent
	if ex.intent.Seq != 0 {
		ex.recordOutcome(f.status, f.reason)
	} else {
		rec := ex.draft(audit.RequestDenied)
		rec.Reason, rec.Status = f.reason, f.status
		rec.Issuance, rec.RequestID, rec.PathSent = "", "", "" // of what was not sent
		var err error
		if ref, err = ex.s.cfg.Trail.Append(rec); err != nil {
			ex.s.cfg.Log.Error().Err(err).Str("reason", f.reason).Msg("a refusal could not be recorded")
		}
	}
	return ref
}

// recordOutcome closes the intent. It comes after the bytes have gone, so nothing is left to wait for:
// it is written with the next intent at the latest, and that request is refused if the trail is broken.
func (ex *exchange) recordOutcome(status int, errorCode string) {
	rec := ex.draft(audit.RequestOutcome)
	rec.Intent, rec.Status, rec.Error = ex.intent.Seq, status, errorCode
	rec.BytesIn, rec.BytesOut, rec.Attempts = ex.body.count(), ex.sent, int(ex.attempts.Load())
	rec.DurationMS = float64(time.Since(ex.started).Microseconds()) / 1000
	if ex.answered {
		rec.Attempts = max(rec.Attempts, 1)
	}
	ex.intent = audit.Ref{}
	if err := ex.s.cfg.Trail.Post(rec); err != nil {
		ex.s.cfg.Log.Error().Err(err).Msg("an outcome could not be recorded")
	}
}
