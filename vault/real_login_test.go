package vault_test

import (
	"context"
	"slices"
	"testing"

	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// reviewerJWT are the parameters of a JWT role that hands a claim on as metadata.
func reviewerJWT() map[string]any {
	role := reviewerRole("5m")
	role["bound_audiences"] = []string{"vault"}
	role["bound_claims"] = map[string]any{"agent_role": "reviewer"}
	role["claim_mappings"] = map[string]any{"agent_role": "agent_role", "pod_uid": "pod_uid"}
	return role
}

func reviewerCluster() map[string]any {
	role := reviewerRole("5m")
	role["bound_service_account_names"] = []string{"reviewer"}
	role["bound_service_account_namespaces"] = []string{"agents"}
	role["audience"] = "vault"
	return role
}

// realLogins are the ways to log in that work; each returns the config.
var realLogins = []struct {
	name, path string // path is where Vault says that the token was made
	config     func(t *testing.T, srv *realvault.Server) vault.Config
}{
	{"token", "auth/token/create", func(t *testing.T, srv *realvault.Server) vault.Config {
		reply := srv.Must(t, "POST", "auth/token/create", srv.RootToken, map[string]any{"policies": []string{"reviewer"}, "ttl": "5m"})
		auth, _ := reply["auth"].(map[string]any)
		token, _ := auth["client_token"].(string)
		return realConfig(t, srv, vault.Auth{Method: "token", TokenFile: file(t, token)}, token)
	}},
	{"approle", "auth/approle/login", func(t *testing.T, srv *realvault.Server) vault.Config {
		return realAppRole(t, srv, "5m")
	}},
	{"approle with a wrapped SecretID", "auth/approle/login", func(t *testing.T, srv *realvault.Server) vault.Config {
		roleID, _ := srv.AppRole(t, "reviewer", reviewerRole("5m"))
		wrapping := srv.WrappedSecretID(t, "reviewer", "60s")
		return realConfig(t, srv, vault.Auth{
			Method: "approle", RoleID: roleID, SecretIDFile: file(t, wrapping), SecretIDWrapped: true,
		}, wrapping)
	}},
	{"kubernetes", "auth/kubernetes/login", func(t *testing.T, srv *realvault.Server) vault.Config {
		c := realvault.StartCluster(t)
		srv.KubernetesRole(t, c, "reviewer", reviewerCluster())
		token := c.ServiceAccountToken(t, "agents", "reviewer", "vault")
		return realConfig(t, srv, vault.Auth{Method: "kubernetes", Role: "reviewer", TokenFile: file(t, token)}, token)
	}},
	{"jwt", "auth/jwt/login", func(t *testing.T, srv *realvault.Server) vault.Config {
		issuer := realvault.NewIssuer(t)
		srv.JWTRole(t, issuer, "reviewer", reviewerJWT())
		token := issuer.Sign(t, map[string]any{"aud": "vault", "sub": "pod-1", "agent_role": "reviewer", "pod_uid": "uid-1"})
		return realConfig(t, srv, vault.Auth{Method: "jwt", Role: "reviewer", TokenFile: file(t, token)}, token)
	}},
	{"cert", "auth/cert/login", func(t *testing.T, srv *realvault.Server) vault.Config {
		pair := realvault.SelfSigned(t, "reviewer.agents.test")
		srv.CertRole(t, "reviewer", pair.CertPEM, reviewerRole("5m"))
		return realConfig(t, srv, vault.Auth{
			Method: "cert", Role: "reviewer", CertFile: pair.CertFile(t), KeyFile: pair.KeyFile(t),
		}, string(pair.KeyPEM))
	}},
}

// TestRealVaultLogin: each method logs in, reads a secret under the token it got, logs in anew
// when that token is revoked, and at the end leaves no token behind; that of method token is the
// operator's own.
func TestRealVaultLogin(t *testing.T) {
	t.Parallel()
	for _, tt := range realLogins {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := startReal(t, realvault.Options{TLS: true}, mayReadKV)
			s := realSession(t, tt.config(t, srv))
			if iss, _ := issueAs(t, realKVSource(s)); text(iss.Value) != canary+"-kv" {
				t.Error("the issuance is not what Vault holds")
			}
			tokens := srv.Tokens(t)
			if len(tokens) != 1 || tokens[0].Path != tt.path || !slices.Contains(tokens[0].Policies, "reviewer") {
				t.Fatalf("live tokens: %+v, want one made at %s", tokens, tt.path)
			}
			if tt.name == "token" {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if left := srv.Tokens(t); len(left) != 1 {
					t.Errorf("live tokens after the end: %+v, want the operator's own", left)
				}
				return
			}
			srv.RevokeTokens(t)
			if iss, _ := issueAs(t, realKVSource(s)); text(iss.Value) != canary+"-kv" {
				t.Error("the issuance after a new login is not what Vault holds")
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			gone(t, srv, "secret/")
		})
	}
}

// TestRealVaultLoginRefused: what a login can have wrong is refused, at once and by kind.
func TestRealVaultLoginRefused(t *testing.T) {
	t.Parallel()
	srv := startReal(t, realvault.Options{TLS: true}, mayReadKV)
	issuer := realvault.NewIssuer(t)
	srv.JWTRole(t, issuer, "reviewer", reviewerJWT())
	c := realvault.StartCluster(t)
	srv.KubernetesRole(t, c, "reviewer", reviewerCluster())
	c.Delete("agents", "deleted")
	roleID, secretID := srv.AppRole(t, "reviewer", reviewerRole("5m"))
	once := srv.SecretID(t, "reviewer", map[string]any{"num_uses": 1})
	srv.Must(t, "POST", "auth/approle/login", "", map[string]any{"role_id": roleID, "secret_id": once})
	bound := realvault.SelfSigned(t, "reviewer.agents.test")
	srv.CertRole(t, "reviewer", bound.CertPEM, reviewerRole("5m"))
	stranger := realvault.SelfSigned(t, "reviewer.agents.test")
	expired := issuer.Sign(t, map[string]any{"aud": "vault", "sub": "p", "agent_role": "reviewer", "exp": 1, "nbf": 0, "iat": 0})

	approle := func(role, secret string) vault.Auth {
		return vault.Auth{Method: "approle", RoleID: role, SecretIDFile: file(t, secret)}
	}
	jwt := func(role, token string) vault.Auth {
		return vault.Auth{Method: "jwt", Role: role, TokenFile: file(t, token)}
	}
	kube := func(role, token string) vault.Auth {
		return vault.Auth{Method: "kubernetes", Role: role, TokenFile: file(t, token)}
	}
	for _, tt := range []struct {
		name string
		auth vault.Auth
	}{
		{"token that does not exist", vault.Auth{Method: "token", TokenFile: file(t, "hvs."+canary)}},
		{"approle: unknown role id", approle("unknown", secretID)},
		{"approle: wrong SecretID", approle(roleID, canary)},
		{"approle: SecretID used up", approle(roleID, once)},
		{"approle: no such mount", vault.Auth{Method: "approle", Mount: "nowhere", RoleID: roleID, SecretIDFile: file(t, secretID)}},
		{"jwt: unknown role", jwt("unknown", issuer.Sign(t, map[string]any{"aud": "vault", "sub": "p", "agent_role": "reviewer"}))},
		{"jwt: wrong audience", jwt("reviewer", issuer.Sign(t, map[string]any{"aud": "other", "sub": "p", "agent_role": "reviewer"}))},
		{"jwt: wrong bound claim", jwt("reviewer", issuer.Sign(t, map[string]any{"aud": "vault", "sub": "p", "agent_role": "deployer"}))},
		{"jwt: expired", jwt("reviewer", expired)},
		{"jwt: another issuer's", jwt("reviewer", realvault.NewIssuer(t).Sign(t, map[string]any{"aud": "vault", "sub": "p", "agent_role": "reviewer"}))},
		{"kubernetes: unknown role", kube("unknown", c.ServiceAccountToken(t, "agents", "reviewer", "vault"))},
		{"kubernetes: wrong account", kube("reviewer", c.ServiceAccountToken(t, "agents", "other", "vault"))},
		{"kubernetes: wrong namespace", kube("reviewer", c.ServiceAccountToken(t, "default", "reviewer", "vault"))},
		{"kubernetes: wrong audience", kube("reviewer", c.ServiceAccountToken(t, "agents", "reviewer", "other"))},
		{"kubernetes: deleted account", kube("reviewer", c.ServiceAccountToken(t, "agents", "deleted", "vault"))},
		{"cert: a stranger's", vault.Auth{Method: "cert", CertFile: stranger.CertFile(t), KeyFile: stranger.KeyFile(t)}},
		{"cert: unknown role", vault.Auth{Method: "cert", Role: "unknown", CertFile: bound.CertFile(t), KeyFile: bound.KeyFile(t)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, realConfig(t, srv, tt.auth, secretID))
			err := s.Login(t.Context())
			wantKind(t, err, "refused")
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}
