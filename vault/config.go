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

	// SessionTokenRole is the token role that a child token is made with after each login, at
	// auth/token/create/ROLE; every later call is made with the child. Empty means that the
	// login's own token is used. The login's policies must allow to write that path, and its
	// token must be neither a batch token nor limited in its uses.
	SessionTokenRole string

	// Meta becomes the metadata of each child token, which Vault writes in clear into every
	// entry of its audit log. It is unused without SessionTokenRole. It must not change.
	Meta map[string]string

	// Expect is what the metadata that Vault gives a login must not contradict. A login whose
	// metadata has one of these keys with another value is refused and its token is revoked.
	// Nil means that nothing is compared. It must not change.
	Expect map[string]string

	// Require lists the keys of Expect that the metadata must have: Vault's JWT method, for one,
	// leaves out a claim that the token does not hold.
	Require []string

	// OnLogin is called after each successful login, before any call that waited for it goes
	// on. It must return soon and must not wait for the session. Nil means that no one is told.
	OnLogin func(Login)

	// OnCall is called after each call that Vault may have seen, before anything is made of what
	// came of it. It must return soon and must not wait for the session. Nil means that no one is told.
	OnCall func(Call)

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

// A Login tells of one successful login.
type Login struct {
	// Metadata is what Vault says of who logged in (auth.metadata of the reply). It is no secret,
	// and Vault vouches for it as far as the login method does. The receiver may keep it.
	Metadata map[string]string

	// ExpiresAt is when the session's token expires, on the clock of Config.Now; zero if it does
	// not expire.
	ExpiresAt time.Time

	// Generation counts the session's logins from 1.
	Generation int
}

// A Call tells of one call to Vault. Vault's audit log has a request entry for it, if it arrived, and a
// response entry, if it was answered.
type Call struct {
	Method, Path string // the path without "/v1/", not escaped

	// Status is that of the reply; 0 means that none came.
	Status int

	// RequestID and LeaseID are what the reply says; "" for one without a body.
	RequestID, LeaseID string

	// CorrelationID is the X-Correlation-Id that the call carried.
	CorrelationID string

	// Duration is the time from the beginning of the call to the end of the reply.
	Duration time.Duration
}

func (c Config) callTimeout() time.Duration { return cmp.Or(c.CallTimeout, 5*time.Second) }

func (c Config) correlation() func(string) string {
	if c.Correlation != nil {
		return c.Correlation
	}
	return func(id string) string { return id }
}

func (c Config) onCall() func(Call) {
	if c.OnCall != nil {
		return c.OnCall
	}
	return func(Call) {}
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
	errs = append(errs, c.checkTokens()...)
	errs = append(errs, c.Auth.check()...)
	if c.Auth.Method == methodCert && base != nil && base.Scheme != "https" {
		errs = append(errs, errors.New("auth cert: a client certificate takes an https address"))
	}
	return base, errors.Join(errs...)
}

func (c Config) checkTokens() []error {
	var errs []error
	if r := c.SessionTokenRole; r != "" && (!validPath(r) || strings.Contains(r, "/")) {
		errs = append(errs, fmt.Errorf("session token role: %q is not the name of a role", r))
	}
	for _, key := range c.Require {
		if _, ok := c.Expect[key]; !ok {
			errs = append(errs, fmt.Errorf("login metadata: %q is required, but no value is expected of it", key))
		}
	}
	return errs
}

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
