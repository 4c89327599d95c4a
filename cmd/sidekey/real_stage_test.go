package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// A realStage is what stands around a sidecar: a real Vault, and an upstream that checks what it is
// sent. Nothing is mounted, and nothing may be read, until the test says so.
type realStage struct {
	vault   *realvault.Server
	address string // of Vault, for the sidecar; a test may put a proxy of its own before Vault
	up      *realUpstream
	files   string // the directory of what the config names; all that may hold a secret
	rules   []string
}

// newRealStage starts a Vault and an upstream that are stopped when the test ends.
func newRealStage(t *testing.T, opts realvault.Options) *realStage {
	t.Helper()
	st := &realStage{vault: realvault.Start(t, opts), up: newRealUpstream(t), files: t.TempDir()}
	st.address = st.vault.Addr
	return st
}

// file makes a file and returns its path.
func (st *realStage) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(st.files, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// allow adds a line to the Vault policy "tester".
func (st *realStage) allow(t *testing.T, path string, capabilities ...string) {
	t.Helper()
	st.rules = append(st.rules, fmt.Sprintf(`path "%s" { capabilities = ["%s"] }`, path, strings.Join(capabilities, `", "`)))
	st.vault.Policy(t, "tester", strings.Join(st.rules, "\n"))
}

// database has database/creds/reader issue users of db for ttl, and the upstream let them in below
// /db.
func (st *realStage) database(t *testing.T, db *realvault.Database, ttl, maxTTL string) {
	t.Helper()
	st.vault.DatabaseRole(t, db, "reader", ttl, maxTTL)
	st.allow(t, "database/creds/reader", "read")
	st.allow(t, "sys/leases/revoke/database/creds/reader/*", "update")
	st.up.check("db", databaseCheck(db))
}

// keyValue writes a secret, which expires never, and has the upstream let in below /kv who has it.
func (st *realStage) keyValue(t *testing.T) {
	t.Helper()
	value := newCanary()
	st.vault.KV(t, "agents/tester", map[string]any{"api_key": value})
	st.allow(t, "secret/data/agents/tester", "read")
	st.up.check("kv", valueCheck(value))
}

// childTokens makes the token role sidekey-session, for vault.session_token_role.
func (st *realStage) childTokens(t *testing.T) {
	t.Helper()
	st.vault.Write(t, "auth/token/roles/sidekey-session", map[string]any{"allowed_policies": "tester"})
	st.allow(t, "auth/token/create/sidekey-session", "update")
}

// tokenRole is the part of a role that all auth methods share.
func tokenRole(ttl string) map[string]any {
	return map[string]any{"token_policies": "tester", "token_ttl": ttl, "token_max_ttl": ttl}
}

// kubernetes lets a service account log in, for tokens that live for ttl, and returns vault.auth.
func (st *realStage) kubernetes(t *testing.T, ttl string) (auth string) {
	t.Helper()
	cluster := realvault.StartCluster(t)
	role := tokenRole(ttl)
	maps.Copy(role, map[string]any{
		"bound_service_account_names": []string{"tester"}, "bound_service_account_namespaces": []string{"agents"}, "audience": "vault",
	})
	st.vault.KubernetesRole(t, cluster, "tester", role)
	token := st.file(t, "service-account-token", cluster.ServiceAccountToken(t, "agents", "tester", "vault"))
	return fmt.Sprintf("{method: kubernetes, role: tester, token_file: %q}", token)
}

// approle lets an AppRole log in, for tokens that live for ttl, and returns vault.auth.
func (st *realStage) approle(t *testing.T, ttl string) (auth string) {
	t.Helper()
	roleID, secretID := st.vault.AppRole(t, "tester", tokenRole(ttl))
	return fmt.Sprintf("{method: approle, role_id: %q, secret_id_file: %q}", roleID, st.file(t, "secret-id", secretID))
}

// config is the configuration of a sidecar on this stage, but for what startServe adds. more are
// further lines of the section vault.
func (st *realStage) config(t *testing.T, auth string, more ...string) string {
	t.Helper()
	lines := append([]string{"vault:", "address: " + st.address, "auth: " + auth}, more...)
	if st.vault.CACertPEM != nil {
		lines = append(lines, "ca_file: "+st.file(t, "vault-ca.crt", string(st.vault.CACertPEM)))
	}
	return strings.Join(lines, "\n  ") + fmt.Sprintf(`
upstream:
  allow_cidrs: [127.0.0.1/32]
  resolve: {api.test: 127.0.0.1, mutual.test: 127.0.0.1}
  ca_file: %q
audit: {path: audit.jsonl}
admin: admin.sock
drain_grace: 5s
log_level: debug
`, st.file(t, "upstream-ca.crt", string(st.up.ca.CertificatePEM())))
}

// policy is a policy with the given credentials, each a line of YAML. The route of each has its
// name, and is /NAME/** of api.test, or of mutual.test for a client certificate.
func (st *realStage) policy(credentials ...string) string {
	var head, routes strings.Builder
	for _, c := range credentials {
		name, _, _ := strings.Cut(c, ":")
		host := "api.test"
		if strings.Contains(c, "client_certificate") {
			host = "mutual.test"
		}
		fmt.Fprintf(&head, "  %s\n", c)
		fmt.Fprintf(&routes, "  - {name: %s, host: \"%s:%s\", access: read-write, paths: [/%[1]s/**], credential: %[1]s}\n", name, host, st.up.port)
	}
	return "version: 1\nrole: tester\ncredentials:\n" + head.String() + "routes:\n" + routes.String()
}

// Lines for policy.
const (
	databaseCredential = `db: {from: {vault: {path: database/creds/reader, field: password, user_field: username}}, inject: {basic: {}}}`
	keyValueCredential = `kv: {from: {vault: {path: secret/data/agents/tester, field: api_key, max_age: 5s}}, inject: {bearer: {}}}`
)

// url is that of a path at the upstream.
func (st *realStage) url(path string) string { return "https://api.test:" + st.up.port + path }

// serve starts a process of the binary.
func (st *realStage) serve(t *testing.T, config, policy string) *served {
	t.Helper()
	return startServe(t, realSidekey(t), config, policy, "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
}

// realSidekey returns the binary: that of this test under the name by which TestMain makes it be
// sidekey.
func realSidekey(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("sidekey")
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// gone waits until Vault holds neither leases nor tokens, but for the root's. Vault revokes what
// hangs on a token within 250 ms, after it has answered.
func (st *realStage) gone(t *testing.T) {
	t.Helper()
	realvault.Eventually(t, "leases and tokens to be gone", func() bool {
		return len(st.vault.Leases(t, "")) == 0 && len(st.vault.Tokens(t)) == 0
	})
}

// calls counts the calls by the sidecar that Vault granted, by path. Those of root are the test's.
func (st *realStage) calls(t testing.TB) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, e := range st.vault.AuditEntries(t) {
		if e.Type == "response" && e.Error == "" && e.Correlation() != "" {
			n[e.Request.Path]++
		}
	}
	return n
}

// trail returns the trail as it stands in its files.
func (s *served) trail() string {
	s.t.Helper()
	files, err := audit.Segments(filepath.Join(s.dir, "audit.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// realTrail returns the trail of a session that has ended, which must be intact and whole.
func realTrail(t testing.TB, sv *served) []audit.Entry {
	t.Helper()
	text := sv.trail()
	sum, err := audit.Verify(strings.NewReader(text))
	if err != nil || sum.TornTail || len(sum.Sessions) != 1 {
		t.Errorf("the trail is not one whole session: %+v, %v", sum, err)
	} else if s := sum.Sessions[0]; !s.Ended || s.Indeterminate != 0 {
		t.Errorf("the session has not ended, or %d requests have no outcome", s.Indeterminate)
	}
	var entries []audit.Entry
	for line := range strings.Lines(text) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// entriesOf returns those about an event.
func entriesOf(trail []audit.Entry, event audit.Event) (found []audit.Entry) {
	for _, e := range trail {
		if e.Event == event {
			found = append(found, e)
		}
	}
	return found
}

// wantEnded checks that serve ends as it should on SIGTERM, having given up all that it held, and
// returns the trail.
func wantEnded(t testing.TB, sv *served) []audit.Entry {
	t.Helper()
	if err := sv.stop(); err != nil {
		t.Errorf("serve: %v\n%s", err, sv.stderr.String())
	}
	trail := realTrail(t, sv)
	for _, e := range entriesOf(trail, audit.SessionEnded) {
		if len(e.Unrevoked) > 0 || e.Error != "" {
			t.Errorf("session.ended: unrevoked %v, error %q", e.Unrevoked, e.Error)
		}
	}
	return trail
}
