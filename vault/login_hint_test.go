package vault_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
)

// Each refusal of a login says which of Vault's settings to look at, and nothing of what Vault
// wrote.
func TestLoginHints(t *testing.T) {
	token := file(t, canary)
	for _, tt := range []struct {
		auth   vault.Auth
		status int
		says   []string // in this order; empty: there is no hint
	}{
		{vault.Auth{Method: "kubernetes", Role: "r"}, 400, []string{"there is no role auth/kubernetes/role/r", token}},
		{vault.Auth{Method: "kubernetes", Role: "r", Mount: "k8s/a"}, 400, []string{"auth/k8s/a/role/r"}},
		{vault.Auth{Method: "kubernetes", Role: "r"}, 403, []string{"is mounted there (auth/kubernetes)", "another namespace",
			"audience", "bound_service_account_names", "bound_service_account_namespaces", "token_reviewer_jwt", "auth/kubernetes/config", "token_bound_cidrs"}},
		{vault.Auth{Method: "jwt", Role: "r"}, 400, []string{"there is no role auth/jwt/role/r", "bound_audiences", "bound_claims", "auth/jwt/config"}},
		{vault.Auth{Method: "jwt", Role: "r"}, 403, []string{"is mounted there (auth/jwt)", "auth/jwt/role/r", "bound_claims", "token_bound_cidrs"}},
		{vault.Auth{Method: "approle", RoleID: "r", SecretIDFile: token}, 400, []string{"role id", "secret_id_ttl", "secret_id_num_uses"}},
		{vault.Auth{Method: "approle", RoleID: "r", SecretIDFile: token}, 403, []string{"no AppRole method is mounted at auth/approle", "locked"}},
		{vault.Auth{Method: "token"}, 403, []string{token, "expired", "revoked", `path "auth/token/lookup-self" { capabilities = ["read"] }`}},
		{vault.Auth{Method: "token"}, 400, []string{"malformed"}},
		{vault.Auth{Method: "jwt", Role: "r"}, 404, []string{"look at the address and the namespace", "auth/jwt"}},
		{vault.Auth{Method: "jwt", Role: "r"}, 405, nil},
		{vault.Auth{Method: "jwt", Role: "r"}, 302, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := appRole(t, "http://127.0.0.1:8200")
			if cfg.Auth = tt.auth; tt.auth.Method != "approle" {
				cfg.Auth.TokenFile = token
			}
			err := openOver(t, serve(t, say(tt.status, `{"errors":["`+canary+`"]}`)), cfg).Login(t.Context())
			wantError(t, err, credential.ErrRefused, "status ")
			_, hint, found := strings.Cut(err.Error(), ": credential refused; hint: ")
			if found != (tt.says != nil) {
				t.Errorf("%s, %d: error %v", tt.auth.Method, tt.status, err)
			}
			for _, says := range tt.says {
				_, after, found := strings.Cut(hint, says)
				if !found {
					t.Errorf("%s, %d: hint %q does not say %q there", tt.auth.Method, tt.status, hint, says)
				}
				hint = after
			}
		})
	}
}
