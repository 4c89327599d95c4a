package vault

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sidekey/sidekey/credential"
)

// advise adds to a refused login which of Vault's settings to look at. It goes by the status,
// because error texts differ between Vault, its versions and OpenBao; so it names all that the
// status can mean.
func (a Auth) advise(err error) error {
	var f *failure
	if !errors.As(err, &f) || f.kind != credential.ErrRefused {
		return err
	}
	switch f.status {
	case http.StatusBadRequest:
		f.hint = a.adviceOn400()
	case http.StatusForbidden:
		f.hint = a.adviceOn403()
	case http.StatusNotFound:
		f.hint = "there is no such path: look at the address and the namespace, and at what is mounted at " + a.mount()
	}
	return f
}

func (a Auth) rolePath() string { return a.mount() + "/role/" + a.Role }

func (a Auth) adviceOn400() string {
	switch a.Method {
	case methodKubernetes:
		return fmt.Sprintf("there is no role %s, or %s holds no service account token", a.rolePath(), a.TokenFile)
	case methodJWT:
		return fmt.Sprintf("there is no role %s, or it does not accept the token in %s: compare the token's aud, sub, other claims and exp "+
			"with the role's bound_audiences, bound_subject and bound_claims, and its iss and key with %s/config",
			a.rolePath(), a.TokenFile, a.mount())
	case methodCert:
		return fmt.Sprintf("no certificate role%s of %s accepts the certificate in %s: compare it with the role's certificate, allowed_names and "+
			"allowed_common_names and with the time; or something before Vault ends TLS and takes the certificate away",
			a.named(), a.mount(), a.CertFile)
	case methodAppRole:
		if a.SecretIDWrapped {
			return "the role id is wrong, or the SecretID has expired or was used up: it is unwrapped once and used for every login, so " +
				"secret_id_num_uses of the role must be 0 and secret_id_ttl longer than the session"
		}
		return "the role id or the SecretID is wrong, or the SecretID has expired or was used up: look at secret_id_ttl and secret_id_num_uses of the role"
	}
	return "the token in " + a.TokenFile + " is malformed"
}

func (a Auth) adviceOn403() string {
	// What is most likely comes first.
	mounted := fmt.Sprintf("no such auth method is mounted there (%s), or it is in another namespace; or ", a.mount())
	switch a.Method {
	case methodKubernetes:
		return mounted + fmt.Sprintf("the token in %s was not accepted: compare its audience, service account and namespace with audience, "+
			"bound_service_account_names and bound_service_account_namespaces of %s; or Vault could not have the cluster review it: look at "+
			"kubernetes_host, kubernetes_ca_cert, token_reviewer_jwt and issuer of %s/config; or token_bound_cidrs of the role does not hold this address",
			a.TokenFile, a.rolePath(), a.mount())
	case methodJWT:
		return mounted + fmt.Sprintf("the token in %s does not fit %s: compare the role's name, and its bound_audiences, bound_subject and bound_claims "+
			"with the token; or token_bound_cidrs of the role does not hold this address", a.TokenFile, a.rolePath())
	case methodCert:
		return mounted + "token_bound_cidrs of the certificate role" + a.named() + " does not hold this address"
	case methodAppRole:
		return "no AppRole method is mounted at " + a.mount() + ", or it is in another namespace; or too many failed logins have locked the role out for some minutes"
	}
	return fmt.Sprintf("the token in %s has expired, was revoked or is of another Vault or namespace; or its policies lack "+
		`path "auth/token/lookup-self" { capabilities = ["read"] }`, a.TokenFile)
}

func (a Auth) named() string {
	if a.Role == "" {
		return ""
	}
	return " " + a.Role
}

// adviseChild does the same for a child token that was refused.
func adviseChild(err error, path string) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	switch f.status {
	case http.StatusForbidden:
		f.hint = fmt.Sprintf(`the login's policies lack path %q { capabilities = ["update"] }`, path)
	case http.StatusBadRequest:
		f.hint = "there is no such token role, or its allowed_policies do not permit it; the login's token must be neither a batch token nor limited in its uses"
	}
	return f
}
