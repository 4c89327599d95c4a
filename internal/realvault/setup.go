package realvault

import (
	"encoding/json"
	"maps"
	"testing"
)

// Mount mounts a secrets engine of the given type at path, unless that has been done; options may
// be nil. Package realvault's KV version 2 at secret/ is there already.
func (s *Server) Mount(t testing.TB, path, engine string, options map[string]any) {
	t.Helper()
	s.mountOnce(t, "sys/mounts/"+path, map[string]any{"type": engine, "options": options})
}

// EnableAuth mounts an auth method of the given type at auth/path, unless that has been done.
func (s *Server) EnableAuth(t testing.TB, path, method string) {
	t.Helper()
	s.mountOnce(t, "sys/auth/"+path, map[string]any{"type": method})
}

func (s *Server) mountOnce(t testing.TB, path string, body map[string]any) {
	t.Helper()
	s.mu.Lock()
	done := s.mounted[path]
	s.mounted[path] = true
	s.mu.Unlock()
	if !done {
		s.Write(t, path, body)
	}
}

// Policy writes an ACL policy, in HCL.
func (s *Server) Policy(t testing.TB, name, rules string) {
	t.Helper()
	s.Must(t, "PUT", "sys/policies/acl/"+name, s.RootToken, map[string]any{"policy": rules})
}

// KV writes the next version of a KV version 2 secret at secret/path. It is read at
// secret/data/path.
func (s *Server) KV(t testing.TB, path string, data map[string]any) {
	t.Helper()
	s.Write(t, "secret/data/"+path, map[string]any{"data": data})
}

// AppRole makes an AppRole at auth/approle with the given parameters of Vault's API, such as
// token_policies and token_ttl, and returns its role id and a SecretID.
func (s *Server) AppRole(t testing.TB, name string, params map[string]any) (roleID, secretID string) {
	t.Helper()
	s.EnableAuth(t, "approle", "approle")
	s.Write(t, "auth/approle/role/"+name, params)
	roleID, _ = s.Read(t, "auth/approle/role/"+name+"/role-id")["role_id"].(string)
	return roleID, s.SecretID(t, name, nil)
}

// SecretID makes one more SecretID for an AppRole; params may be nil.
func (s *Server) SecretID(t testing.TB, name string, params map[string]any) string {
	t.Helper()
	id, _ := s.Write(t, "auth/approle/role/"+name+"/secret-id", params)["secret_id"].(string)
	if id == "" {
		t.Fatal("Vault made no SecretID")
	}
	return id
}

// WrappedSecretID is SecretID, response-wrapped: it returns the wrapping token, which lives for
// ttl, such as "60s".
func (s *Server) WrappedSecretID(t testing.TB, name, ttl string) string {
	t.Helper()
	return s.Wrapped(t, "auth/approle/role/"+name+"/secret-id", ttl, nil)
}

// JWTRole makes a role at auth/jwt, which trusts the issuer, with the given parameters of Vault's
// API, such as bound_audiences, user_claim and claim_mappings.
func (s *Server) JWTRole(t testing.TB, issuer *Issuer, name string, params map[string]any) {
	t.Helper()
	s.EnableAuth(t, "jwt", "jwt")
	s.Write(t, "auth/jwt/config", map[string]any{
		"jwt_validation_pubkeys": []string{string(issuer.PublicKeyPEM)}, "bound_issuer": issuer.Name,
	})
	role := map[string]any{"role_type": "jwt", "user_claim": "sub"}
	maps.Copy(role, params)
	s.Write(t, "auth/jwt/role/"+name, role)
}

// KubernetesRole makes a role at auth/kubernetes, which asks the cluster, with the given
// parameters of Vault's API, such as bound_service_account_names.
func (s *Server) KubernetesRole(t testing.TB, c *Cluster, name string, params map[string]any) {
	t.Helper()
	s.EnableAuth(t, "kubernetes", "kubernetes")
	s.Write(t, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": c.URL, "kubernetes_ca_cert": string(c.CACertPEM),
		"token_reviewer_jwt": c.reviewer, "disable_local_ca_jwt": true,
	})
	s.Write(t, "auth/kubernetes/role/"+name, params)
}

// CertRole makes a role at auth/cert for clients with the given certificate, or one that it
// signed, with the given parameters of Vault's API. The server must speak TLS.
func (s *Server) CertRole(t testing.TB, name string, certPEM []byte, params map[string]any) {
	t.Helper()
	s.EnableAuth(t, "cert", "cert")
	role := map[string]any{"certificate": string(certPEM)}
	maps.Copy(role, params)
	s.Write(t, "auth/cert/certs/"+name, role)
}

// DatabaseRole makes a role of the database engine at database/ whose users live for ttl, such as
// "30s", in db. Each may do nothing but log in.
func (s *Server) DatabaseRole(t testing.TB, db *Database, name, ttl, maxTTL string) {
	t.Helper()
	s.Mount(t, "database", "database", nil)
	s.Write(t, "database/config/postgres", map[string]any{
		"plugin_name":    "postgresql-database-plugin",
		"connection_url": "postgresql://{{username}}:{{password}}@/postgres?sslmode=disable&host=" + db.Dir,
		"username":       db.Superuser, "password": db.Password,
		"allowed_roles": []string{"*"},
	})
	s.Write(t, "database/roles/"+name, map[string]any{
		"db_name": "postgres", "default_ttl": ttl, "max_ttl": maxTTL,
		"creation_statements": []string{
			`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
		},
		"revocation_statements": []string{
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`,
			`DROP ROLE IF EXISTS "{{name}}"`,
		},
	})
}

// PKI mounts a certificate authority at pki/ and a role on it that issues client certificates for
// names below example.test with the given TTL, such as "60s". It returns the authority's
// certificate.
func (s *Server) PKI(t testing.TB, role, ttl string) (caPEM []byte) {
	t.Helper()
	s.Mount(t, "pki", "pki", nil)
	root := s.Write(t, "pki/root/generate/internal", map[string]any{
		"common_name": "test root", "ttl": "24h", "key_type": "ec",
	})
	s.Write(t, "pki/roles/"+role, map[string]any{
		"allowed_domains": "example.test", "allow_subdomains": true, "server_flag": false, "client_flag": true,
		"key_type": "ec", "ttl": ttl, "max_ttl": ttl, "generate_lease": true,
	})
	cert, _ := root["certificate"].(string)
	return []byte(cert)
}

// IdentityToken makes a role of the identity engine whose tokens, read at
// identity/oidc/token/NAME, live for ttl. template may be empty; else it is JSON as Vault's API
// has it.
func (s *Server) IdentityToken(t testing.TB, name, ttl, template string) {
	t.Helper()
	s.Write(t, "identity/oidc/key/"+name, map[string]any{"algorithm": "ES256", "allowed_client_ids": "*"})
	s.Write(t, "identity/oidc/role/"+name, map[string]any{"key": name, "ttl": ttl, "template": template})
}

// Wrapped makes one write with the root token and returns the token that wraps the reply for ttl.
func (s *Server) Wrapped(t testing.TB, path, ttl string, body map[string]any) string {
	t.Helper()
	status, b, err := s.call("POST", path, s.RootToken, ttl, body)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		WrapInfo struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	if err := json.Unmarshal(b, &reply); err != nil || reply.WrapInfo.Token == "" {
		t.Fatalf("POST %s: status %d, no wrapping token: %v", path, status, err)
	}
	return reply.WrapInfo.Token
}
