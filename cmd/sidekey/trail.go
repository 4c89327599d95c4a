package main

import (
	"crypto/rand"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
)

// callPatience is for how long a call to Vault waits for its record.
const callPatience = 500 * time.Millisecond

// A trail is the audit trail of a session. Everything that happens passes through it, so it is
// also where things are counted.
type trail struct {
	*audit.Log
	metrics *metrics
	key     [32]byte // of the fingerprints; known to nobody after the process
	log     zerolog.Logger
	level   atomic.Pointer[string] // the session's attribution
}

func newTrail(l *audit.Log, attribution string, m *metrics, log zerolog.Logger) *trail {
	t := &trail{Log: l, metrics: m, log: log}
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

// Append implements proxy.Trail.
func (t *trail) Append(r audit.Record) (audit.Ref, error) {
	ref, err := t.Log.Append(r)
	t.metrics.observe(r, err)
	return ref, err
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

// called records a call to Vault. At the end of a session a sink that stands still must not keep the
// next call, which may revoke something, from being made.
func (t *trail) called(c vault.Call) {
	rec := audit.Record{
		Event: audit.VaultCalled, Method: c.Method, Status: c.Status, DurationMS: float64(c.Duration.Microseconds()) / 1000,
		Source: &audit.Source{Kind: kindVault, Path: c.Path, RequestID: c.RequestID, CorrelationID: c.CorrelationID, LeaseID: c.LeaseID},
	}
	if c.Status == 0 {
		rec.Error = "no_answer"
	}
	done := make(chan struct{})
	go func() { defer close(done); t.note(rec) }()
	select {
	case <-done:
	case <-time.After(callPatience):
	}
}

// note appends a record that nothing waits for.
func (t *trail) note(r audit.Record) {
	if _, err := t.Append(r); err != nil {
		t.log.Error().Err(err).Str("event", string(r.Event)).Msg("a record could not be written")
	}
}
