// Package config reads how this process runs: from a file, then from SIDEKEY_* variables, then
// from flags, each over the one before, into one struct. It is the only package that imports
// viper, and it decides nothing about requests: that is the policy's.
//
// A key has one name in all three: vault.auth.token_file in the file is
// SIDEKEY_VAULT_AUTH_TOKEN_FILE in the environment and, as it has a flag, --vault-token-file.
// An unknown key or variable is a mistake, and so is a wrong value even where a later layer
// has another one. [Load] finds all mistakes at once.
package config

import (
	"net/netip"
	"time"
)

// Config says how the process runs. [Load] makes it; its zero value is of no use. It must not
// be changed while others read it.
type Config struct {
	// Role is the agent's role, a DNS label.
	Role string

	// Policy is the policy file, or a directory that holds one named <role>.yaml. Nobody has
	// looked yet whether it exists; the same holds for every other path here.
	Policy string

	// Listen is where the agent's requests come in, "address:port". The address is an IP
	// literal of the loopback; port 0 lets the system choose. Default 127.0.0.1:3128.
	Listen string

	// Ops is where probes and metrics are answered, "address:port" with an IP literal. Empty
	// means nowhere, for which the configuration says "off". Default 0.0.0.0:3129.
	Ops string

	// Admin is the path of the unix socket for status, the session's end and the kill switch; the
	// agent must not be able to open it. Empty, the default, means none.
	Admin string

	// CADir is the directory that the CA's certificates are written to, for the agent to read.
	CADir string

	// Session is whom the process works for, and for how long.
	Session Session

	// Vault is how to reach Vault. Nil means that no layer names any of its keys: then no
	// credential can come from Vault.
	Vault *Vault

	// Upstream is about the servers that allowed requests go to.
	Upstream Upstream

	// Audit is where the audit records go.
	Audit Audit

	// RefuseEarly refuses a host that no route names in the answer to CONNECT. False, the
	// default, opens the tunnel towards the agent and refuses inside it, where the agent can
	// read why.
	RefuseEarly bool

	// DrainGrace is how long running requests may go on after SIGTERM. Greater than zero;
	// default 20 s.
	DrainGrace time.Duration

	// LogLevel is the least level of the operational log: debug, info, warn or error. Default
	// info. It has no effect on the audit.
	LogLevel string

	where map[string]string // key to the place that has the last word on it
}

// Where returns the place that has the last word on key, such as "config.yaml:12:3" for
// "vault.auth.token_file", and "config" if no layer names it.
func (c *Config) Where(key string) string {
	if w := c.where[key]; w != "" {
		return w
	}
	return "config"
}

// Session is one session.
type Session struct {
	// ID names the session in every audit record: at most 128 letters, digits, ".", "_" and
	// "-". Empty, the default, leaves the choice to the caller.
	ID string

	// RequestedBy is the engineer or system that the session runs for, as asserted by whoever
	// started the process: at most 256 bytes, printable. Default empty, which means unknown.
	RequestedBy string

	// PodInfo is the directory of a downward API volume, whose files say who the session is for
	// where ID and RequestedBy do not; see [ReadPodInfo]. Default empty: none.
	PodInfo string

	// TTL is how long the session lasts at most. Greater than zero; default 8 h.
	TTL time.Duration
}

// Vault says how to reach Vault and how to log in.
type Vault struct {
	// Address is Vault's base URL without a path, such as https://vault.example.com:8200. It
	// is http for a loopback address only.
	Address string

	// Namespace is Vault's namespace. Default empty: none.
	Namespace string

	// CAFile holds, in PEM, the roots that Vault's certificate is verified against instead of
	// the system's. Default empty: the system's.
	CAFile string

	// SessionTokenRole is the role of Vault's token store that the session's own token is made
	// with, below the login's. Default empty: the login's token is used.
	SessionTokenRole string

	// Auth is how to log in.
	Auth Auth
}

// Auth is a login method of Vault. A field that the method has no use for may still be set, by
// a layer below the one that sets the method.
type Auth struct {
	// Method is token, approle, kubernetes, jwt or cert.
	Method string

	// Mount is where the method is mounted, without "auth/". Default empty: the method's name.
	Mount string

	// Role is the role to log in as. Never empty for kubernetes and jwt.
	Role string

	// TokenFile holds the Vault token for token, the service account's token for kubernetes, or
	// the JWT for jwt. Never empty for these three.
	TokenFile string

	// RoleID is the AppRole's role id. Exactly one of RoleID and RoleIDFile is set for approle.
	RoleID string

	// RoleIDFile holds the AppRole's role id.
	RoleIDFile string

	// SecretIDFile holds the AppRole's SecretID. Never empty for approle.
	SecretIDFile string

	// SecretIDWrapped says that SecretIDFile holds a wrapping token for the SecretID instead.
	SecretIDWrapped bool

	// CertFile and KeyFile hold, in PEM, the client certificate and its key. Never empty for cert.
	CertFile, KeyFile string

	// Verify names what the metadata of Vault's login must have and agree with: pod_uid,
	// pod_name, namespace, session_id, requested_by. Default none.
	Verify []string
}

// Upstream says what is special about reaching upstreams here.
type Upstream struct {
	// AllowCIDRs are the address ranges that may be dialled although they are not public, in
	// canonical form: the bits after the prefix are zero. Default none.
	AllowCIDRs []netip.Prefix

	// Resolve gives hosts a fixed address instead of DNS's. A key is a DNS name as
	// policy.Authority has it. Default none.
	Resolve map[string]netip.Addr

	// CAFile holds, in PEM, roots that upstreams may be verified against besides the
	// system's. Default empty: none.
	CAFile string
}

// Audit says where the audit records go.
type Audit struct {
	// Path is the file that records are appended to, or "unix:" and the path of a stream socket that they
	// are written to. "-", the default, is standard output.
	Path string

	// Sync waits until each record that is waited for, which is all but outcomes, is on the disk, not
	// only with the operating system. Default false.
	Sync bool

	// Segment is after how many bytes the trail is signed and its file set aside, as Path.000001 and so
	// on. Default 64 MiB.
	Segment int64

	// Keep is how many files that were set aside are kept; the oldest are deleted. Default 0: all.
	Keep int

	// OTLP is where copies of the records go.
	OTLP OTLP
}

// OTLP says where copies of the audit records go as OpenTelemetry logs. They are not the trail: a copy is
// sent after the record was written, may be lost, and holds up nothing.
type OTLP struct {
	// Endpoint is the https URL that they are posted to as OTLP/JSON, or http on loopback. Without a path
	// it gets /v1/logs. Empty, the default, means that no copies are sent.
	Endpoint string

	// CAFile is a PEM file of certificates to verify the endpoint with. Empty, the default, means the
	// system's.
	CAFile string

	// TokenFile holds a bearer token for the endpoint; it is read again for each call. Empty, the
	// default, means none.
	TokenFile string
}
