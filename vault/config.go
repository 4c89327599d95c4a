package vault

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Config says how to reach Vault and how to log in. Address and Auth are required; every
// other field has a usable zero value.
type Config struct {
	// Address is the base URL of Vault, without "/v1". Plain http is accepted for a loopback
	// address only.
	Address string

	// Namespace is sent as X-Vault-Namespace with every call. Empty sends no such header.
	Namespace string

	// CACertPEM holds the root certificates that Vault's certificate is verified against,
	// instead of the system's. Nil means the system's.
	CACertPEM []byte

	// Auth is how to log in.
	Auth Auth

	// Correlation gives the value of X-Correlation-Id for one call. The argument is the
	// issuance's UUID for a read and a fresh UUID for a login or a revocation. Nil means the
	// UUID itself. It must be safe for concurrent use.
	Correlation func(id string) string

	// CallTimeout bounds one HTTP call, from dialling to the end of the reply. Zero means 5 s.
	CallTimeout time.Duration

	// Now is the wall clock that expiries are computed and judged by. Nil means time.Now.
	Now func() time.Time

	// Log receives operational messages, never a secret. The zero value discards.
	Log zerolog.Logger
}

// Auth is a login method. Its files are read anew at every login; surrounding white space is
// cut off, and a file over 64 KiB is refused.
type Auth struct {
	// Method is "token", "approle" or "kubernetes".
	Method string

	// Mount is where the method is mounted, without "auth/". Empty means the method's name.
	// It has no meaning for "token".
	Mount string

	// Role is the role to log in as. Required for "kubernetes", otherwise unused.
	Role string

	// TokenFile holds the Vault token for "token", or the service account's JWT for
	// "kubernetes". Required for both.
	TokenFile string

	// RoleID is the AppRole's role id. Exactly one of RoleID and RoleIDFile is required for
	// "approle".
	RoleID string

	// RoleIDFile is a file that holds the AppRole's role id.
	RoleIDFile string

	// SecretIDFile is a file that holds the AppRole's SecretID. Required for "approle".
	SecretIDFile string
}

// SourceConfig says what to read for one credential.
type SourceConfig struct {
	// Path is the API path without "/v1/", such as "secret/data/team/key" (KV version 2, with
	// its "data") or "github/token/reviewer".
	Path string

	// Field is the field of the reply that holds the value. Required.
	Field string

	// UserField is the field that holds the user name. Empty means that there is none.
	UserField string

	// MaxAge bounds how long one reading is used. Zero means no bound for a reading that comes
	// with a lease, and 5 minutes for one that does not.
	MaxAge time.Duration
}

const (
	methodToken      = "token"
	methodAppRole    = "approle"
	methodKubernetes = "kubernetes"
)

func (c Config) callTimeout() time.Duration { return cmp.Or(c.CallTimeout, 5*time.Second) }

func (c Config) correlation() func(string) string {
	if c.Correlation != nil {
		return c.Correlation
	}
	return func(id string) string { return id }
}

// now strips the monotonic reading: it stands still while the machine is suspended, and an
// expiry does not.
func (c Config) now() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return func() time.Time { return time.Now().Round(0) }
}

// check returns everything that is wrong with c, joined, and the base URL.
func (c Config) check() (*url.URL, error) {
	base, err := parseAddress(c.Address)
	errs := []error{err}
	if strings.ContainsFunc(c.Namespace, notGraphic) {
		errs = append(errs, fmt.Errorf("namespace: %q holds a space or a character outside ASCII", c.Namespace))
	}
	if c.CACertPEM != nil && !x509.NewCertPool().AppendCertsFromPEM(c.CACertPEM) {
		errs = append(errs, errors.New("CA certificates: no PEM certificate found"))
	}
	if c.CallTimeout < 0 {
		errs = append(errs, fmt.Errorf("call timeout: %v is negative", c.CallTimeout))
	}
	errs = append(errs, c.Auth.check()...)
	return base, errors.Join(errs...)
}

func (a Auth) check() []error {
	var errs []error
	need := func(value, what string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("auth %s: %s is missing", a.Method, what))
		}
	}
	switch a.Method {
	case methodToken:
		need(a.TokenFile, "the file that holds the token")
	case methodKubernetes:
		need(a.Role, "the role")
		need(a.TokenFile, "the file that holds the service account's token")
	case methodAppRole:
		if (a.RoleID == "") == (a.RoleIDFile == "") {
			errs = append(errs, errors.New("auth approle: give the role id or the file that holds it, and not both"))
		}
		need(a.SecretIDFile, "the file that holds the SecretID")
	default:
		errs = append(errs, fmt.Errorf("auth: method %q is not one of token, approle, kubernetes", a.Method))
	}
	if a.Mount != "" && !validPath(a.Mount) {
		errs = append(errs, fmt.Errorf("auth: mount %q is not a path", a.Mount))
	}
	return errs
}

func (a Auth) loginPath() string { return "auth/" + cmp.Or(a.Mount, a.Method) + "/login" }

func parseAddress(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("address: not an absolute URL; write it like https://vault.example.com:8200")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("address: a user, a query or a fragment has no meaning here")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("address: http to %s would send tokens in clear; use https", u.Hostname())
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("address: scheme %q is neither https nor http", u.Scheme)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if strings.HasSuffix(u.Path, "/v1") {
		return nil, errors.New("address: write the base URL, without /v1")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// validPath reports whether p is a path that reaches Vault as it is written: no empty and no
// dot segments, which Vault would answer with a redirect.
func validPath(p string) bool {
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "" || seg == "." || seg == ".." || strings.ContainsFunc(seg, isControl) {
			return false
		}
	}
	return true
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func notGraphic(r rune) bool { return r <= 0x20 || r >= 0x7f }
