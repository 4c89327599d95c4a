package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
)

const (
	// sinkPatience is for how long the sink may take nothing until what needs a record is refused at
	// once. What waited for it by then goes on waiting: its record may be half written.
	sinkPatience = 5 * time.Second

	// notePatience is for how long a record is waited for that nothing depends on.
	notePatience = 500 * time.Millisecond

	// maxNotes bounds the records that are on their way to a sink that stands still, and that nobody
	// waits for.
	maxNotes = 1024
)

// errStandsStill is what comes of a record while the sink stands still.
var errStandsStill = fmt.Errorf("append to the audit trail: %w: it has taken nothing for %v", audit.ErrSink, sinkPatience)

// A trail is the audit trail of a session. Everything that happens passes through it, so it is
// also where things are counted.
type trail struct {
	*audit.Log
	metrics *metrics
	key     [32]byte // of the fingerprints; known to nobody after the process
	log     zerolog.Logger
	level   atomic.Pointer[string] // the session's attribution

	began   time.Time
	waiting atomic.Int64  // records on their way
	moved   atomic.Int64  // when the sink last moved, or had nothing to do; nanoseconds since began
	notes   chan struct{} // a token for each note on its way
}

// newTrail returns a trail whose Log must be set before it is used; its posted is what that tells.
func newTrail(attribution string, m *metrics, log zerolog.Logger) *trail {
	t := &trail{metrics: m, log: log, began: time.Now(), notes: make(chan struct{}, maxNotes)}
	rand.Read(t.key[:])
	t.level.Store(&attribution)
	return t
}

// attribution is what records carry now.
func (t *trail) attribution() string { return *t.level.Load() }

// raise raises the session's attribution in the records from now on.
func (t *trail) raise(level string, r audit.Record) {
	r.Event = audit.SessionVerified
	_, err := t.SetAttribution(level, r)
	t.metrics.observe(r, err)
	if err != nil {
		t.log.Error().Err(err).Msg("the session was verified, and that could not be recorded")
		return
	}
	t.level.Store(&level)
}

// Append implements proxy.Trail. While the sink stands still it fails, and does not wait for it.
func (t *trail) Append(r audit.Record) (audit.Ref, error) {
	if t.standsStill() {
		t.metrics.observe(r, errStandsStill)
		return audit.Ref{}, errStandsStill
	}
	return t.append(r)
}

// Post implements proxy.Trail. What becomes of a record that it takes is told to posted.
func (t *trail) Post(r audit.Record) error {
	t.enter()
	err := t.Log.Post(r)
	if err != nil {
		t.leave()
		t.metrics.recorded(r.Event, err)
		return err
	}
	t.metrics.happened(&r)
	return nil
}

// enter and leave go around a record on its way.
func (t *trail) enter() {
	if t.waiting.Load() == 0 {
		t.moved.Store(int64(time.Since(t.began))) // before anybody can see that somebody waits
	}
	t.waiting.Add(1)
}

func (t *trail) leave() {
	t.moved.Store(int64(time.Since(t.began)))
	t.waiting.Add(-1)
}

// posted is told what became of the records that were given to Post.
func (t *trail) posted(event audit.Event, err error) {
	t.leave()
	t.metrics.recorded(event, err)
	if err != nil {
		t.log.Error().Err(err).Str("event", string(event)).Msg("a record could not be written")
	}
}

// append waits for the sink however long it takes.
func (t *trail) append(r audit.Record) (audit.Ref, error) {
	t.enter()
	ref, err := t.Log.Append(r)
	t.leave()
	t.metrics.observe(r, err)
	return ref, err
}

// standsStill reports whether records wait for the sink, and have for sinkPatience without any of
// them getting through.
func (t *trail) standsStill() bool {
	return t.waiting.Load() > 0 && time.Since(t.began)-time.Duration(t.moved.Load()) > sinkPatience
}

// Issued implements [credential.Recorder].
func (t *trail) Issued(iss *credential.Issuance) error {
	_, err := t.Append(audit.Record{
		Event: audit.CredentialIssued, Credential: iss.Credential, Issuance: iss.ID,
		IssuedAt: iss.IssuedAt, ExpiresAt: iss.ExpiresAt, Fingerprint: iss.Value.Fingerprint(t.key[:]),
		Source: &audit.Source{
			Kind: iss.Origin.Kind, Path: iss.Origin.Path, RequestID: iss.Origin.RequestID,
			CorrelationID: iss.Origin.CorrelationID, LeaseID: iss.Origin.LeaseID, Version: iss.Origin.Version,
		},
	})
	if err == nil && iss.Replaces != "" {
		_, err = t.Append(audit.Record{
			Event: audit.CredentialReissued, Credential: iss.Credential, Issuance: iss.ID, Reason: "upstream_401", Detail: iss.Replaces,
		})
	}
	t.log.Debug().Str("credential", iss.Credential).Str("issuance", iss.ID).Time("expires_at", iss.ExpiresAt).Msg("credential issued")
	return err
}

// Revoked implements [credential.Recorder].
func (t *trail) Revoked(iss *credential.Issuance, err error) {
	rec := audit.Record{Event: audit.CredentialRevoked, Credential: iss.Credential, Issuance: iss.ID, Reason: "revoked"}
	switch {
	case errors.Is(err, credential.ErrExpired):
		rec.Reason = "expired"
	case err == nil && iss.Origin.LeaseID == "":
		rec.Reason = "discarded" // its source keeps nothing that could be revoked
	case err != nil:
		rec.Reason, rec.Error = "given_up", "revocation_failed"
		t.log.Warn().Str("credential", iss.Credential).Str("issuance", iss.ID).Time("expires_at", iss.ExpiresAt).Err(err).
			Msg("a credential could not be revoked; it is valid until it expires")
	}
	if iss.Origin.LeaseID != "" {
		rec.Source = &audit.Source{Kind: iss.Origin.Kind, LeaseID: iss.Origin.LeaseID}
	}
	t.note(rec)
}

// called records a call to Vault.
func (t *trail) called(c vault.Call) {
	rec := audit.Record{
		Event: audit.VaultCalled, Method: c.Method, Status: c.Status, DurationMS: float64(c.Duration.Microseconds()) / 1000,
		Source: &audit.Source{Kind: kindVault, Path: c.Path, RequestID: c.RequestID, CorrelationID: c.CorrelationID, LeaseID: c.LeaseID},
	}
	if c.Status == 0 {
		rec.Error = "no_answer"
	}
	t.note(rec)
}

// note appends a record that nothing depends on. It waits for it, so that records stand in the order
// in which things happened, but not for long: at the end of a session a sink that stands still must not
// keep what is next, which may revoke something, from being done. The record is written when the sink
// moves again.
func (t *trail) note(r audit.Record) {
	select {
	case t.notes <- struct{}{}:
	default:
		t.metrics.observe(r, errStandsStill)
		t.log.Error().Err(errStandsStill).Str("event", string(r.Event)).Msg("a record could not be written")
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { <-t.notes }()
		if _, err := t.append(r); err != nil {
			t.log.Error().Err(err).Str("event", string(r.Event)).Msg("a record could not be written")
		}
	}()
	patience := notePatience
	if t.standsStill() {
		patience = 0
	}
	within(patience, done)
}

// within waits for done, for at most d, and reports whether it came.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
