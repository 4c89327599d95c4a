// Package policy decides whether an agent's request may leave the pod and which credential
// it leaves with.
//
// A [Policy] is made once, by [Parse] or [ParseFiles], and never changes; to reload, make another and swap
// it. Its methods do no I/O and are safe for concurrent use.
//
// # Targets
//
// Only a [Target] can be decided on, and only [ParseTarget] and [ParseURL] make one. Their
// grammar is narrower than RFC 3986: whatever two servers might read differently (dot
// segments, empty segments, needless or double encoding, path parameters, numeric hosts) is
// refused, not repaired, so the bytes that are matched can be the bytes that are sent.
//
// # Encoded
//
// Two encodings are needed by some upstreams and misread by others: a slash inside a segment
// (%2F) and what is encoded twice (%25 before two hex digits). Targets may hold them, but only
// a route that says so takes them. A segment with %2F in it is one segment to every pattern.
// Whatever a route says, a target is refused if decoding it, once or repeatedly, leads to a dot
// segment, an empty segment or a control character.
//
// # Matching
//
// A request is denied unless a route names its scheme, host, port, path and method. Where
// several do, the most specific one decides:
//
//  1. an exact host before a wildcard host;
//  2. then the paths, segment by segment from the left: an exact segment before * or {x},
//     these before **; after a ** at the same place, the longer rest, then its segments from
//     the left;
//  3. then the smaller set of methods;
//  4. then a route with conditions before one without;
//  5. then the earlier in the file.
//
// A route that does not match wholly never hides one that does: a more specific path for
// another method changes nothing. WebSocket and the two encodings are not matched but granted:
// if the route that decides does not grant what a request needs, the request is denied.
//
// # Conditions
//
// A route can ask for more: of the query, the header, the body, the session. If one of its
// conditions is false, the route does not match, and the next less specific one is looked at. If
// one cannot be evaluated, because a body is not what it should be or an expression fails, the
// request is denied, whatever less specific routes say. The body is read only if the search comes
// to a route that needs it; what a condition names is read before the condition is evaluated.
//
// # Report
//
// A policy in mode report denies as any other does; who asks lets the request through all the same,
// without a credential. A route that itself says mode: report allows where a condition would deny: if the search
// for a route ends with a denial for a condition, and has come to such routes on the way, the one
// whose condition could not be evaluated included, then the most specific of them allows the
// request, with its credential, and [Decision.Reported] is the reason of the denial. Nothing else
// changes: not what another route allows, nor what no route matches in host, path and method, nor
// what the route does not grant.
//
// # Files
//
// A policy may be spread over files: what a file includes counts as if it stood in the policy, before
// what the file has itself. See [ParseFiles].
//
// # Tunnels
//
// A route with tunnel: true lets whole connections to its host through, uninspected and without
// a credential: see [Policy.Tunnel]. It never allows a request that was asked about. An exact
// host comes before a wildcard host here too, and more strictly: a host that any route names
// exactly is out of reach of a wildcard's tunnel, and a host with a tunnel of its own is out of
// reach of a wildcard's paths.
package policy

import (
	"slices"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// A Mistake is one thing wrong in a policy file.
type Mistake = strictyaml.Mistake

// Mistakes are all things wrong in a policy file, in the order of their places.
type Mistakes = strictyaml.Mistakes

// Mode says what becomes of what is refused. The zero Mode is none: treat it as [Enforce].
type Mode int

const (
	// Enforce refuses what the policy denies.
	Enforce Mode = iota + 1

	// Report records what would be refused, and lets it through.
	Report
)

// String returns "enforce" or "report", and "invalid" for any other value.
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Report:
		return "report"
	}
	return "invalid"
}

// A Policy says what one role may do. The zero Policy denies everything.
type Policy struct {
	role        string
	description string
	mode        Mode
	budget      Budget
	sha256      string
	files       []string
	prompt      string
	promptSHA   string
	credentials []Credential
	routes      []*Route
	lookalikes  lookalikes
	tests       []test
	warnings    Mistakes
	index       index
}

// Role returns the name of the role that the policy is for.
func (p *Policy) Role() string { return p.role }

// Description returns the policy's description, which may be empty.
func (p *Policy) Description() string { return p.description }

// Mode returns [Enforce] or [Report].
func (p *Policy) Mode() Mode { return p.mode }

// Budget returns what all requests of the session may use up together, whichever route allows
// them. In [Report] mode it is to be recorded and not enforced.
func (p *Policy) Budget() Budget { return p.budget }

// SHA256 returns the SHA-256, in lower-case hex, of what the policy was parsed from: of the file,
// if it is one; else of the lines "name\x00sha256\n" of all files in the order of [Policy.Files],
// with the SHA-256 of each file in lower-case hex.
func (p *Policy) SHA256() string { return p.sha256 }

// Files returns the names of all files that the policy was parsed from, relative to the directory
// of its own, with slashes: that one first, then those included as they were read, then the prompt.
func (p *Policy) Files() []string { return slices.Clone(p.files) }

// Credentials returns the credentials in file order, those of included files before those of the
// file that includes them. The caller may change the slice but not
// what its pointers point to.
func (p *Policy) Credentials() []Credential { return slices.Clone(p.credentials) }

// Routes returns the routes in file order, those of included files before those of the file that
// includes them. The caller may change the slice but not the routes.
func (p *Policy) Routes() []*Route { return slices.Clone(p.routes) }

// Warnings returns what the file may say but better would not, in file order: nil if there is
// nothing. The policy holds all the same.
func (p *Policy) Warnings() []Mistake { return slices.Clone(p.warnings) }

// A Credential is a named thing that routes carry: where its values come from and how one is
// put on a request.
type Credential struct {
	Name   string
	From   From
	Inject Inject

	// Prefetch says that the credential is obtained when the session starts, and not only when
	// the first request needs it. It is true by default if at most 20 routes carry it.
	Prefetch bool

	Where string // place in the file, "file:line:column"
}

// From says where a credential's values come from. Exactly one field is set.
type From struct {
	Vault *VaultFrom
	File  *FileFrom
	Exec  *ExecFrom
	Env   *EnvFrom
}

// VaultFrom is what is asked of Vault, and what of its answer is the value: one field; or, with
// JWT, what Vault has signed; or, if Inject has ClientCertificate, a private key with its
// certificate.
type VaultFrom struct {
	// Path is the API path without "/v1/", such as "secret/data/agents/x".
	Path string

	// Write says that the path is written, not read. It is false for a JWT.
	Write bool

	// Data is the body of a write: strings, bools, int64s, float64s and []strings; nil if the file
	// has none. The caller must not change it. What is to be written is [VaultFrom.DataFor] a session.
	Data map[string]any

	// Field names the field that holds the value; empty for a JWT and a certificate only.
	Field string

	// UserField names the field that holds the user name; empty if there is none.
	UserField string

	// MaxAge is after how long Vault is asked again at the latest; 0 if the file does not say. It
	// is never 0 for a read that may be one of KV version 2.
	MaxAge time.Duration

	// JWT is nil unless the value is a JWT that Vault's transit engine signs.
	JWT *VaultJWT
}

// VaultJWT says what stands in a JWT (RFC 7519) that Vault signs.
type VaultJWT struct {
	Algorithm string         // RS256, PS256, ES256, ES384 or EdDSA
	KeyID     string         // the header's kid; empty if there is none
	Claims    map[string]any // as Data of VaultFrom; never exp, iat, jti and nbf
	TTL       time.Duration  // from a minute to 24 hours; 5 minutes if the file does not say
}

// FileFrom is the content of a file.
type FileFrom struct {
	Path   string
	MaxAge time.Duration // after how long the file is read again; 5 minutes if the file does not say
}

// ExecFrom is what a command prints.
type ExecFrom struct {
	Command []string      // the program and its arguments; no shell
	MaxAge  time.Duration // after how long it is run again; 5 minutes if the file does not say
	Timeout time.Duration // how long it may run; 10 seconds if the file does not say
}

// EnvFrom is an environment variable of the proxy's own process.
type EnvFrom struct{ Name string }

// Inject says how a credential is put on a request. Exactly one field is set.
type Inject struct {
	Bearer *BearerInject
	Basic  *BasicInject
	Header *HeaderInject
	Query  *QueryInject

	// ClientCertificate is only there if From.Vault is.
	ClientCertificate *ClientCertificateInject
}

// BearerInject is "Authorization: Bearer <value>" (RFC 6750 section 2.1).
type BearerInject struct{}

// BasicInject is "Authorization: Basic ..." (RFC 7617) with the value as the password.
type BasicInject struct {
	User string // empty: the user name that the source gives with the value
}

// HeaderInject is "<Name>: <Prefix><value>".
type HeaderInject struct{ Name, Prefix string }

// QueryInject is "<Name>=<value>" in the query.
type QueryInject struct{ Name string }

// ClientCertificateInject is the client's side of the TLS handshake (RFC 8446 section 4.4.2).
type ClientCertificateInject struct{}

// A Route is one entry of a policy: what may be asked of one host, and the credential that
// goes with it.
type Route struct {
	// Name is unique in the policy.
	Name string

	// Scheme is "https" or "http".
	Scheme string

	// Host is a host in the form of [Authority], or "*." and a DNS name for every name with
	// exactly one more label.
	Host string

	// Port is never 0.
	Port uint16

	// Tunnel says that connections to the host are passed through uninspected. Scheme is
	// "https" then, and of the fields below only Reason and Where are set.
	Tunnel bool

	// Methods are sorted and, but for a tunnel, at least one.
	Methods []string

	// Paths are the patterns as the file has them; but for a tunnel, at least one.
	Paths []string

	// Credential is the name of one of the policy's credentials; empty for none.
	Credential string

	// Reason is the file's own words on why the route exists; it may be empty.
	Reason string

	// WebSocket says that a request of this route may become a WebSocket.
	WebSocket bool

	// ReplaySafe says that a request of this route may be sent a second time, whatever its method
	// and with its body, if the upstream refused its credential. There is a credential then.
	ReplaySafe bool

	// Outlive says that a WebSocket of this route may go on when its credential has expired.
	// WebSocket is true and there is a credential then.
	Outlive bool

	// AllowEncodedSlash says that paths may hold %2F.
	AllowEncodedSlash bool

	// AllowEncodedPercent says that paths may hold %25 before two hex digits.
	AllowEncodedPercent bool

	// AllowMinting says that answers may hold new credentials. It changes no decision: without
	// it, a route that can reach an endpoint known to return one does not load.
	AllowMinting bool

	// Correlate says that each request of this route goes out under an id, which the trail has, too.
	Correlate bool

	// LogPath says that the trail has the paths of this route's requests as they are sent, and not
	// only the pattern that they match.
	LogPath bool

	// Query holds the parameters that the query must have, decoded, with the values that they may
	// have; nil if the file asks for none.
	Query map[string][]string

	// Headers holds the header fields that there must be, by canonical name, with the values that
	// they may have; nil if the file asks for none.
	Headers map[string][]string

	// ContentTypes are the media types of which the content must be one; nil if the file asks for
	// none.
	ContentTypes []string

	// GRPC and GraphQL are nil for a route of any other requests.
	GRPC    *GRPC
	GraphQL *GraphQL

	// When is a condition in CEL, as the file has it; empty if there is none. All conditions are
	// in [Route.Conditions].
	When string

	// Limits bound what the route sends. They are no part of any decision.
	Limits Limits

	// Mode is the policy's if the file says nothing else. With [Report] the limits are to be recorded
	// and not enforced. If it is the route itself that says so, a request that matches the route but
	// for its conditions is allowed where it would be denied, and its Decision says so in Reported.
	// Never [Enforce] in a policy whose own mode is Report.
	Mode Mode

	// Where is the route's place in the file, "file:line:column".
	Where string

	order      int  // index in the file
	trial      bool // the route itself says mode: report
	patterns   []pattern
	conditions []condition
}
