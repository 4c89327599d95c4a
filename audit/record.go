package audit

import (
	"errors"
	"fmt"
	"time"
)

// An Event says what a [Record] is about. Only the constants below may be appended.
type Event string

// The events of a trail. A request that goes to an upstream leaves a [RequestIntent] before its
// first byte is sent and a [RequestOutcome] when its answer has ended; one that does not leaves a
// [RequestDenied]. A connection that never came to a request leaves a [ConnectionRefused].
//
// A [VaultCalled] stands for each call to Vault that Vault may have seen, whatever came of it, so that
// a call which Vault has on record and no trail has was made by somebody else.
//
// A [SegmentSigned] is appended by the [Log] itself; see [Config.SegmentBytes].
//
// A [SessionVerified] is appended by [Log.SetAttribution] only. A [SessionEnded] is written when the
// session's credentials are given up, and again by a process that went on after that, as its last
// record: between the two nothing is issued or carries a credential.
const (
	SessionStarted     Event = "session.started"
	SessionVerified    Event = "session.verified"
	SessionEnded       Event = "session.ended"
	CredentialIssued   Event = "credential.issued"
	CredentialReissued Event = "credential.reissued"
	CredentialRevoked  Event = "credential.revoked"
	RequestIntent      Event = "request.intent"
	RequestOutcome     Event = "request.outcome"
	RequestDenied      Event = "request.denied"
	ConnectionRefused  Event = "connection.refused"
	PolicyLoaded       Event = "policy.loaded"
	PolicyRefused      Event = "policy.refused"
	SecretReflected    Event = "secret.reflected"
	KillEngaged        Event = "kill.engaged"
	KillReleased       Event = "kill.released"
	VaultCalled        Event = "vault.called"
	SegmentSigned      Event = "segment.signed"
)

func (e Event) known() bool {
	switch e {
	case SessionStarted, SessionVerified, SessionEnded, CredentialIssued, CredentialReissued, CredentialRevoked,
		RequestIntent, RequestOutcome, RequestDenied, ConnectionRefused,
		PolicyLoaded, PolicyRefused, SecretReflected, KillEngaged, KillReleased, VaultCalled, SegmentSigned:
		return true
	}
	return false
}

// A Record is one thing that happened. Event is required; a zero field is left out of the line.
//
// Of a list at most 256 entries are recorded; the last one of a longer list says how many follow.
// Any string may come from the agent: [Log.Append] cuts each to 1 KiB, writes a byte that is not
// UTF-8 as %XX, and escapes whatever is not printable ASCII. A recorded string that is longer
// than 1 KiB was cut and ends in "[+N bytes]", N being the bytes left out.
type Record struct {
	Event Event `json:"event,omitempty"`

	// Conn is the proxy's own random id of the agent's connection.
	Conn string `json:"conn,omitempty"`

	// Entrance is how the request came: "http", "connect-h1" or "connect-h2".
	Entrance string `json:"entrance,omitempty"`

	Method string `json:"method,omitempty"`
	Scheme string `json:"scheme,omitempty"`

	// Host is a canonical DNS name or an IP address without brackets, or what the agent sent
	// where that could not be parsed.
	Host string `json:"host,omitempty"`
	Port uint16 `json:"port,omitempty"`

	// Path is the template of the route that matched or, on a denial, the path that the agent
	// sent. It never holds a query.
	Path string `json:"path,omitempty"`

	// PathHMAC is a keyed hash over the request target as the agent sent it. It tells apart
	// targets that Path shows alike.
	PathHMAC string `json:"path_hmac,omitempty"`

	// PathSent is the path that was sent, where the route says `log: path`. It never holds a query.
	PathSent string `json:"path_sent,omitempty"`

	// RequestID is the X-Request-Id that the upstream was sent, where the route says `correlate: true`.
	RequestID string `json:"request_id,omitempty"`

	// Route and Credential are names in the policy.
	Route      string `json:"route,omitempty"`
	Credential string `json:"credential,omitempty"`

	// Issuance is the UUID of the issuance that this record is about or that the request carries.
	// [CredentialIssued] requires it, together with ExpiresAt.
	Issuance string `json:"issuance,omitempty"`

	// Reason is a code of a closed set; on a denial, policy's reason.
	Reason string `json:"reason,omitempty"`

	// WouldDeny is the reason for which the request would have been denied if the policy were
	// not in report mode.
	WouldDeny string `json:"would_deny,omitempty"`

	// Intent is the sequence number of the [RequestIntent] that a [RequestOutcome] belongs to,
	// and required there.
	Intent uint64 `json:"intent,omitempty"`

	// Status is the upstream's HTTP status, or the one of the refusal.
	Status int `json:"status,omitempty"`

	// BytesIn and BytesOut count body bytes from and to the agent.
	BytesIn  int64 `json:"bytes_in,omitempty"`
	BytesOut int64 `json:"bytes_out,omitempty"`

	// DurationMS is in milliseconds. It must be finite.
	DurationMS float64 `json:"duration_ms,omitempty"`

	// Attempts counts how often the request was sent upstream.
	Attempts int `json:"attempts,omitempty"`

	// Error is a code of a closed set, never the text of a Go error.
	Error string `json:"error,omitempty"`

	// Protocol is what was spoken with the upstream: "h1" or "h2".
	Protocol string `json:"protocol,omitempty"`

	// Source says where the value of an issuance can be found in its source's own records.
	Source *Source `json:"source,omitempty"`

	// Fingerprint is a keyed hash of an issuance's value.
	Fingerprint string `json:"fingerprint,omitempty"`

	// IssuedAt and ExpiresAt are the times of an issuance; a zero time is left out.
	IssuedAt  time.Time `json:"issued_at,omitzero"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`

	// NotAfter is the time from which on the record must not be written any more, because what it
	// says would not be true: Append's error is then [ErrLate]. It is not recorded. Zero means none.
	NotAfter time.Time `json:"-"`

	// By is who used the admin socket ("uid 1000, pid 77"), on [KillEngaged], [KillReleased] and
	// [SessionEnded], or the file that engages the kill switch.
	By string `json:"by,omitempty"`

	// Unrevoked are what could not be revoked at the end, on [SessionEnded]: the lease's id where
	// there is one, else the issuance's. It is valid until it expires.
	Unrevoked []string `json:"unrevoked,omitempty"`

	// Detail is for people. Nothing should depend on its form.
	Detail string `json:"detail,omitempty"`

	// Version is Sidekey's version, on [SessionStarted].
	Version string `json:"version,omitempty"`

	// CA is the fingerprint of the session's CA certificate, on [SessionStarted].
	CA string `json:"ca,omitempty"`

	// SigningKey is the Ed25519 public key in hex that signs the session's segments, on
	// [SessionStarted]. The Log sets it.
	SigningKey string `json:"signing_key,omitempty"`

	// Signature is the Ed25519 signature in hex over the record before, on [SegmentSigned]. The Log
	// sets it.
	Signature string `json:"signature,omitempty"`

	// PromptSHA256 is that of the role's prompt file, on [SessionStarted] and [PolicyLoaded].
	PromptSHA256 string `json:"prompt_sha256,omitempty"`

	// Generation is that of the policy which decided, if it may not be the one in force any more:
	// one that [Log.SetPolicy] has named. The record names it as its policy. 0 is the one in force.
	Generation uint64 `json:"-"`
}

// A Source joins an issuance to the records of the system that it came from.
type Source struct {
	// Kind is "vault", "file", "exec" or "env".
	Kind string `json:"kind,omitempty"`

	// Path is the Vault path, the file, or the command's name.
	Path string `json:"path,omitempty"`

	// RequestID is Vault's request_id, equal to request.id in Vault's audit log.
	RequestID string `json:"request_id,omitempty"`

	// CorrelationID is the X-Correlation-Id that the call carried.
	CorrelationID string `json:"correlation_id,omitempty"`

	// LeaseID is Vault's lease id.
	LeaseID string `json:"lease_id,omitempty"`

	// Version is the version of a Vault KV v2 secret.
	Version int `json:"version,omitempty"`
}

// check refuses what [Verify] would find broken in r alone, whatever stands around it.
func (r *Record) check() error {
	switch {
	case !r.Event.known():
		return fmt.Errorf("unknown event %.40q", string(r.Event))
	case r.Event == RequestOutcome && r.Intent == 0:
		return errors.New("an outcome must name its intent")
	case r.Event == CredentialIssued && (r.Issuance == "" || r.ExpiresAt.IsZero()):
		return errors.New("an issuance must have an id and an expiry")
	}
	return nil
}
