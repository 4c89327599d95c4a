// Package custody joins a session's audit trail with the audit log of the Vault that its credentials
// came from, and with the access logs of where they were used: who used what, when, and who gave it
// to them. What does not fit, in either direction, is a [Finding].
//
// Nothing in a report is secret: it holds what the logs hold.
package custody

import (
	"time"

	"github.com/sidekey/sidekey/audit"
)

// A Report is what [Trace] found. Every time is UTC. It is not safe for concurrent change.
type Report struct {
	// Generated is when, by the clock of who asked. What "not expired" means depends on it.
	Generated time.Time `json:"generated"`

	Trails     []Input `json:"trails"`
	VaultLogs  []Input `json:"vault_logs,omitempty"`
	AccessLogs []Input `json:"access_logs,omitempty"`

	// Sessions are in the order in which they began.
	Sessions []*Session `json:"sessions"`

	// Findings are what does not fit, the gravest first. A report without any is intact.
	Findings []Finding `json:"findings"`

	// Notes are what could not be checked, and what would make it possible.
	Notes []Note `json:"notes,omitempty"`

	Totals Totals `json:"totals"`
}

// An Input is a file that was read.
type Input struct {
	Name    string    `json:"name"`
	Records int       `json:"records"` // or entries, or lines
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// Totals counts what the report holds after filters.
type Totals struct {
	Sessions      int `json:"sessions"`
	Issuances     int `json:"issuances"`
	Uses          int `json:"uses"`          // intents with an issuance
	Indeterminate int `json:"indeterminate"` // uses without an outcome
	Bare          int `json:"bare"`          // requests that carried no credential
	Denials       int `json:"denials"`
	Reflections   int `json:"reflections"`
	VaultCalls    int `json:"vault_calls"`
	JoinedByID    int `json:"joined_by_request_id"`
	JoinedByCorr  int `json:"joined_by_correlation_id"`
	JoinedByPlace int `json:"joined_by_path_and_time"` // the weakest: no id stands in Vault's log
	AccessJoined  int `json:"access_joined"`
}

// A Session is one chain of the trail.
type Session struct {
	ID          string    `json:"id"`
	Role        string    `json:"role"`
	RequestedBy string    `json:"requested_by,omitempty"`
	Attribution string    `json:"attribution,omitempty"` // the highest that it reached
	Pod         audit.Pod `json:"pod"`
	Version     string    `json:"version,omitempty"`

	Began     time.Time `json:"began"`
	Last      time.Time `json:"last"`           // of its last record
	Ended     time.Time `json:"ended,omitzero"` // zero: no session.ended stands in the trail
	EndReason string    `json:"end_reason,omitempty"`
	Records   int       `json:"records"`

	// Calls are those to Vault, in the order of the trail.
	Calls []*Call `json:"calls,omitempty"`

	// Issuances are in the order of the trail.
	Issuances []*Issuance `json:"issuances,omitempty"`

	// Events are the records that belong to no issuance: requests that carried no credential,
	// denials, refused connections, policies, the kill switch, the session's beginning and end.
	Events []*Event `json:"events,omitempty"`
}

// A Call is one call to Vault, as the trail has it, and what Vault has of it.
type Call struct {
	Seq           uint64      `json:"seq"`
	Time          time.Time   `json:"time"` // when its answer had come
	Method        string      `json:"method"`
	Path          string      `json:"path"`
	Status        int         `json:"status,omitempty"` // 0: no answer
	Error         string      `json:"error,omitempty"`
	RequestID     string      `json:"request_id,omitempty"`
	CorrelationID string      `json:"correlation_id,omitempty"`
	LeaseID       string      `json:"lease_id,omitempty"`
	DurationMS    float64     `json:"duration_ms,omitempty"`
	Joined        Join        `json:"joined,omitempty"`
	Vault         *VaultEntry `json:"vault,omitempty"` // nil: not joined
}

// A Join says by what a call was found in Vault's log; "" if it was not.
type Join string

// The ways to join, the strongest first.
const (
	ByRequestID     Join = "request_id"
	ByCorrelationID Join = "correlation_id"
	ByPathAndTime   Join = "path_and_time"
)

// A VaultEntry is what Vault's log has of one call: its request and its response entry together.
type VaultEntry struct {
	Time          time.Time         `json:"time"` // of the response, else of the request
	RequestID     string            `json:"request_id"`
	Operation     string            `json:"operation"`
	Path          string            `json:"path"`
	Namespace     string            `json:"namespace,omitempty"`
	DisplayName   string            `json:"display_name,omitempty"`
	EntityID      string            `json:"entity_id,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"` // of the token that called
	RemoteAddress string            `json:"remote_address,omitempty"`
	CorrelationID string            `json:"correlation_id,omitempty"`
	LeaseID       string            `json:"lease_id,omitempty"`
	Error         string            `json:"error,omitempty"`
	Where         string            `json:"where"` // "vault-audit.log:12"
}

// An Issuance is one value of a credential, from where it came to its end.
type Issuance struct {
	ID          string       `json:"id"`
	Credential  string       `json:"credential"`
	Seq         uint64       `json:"seq"`
	Source      audit.Source `json:"source"`
	Fingerprint string       `json:"fingerprint,omitempty"`
	Replaces    string       `json:"replaces,omitempty"` // the issuance that an upstream had refused
	IssuedAt    time.Time    `json:"issued_at"`
	ExpiresAt   time.Time    `json:"expires_at"`
	RevokedAt   time.Time    `json:"revoked_at,omitzero"` // zero: the trail has no revocation
	End         string       `json:"end"`                 // revoked, expired, discarded, given_up, session_ended, outstanding

	Joined Join        `json:"joined,omitempty"`
	Vault  *VaultEntry `json:"vault,omitempty"` // nil: not joined, or not from Vault

	Uses []*Use `json:"uses,omitempty"`
}

// A Use is a request that carried an issuance, with its outcome.
type Use struct {
	Event

	// Outcome is its sequence number; 0 means that none was recorded, so whether the request reached
	// the upstream is not known.
	Outcome    uint64  `json:"outcome,omitempty"`
	Attempts   int     `json:"attempts,omitempty"`
	BytesIn    int64   `json:"bytes_in,omitempty"`
	BytesOut   int64   `json:"bytes_out,omitempty"`
	DurationMS float64 `json:"duration_ms,omitempty"`
	Reflected  bool    `json:"reflected,omitempty"` // the answer held the credential, which was masked
	Access     *Access `json:"access,omitempty"`    // nil: no access log names it
}

// An Event is one record, or an intent and its outcome.
type Event struct {
	Seq       uint64      `json:"seq"`
	Time      time.Time   `json:"time"`
	Event     audit.Event `json:"event"`
	Method    string      `json:"method,omitempty"`
	Host      string      `json:"host,omitempty"`
	Path      string      `json:"path,omitempty"`      // the route's template; on a denial what was asked
	PathSent  string      `json:"path_sent,omitempty"` // where the route says `log: path`
	PathHMAC  string      `json:"path_hmac,omitempty"`
	Route     string      `json:"route,omitempty"`
	RequestID string      `json:"request_id,omitempty"` // that the upstream was sent
	Status    int         `json:"status,omitempty"`
	Reason    string      `json:"reason,omitempty"`
	WouldDeny string      `json:"would_deny,omitempty"`
	Error     string      `json:"error,omitempty"`
	Detail    string      `json:"detail,omitempty"`
	By        string      `json:"by,omitempty"`
}

// An Access is what an upstream's access log has of a use.
type Access struct {
	Time   time.Time `json:"time"`
	Method string    `json:"method,omitempty"`
	Path   string    `json:"path,omitempty"` // without the query
	Status int       `json:"status,omitempty"`
	Remote string    `json:"remote,omitempty"`
	Where  string    `json:"where"` // "access.log:12"
}

// A Finding is something that does not fit.
type Finding struct {
	Code     Code      `json:"code"`
	Session  string    `json:"session,omitempty"`
	Issuance string    `json:"issuance,omitempty"`
	Seq      uint64    `json:"seq,omitempty"` // of the trail's record
	Time     time.Time `json:"time,omitzero"`
	Where    string    `json:"where,omitempty"` // the place in a log, "vault-audit.log:12"
	What     string    `json:"what"`            // one sentence for people
	Hint     string    `json:"hint,omitempty"`  // what to do
}

// A Code is what kind of a [Finding] it is.
type Code string

// The codes, the gravest first.
const (
	VaultUnrecorded     Code = "vault_unrecorded"      // Vault did something for a session's token that no trail has: the token is used elsewhere
	UseWithoutIssuance  Code = "use_without_issuance"  // a use names an issuance that the trail does not have
	IssuanceNotInVault  Code = "issuance_not_in_vault" // the trail has an issuance that Vault's log does not have
	CallNotInVault      Code = "call_not_in_vault"     // the same of another call
	IssuanceMismatch    Code = "issuance_mismatch"     // the two say different things of one issuance
	CallMismatch        Code = "call_mismatch"         // the same of another call
	TrailBroken         Code = "trail_broken"          // see audit.BrokenError
	TrailTruncated      Code = "trail_truncated"       // Vault's log names a record of the trail that it does not have, or has otherwise
	VaultLogBroken      Code = "vault_log_broken"      // an entry is malformed, twice there, out of order, or lacks its other half
	AccessUnrecorded    Code = "access_unrecorded"     // an upstream saw a request id of a session that no trail has
	AccessMissing       Code = "access_missing"        // an upstream answered a use, and its log does not have it
	AccessMismatch      Code = "access_mismatch"       // the two say different things of one use
	IssuanceOutstanding Code = "issuance_outstanding"  // neither revoked nor expired
	CallUnanswered      Code = "call_unanswered"       // Vault did what a sidecar asked, which died or was cut off before it could record that
)

// A Note is something that could not be checked.
type Note struct {
	What  string `json:"what"`
	Count int    `json:"count,omitempty"`
	Mend  string `json:"mend,omitempty"` // the setting that would make it possible
}
