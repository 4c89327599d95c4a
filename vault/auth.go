package vault

import (
	"cmp"
	"errors"
	"fmt"
)

// Auth is a login method. Its files are read anew at every login, but for a wrapped SecretID;
// surrounding white space is cut off, and a file over 64 KiB is refused.
type Auth struct {
	// Method is "token", "approle", "kubernetes", "jwt" or "cert".
	Method string

	// Mount is where the method is mounted, without "auth/". Empty means the method's name.
	// It has no meaning for "token".
	Mount string

	// Role is the role to log in as. Required for "kubernetes" and "jwt". For "cert" it is the
	// name of the certificate role; empty leaves it to Vault to find one that fits. Otherwise it
	// is unused.
	Role string

	// TokenFile holds the Vault token for "token", the service account's JWT for "kubernetes",
	// or the JWT for "jwt". Required for these.
	TokenFile string

	// RoleID is the AppRole's role id. Exactly one of RoleID and RoleIDFile is required for
	// "approle".
	RoleID string

	// RoleIDFile is a file that holds the AppRole's role id.
	RoleIDFile string

	// SecretIDFile is a file that holds the AppRole's SecretID. Required for "approle".
	SecretIDFile string

	// SecretIDWrapped says that SecretIDFile holds a response-wrapping token instead, which holds
	// the SecretID. It is unwrapped once, at the first login; the SecretID is then kept in memory
	// for the logins that follow, so it must not be limited in its uses.
	SecretIDWrapped bool

	// CertFile and KeyFile hold, in PEM, the client certificate with its chain and its private
	// key. Both are required for "cert". Every connection then offers the certificate of the
	// last login.
	CertFile, KeyFile string
}

const (
	methodToken      = "token"
	methodAppRole    = "approle"
	methodKubernetes = "kubernetes"
	methodJWT        = "jwt"
	methodCert       = "cert"
)

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
	case methodJWT:
		need(a.Role, "the role")
		need(a.TokenFile, "the file that holds the JWT")
	case methodCert:
		need(a.CertFile, "the file that holds the client certificate")
		need(a.KeyFile, "the file that holds the certificate's private key")
	case methodAppRole:
		if (a.RoleID == "") == (a.RoleIDFile == "") {
			errs = append(errs, errors.New("auth approle: give the role id or the file that holds it, and not both"))
		}
		need(a.SecretIDFile, "the file that holds the SecretID")
	default:
		errs = append(errs, fmt.Errorf("auth: method %q is not one of token, approle, kubernetes, jwt, cert", a.Method))
	}
	if a.SecretIDWrapped && a.Method != methodAppRole {
		errs = append(errs, fmt.Errorf("auth %s: only approle has a wrapped SecretID", a.Method))
	}
	if a.Mount != "" && !validPath(a.Mount) {
		errs = append(errs, fmt.Errorf("auth: mount %q is not a path", a.Mount))
	}
	return errs
}

// mount is where the method is mounted, with "auth/".
func (a Auth) mount() string { return "auth/" + cmp.Or(a.Mount, a.Method) }
