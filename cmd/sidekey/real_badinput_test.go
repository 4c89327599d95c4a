package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekey/sidekey/internal/realvault"
)

// A badLogin is a section vault of the config that Vault, or what Sidekey makes of its answer,
// refuses.
type badLogin struct {
	name string
	auth string
	more string   // a further line of the section
	says []string // what standard error has of it
}

// A badSource is where a credential does not come from.
type badSource struct {
	name string
	from string // from.vault, without its braces
	says []string
}

// badLogins sets Vault up and returns them.
func badLogins(t *testing.T, st *realStage) []badLogin {
	t.Helper()
	cluster := realvault.StartCluster(t)
	role := tokenRole("5m")
	maps.Copy(role, map[string]any{
		"bound_service_account_names": []string{"tester"}, "bound_service_account_namespaces": []string{"agents"}, "audience": "vault",
	})
	st.vault.KubernetesRole(t, cluster, "tester", role)
	issuer := realvault.NewIssuer(t)
	role = tokenRole("5m")
	role["bound_audiences"] = []string{"vault"}
	st.vault.JWTRole(t, issuer, "tester", role)
	roleID, secretID := st.vault.AppRole(t, "tester", tokenRole("5m"))

	used := st.vault.WrappedSecretID(t, "tester", "60s")
	st.vault.Must(t, "POST", "sys/wrapping/unwrap", used, nil)
	expired := st.vault.WrappedSecretID(t, "tester", "1s")
	realvault.Eventually(t, "the wrapping token to expire", func() bool {
		status, _ := st.vault.Call(t, "POST", "sys/wrapping/lookup", "", map[string]any{"token": expired})
		return status != http.StatusOK
	})
	other := st.vault.Wrapped(t, "sys/wrapping/wrap", "60s", map[string]any{"secret_id": secretID})

	token := func(method, role, name, value string) string {
		return fmt.Sprintf("{method: %s, role: %s, token_file: %q}", method, role, st.file(t, name, value))
	}
	approle := func(id, name, value, more string) string {
		return fmt.Sprintf("{method: approle, role_id: %q, secret_id_file: %q%s}", id, st.file(t, name, value), more)
	}
	wrapped := func(name, value string) string { return approle(roleID, name, value, ", secret_id_wrapped: true") }
	account := func(namespace, name string, audience string) string {
		return cluster.ServiceAccountToken(t, namespace, name, audience)
	}
	claims := func(audience string) string {
		return issuer.Sign(t, map[string]any{"sub": "pod-1", "aud": audience})
	}
	const intercepted = "has expired or was used already: possibly intercepted"
	return []badLogin{
		{"kubernetes, no such role", token("kubernetes", "nobody", "k1", account("agents", "tester", "vault")), "",
			[]string{"auth/kubernetes/login: status 400", "there is no role auth/kubernetes/role/nobody"}},
		{"kubernetes, another audience", token("kubernetes", "tester", "k2", account("agents", "tester", "other")), "",
			[]string{"auth/kubernetes/login: status 403", "k2 was not accepted: compare its audience", "auth/kubernetes/role/tester"}},
		{"kubernetes, another service account", token("kubernetes", "tester", "k3", account("agents", "intruder", "vault")), "",
			[]string{"auth/kubernetes/login: status 403", "bound_service_account_names"}},
		{"kubernetes, another namespace", token("kubernetes", "tester", "k4", account("intruders", "tester", "vault")), "",
			[]string{"auth/kubernetes/login: status 403", "bound_service_account_namespaces"}},
		{"jwt, no such role", token("jwt", "nobody", "j1", claims("vault")), "",
			[]string{"auth/jwt/login: status 400", "there is no role auth/jwt/role/nobody"}},
		{"jwt, another audience", token("jwt", "tester", "j2", claims("other")), "",
			[]string{"auth/jwt/login: status 400", "compare the token's aud", "bound_audiences"}},
		{"no such method", token("jwt, mount: nowhere", "tester", "j3", claims("vault")), "",
			[]string{"auth/nowhere/login: status 403", "no such auth method is mounted there"}},
		{"approle, another role id", approle("none", "a1", secretID, ""), "",
			[]string{"auth/approle/login: status 400", "the role id or the SecretID is wrong"}},
		{"approle, another SecretID", approle(roleID, "a2", "none", ""), "",
			[]string{"auth/approle/login: status 400", "the role id or the SecretID is wrong"}},
		{"wrapping token, used", wrapped("w1", used), "", []string{"look up the wrapping token", "w1 " + intercepted, "destroy that SecretID"}},
		{"wrapping token, expired", wrapped("w2", expired), "", []string{"look up the wrapping token", "w2 " + intercepted, "if its TTL is not over"}},
		{"wrapping token, another's", wrapped("w3", other), "", []string{`w3 was made at "sys/wrapping/wrap", not at auth/approle/role/ROLE/secret-id`}},
		{"no child token", approle(roleID, "a3", secretID, ""), "session_token_role: sidekey-session",
			[]string{"make the session's token with role sidekey-session: status 403", `path "auth/token/create/sidekey-session" { capabilities = ["update"] }`}},
	}
}

// badSources sets Vault up and returns them.
func badSources(t *testing.T, st *realStage) []badSource {
	t.Helper()
	st.allow(t, "secret/data/agents/*", "read")
	st.allow(t, "nowhere/*", "read")
	st.allow(t, "aws/creds/*", "read")
	st.allow(t, "aws/roles/user", "read", "update")
	st.vault.AWSRoles(t, realvault.StartAWS(t))
	st.vault.KV(t, "others/secret", map[string]any{"api_key": newCanary()})
	st.vault.KV(t, "agents/gone", map[string]any{"api_key": newCanary()})
	st.vault.Must(t, "DELETE", "secret/data/agents/gone", st.vault.RootToken, nil)
	value := newCanary()
	st.vault.KV(t, "agents/tester", map[string]any{
		"api_key": value, "empty": "", "newline": "\r\n", "crlf": value + "\r\nX-Evil: 1", "lf": value + "\nsecond", "nul": value + "\x00",
		"delete": value + "\x7f", "invisible": value + "\u200b", "binary": value + "\ufffd", "object": map[string]any{"value": value}, "null": nil, "bool": true,
	})
	field := func(name string) string {
		return fmt.Sprintf("path: secret/data/agents/tester, max_age: 1h, field: %s", name)
	}
	const read = "read secret/data/agents/tester: "
	return []badSource{
		{"no such path", "path: secret/data/agents/none, max_age: 1h, field: x", []string{"secret/data/agents/none: status 404", "there is nothing at the path"}},
		{"no such engine", "path: nowhere/x, field: x", []string{"nowhere/x: status 404", "KV version 2 is read at MOUNT/data/..."}},
		{"no data in the path", "path: secret/agents/tester, field: api_key", []string{"secret/agents/tester: status 403", `path "secret/agents/tester" { capabilities = ["read"] }`}},
		{"deleted version", "path: secret/data/agents/gone, max_age: 1h, field: api_key", []string{"secret/data/agents/gone: ", "version 1 is deleted"}},
		{"no such field", field("token"), []string{read + `there is no field "token", only "api_key", "binary"`}},
		{"empty", field("empty"), []string{read + `field "empty" is empty`}},
		{"a newline only", field("newline"), []string{read + `field "newline" is empty`}},
		{"CR and LF", field("crlf"), []string{read + `field "crlf" holds control characters or several lines`}},
		{"LF", field("lf"), []string{read + `field "lf" holds control characters or several lines`}},
		{"NUL", field("nul"), []string{read + `field "nul" holds control characters or several lines`}},
		{"DEL", field("delete"), []string{read + `field "delete" holds control characters or several lines`}},
		{"a zero width space", field("invisible"), []string{read + `field "invisible" holds characters that are not printable`}},
		{"no text", field("binary"), []string{read + `field "binary" holds characters that are not printable`}},
		{"an object", field("object"), []string{read + `field "object" is neither a string nor a number`}},
		{"null", field(`"null"`), []string{read + `field "null" is neither a string nor a number`}},
		{"a truth value", field("bool"), []string{read + `field "bool" is neither a string nor a number`}},
		{"read not permitted", "path: secret/data/others/secret, max_age: 1h, field: api_key",
			[]string{"secret/data/others/secret: status 403", `the session's Vault policy needs path "secret/data/others/secret" { capabilities = ["read"] }`}},
		{"write not permitted", "path: aws/sts/assumed, method: write, field: secret_key",
			[]string{"write aws/sts/assumed: status 403", `path "aws/sts/assumed" { capabilities = ["update"] }`}},
		{"no such role of the engine", "path: aws/creds/none, field: secret_key", []string{"read aws/creds/none: status 400", "the role or key that the path ends in may not exist"}},
		{"a path that gives nothing", "path: aws/roles/user, method: write, data: {credential_type: iam_user, policy_arns: ['arn:aws:iam::aws:policy/x']}, field: x",
			[]string{"write aws/roles/user: "}},
	}
}

// An ended is what became of a process that ended by itself.
type ended struct {
	status int
	stderr string
	trail  []byte
}

// startRefused runs serve until it ends by itself.
func startRefused(binary, dir, config, policy string) (e ended, err error) {
	head := fmt.Sprintf("role: tester\npolicy: policy.yaml\nlisten: 127.0.0.1:0\nops: off\nca: {dir: %q}\n", dir)
	for name, text := range map[string]string{"config.yaml": head + config, "policy.yaml": policy} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return e, err
		}
	}
	var stderr bytes.Buffer
	cmd := exec.Command(binary, "serve", "--config", "config.yaml")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, []string{"PATH=" + os.Getenv("PATH")}, &stderr
	end := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	err = cmd.Run()
	end.Stop()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok && err != nil {
		return e, err
	}
	trail, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	return ended{cmd.ProcessState.ExitCode(), stderr.String(), trail}, err
}

// TestRealVaultBadInput: what is wrong with the login or with a credential that is obtained at the
// start ends the process with a reason and what to look at.
func TestRealVaultBadInput(t *testing.T) {
	t.Parallel()
	st := newRealStage(t, realvault.Options{})
	logins, sources := badLogins(t, st), badSources(t, st)
	good := st.approle(t, "5m")
	type start struct {
		name, config, policy, begins string
		says                         []string
	}
	var starts []start
	for _, l := range logins {
		starts = append(starts, start{"login/" + l.name, st.config(t, l.auth, l.more), st.policy(keyValueCredential), "sidekey: log in to Vault: vault: ", l.says})
	}
	for _, s := range sources {
		c := "bad: {from: {vault: {" + s.from + "}}, inject: {bearer: {}}}"
		starts = append(starts, start{"source/" + s.name, st.config(t, good), st.policy(c), `sidekey: credential "bad": vault: `, s.says})
	}
	binary, results := realSidekey(t), make([]ended, len(starts))
	var g errgroup.Group
	g.SetLimit(4)
	for i, s := range starts {
		dir := t.TempDir()
		g.Go(func() (err error) {
			results[i], err = startRefused(binary, dir, s.config, s.policy)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, s := range starts {
		t.Run(s.name, func(t *testing.T) {
			wantRefused(t, results[i], s.begins, s.says)
		})
	}
	another, err := os.ReadFile(filepath.Join(st.files, "w3"))
	if err != nil {
		t.Fatal(err)
	}
	st.vault.Must(t, "POST", "sys/wrapping/unwrap", string(another), nil) // it was not used up
	st.gone(t)
}

func wantRefused(t *testing.T, e ended, begins string, says []string) {
	t.Helper()
	var last string // the words for people come after the log
	for line := range strings.Lines(e.stderr) {
		if strings.HasPrefix(line, begins) {
			last = line
		}
	}
	if e.status != exitFailed || last == "" {
		t.Errorf("exit status %d, want 1 and a line that begins with %q:\n%s", e.status, begins, e.stderr)
	}
	for _, s := range says {
		if !strings.Contains(last, s) {
			t.Errorf("it does not say %q:\n%s", s, last)
		}
	}
	if !bytes.Contains(e.trail, []byte(`"event":"session.ended"`)) || bytes.Contains(e.trail, []byte(`"event":"credential.issued"`)) {
		t.Errorf("the trail has no end, or an issuance:\n%s", e.trail)
	}
	if bytes.Contains(e.trail, []byte("hvs.")) || strings.Contains(e.stderr, "hvs.") || strings.Contains(e.stderr, "+/") {
		t.Error("a secret is in the trail or on standard error")
	}
}

// TestRealVaultBadInputLater: the same where the credential is obtained only when a request needs it,
// or turns bad during the session: the request is refused, and reaches no upstream.
func TestRealVaultBadInputLater(t *testing.T) {
	t.Parallel()
	st := newRealStage(t, realvault.Options{})
	sources := badSources(t, st)
	good := newCanary()
	turning := map[string]string{"turned": "agents/turned", "denied": "turncoats/denied"}
	st.allow(t, "secret/data/agents/*", "read")
	before := strings.Join(st.rules, "\n")
	st.allow(t, "secret/data/turncoats/*", "read")
	var lines []string
	for name, path := range turning {
		st.vault.KV(t, path, map[string]any{"api_key": good})
		st.up.check(name, valueCheck(good))
		lines = append(lines, fmt.Sprintf("%s: {from: {vault: {path: secret/data/%s, field: api_key, max_age: 2s}}, inject: {bearer: {}}}", name, path))
	}
	for i, s := range sources {
		lines = append(lines, fmt.Sprintf("bad-%d: {from: {vault: {%s}}, inject: {bearer: {}}, prefetch: false}", i, s.from))
	}
	sv := st.serve(t, st.config(t, st.approle(t, "5m")), st.policy(lines...))
	client, done, err := sv.client().http()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	ask := func(name string) (status int) {
		t.Helper()
		resp, err := client.Get(st.url("/" + name + "/x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		retry, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		refused := resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Sidekey-Refusal") == "credential_unavailable" && retry > 0
		if resp.StatusCode != http.StatusOK && !refused {
			t.Fatalf("%s: status %s, refusal %q, Retry-After %d", name, resp.Status, resp.Header.Get("Sidekey-Refusal"), retry)
		}
		return resp.StatusCode
	}
	for i, s := range sources {
		name := fmt.Sprintf("bad-%d", i)
		if ask(name) == http.StatusOK || st.up.times("GET", "/"+name+"/x") != 0 {
			t.Errorf("%s: the request was let through", s.name)
		}
		wantLogged(t, sv, name, s.says)
	}
	for name := range turning {
		if ask(name) != http.StatusOK {
			t.Errorf("%s: refused while it is good", name)
		}
	}
	st.vault.KV(t, turning["turned"], map[string]any{"api_key": good + "\r\nX-Evil: 1"})
	st.vault.Policy(t, "tester", before)
	for name := range turning {
		if !poll(func() bool { return ask(name) != http.StatusOK }) {
			t.Errorf("%s: never refused", name)
		}
		accepted, refused := st.up.counts(name)
		if sent := st.up.times("GET", "/"+name+"/x"); refused != 0 || accepted != sent {
			t.Errorf("%s: the upstream let in %d and refused %d of %d", name, accepted, refused, sent)
		}
	}
	wantLogged(t, sv, "turned", []string{`field "api_key" holds control characters or several lines`})
	wantLogged(t, sv, "denied", []string{"status 403", `path "secret/data/turncoats/denied" { capabilities = ["read"] }`})
	st.vault.KV(t, turning["turned"], map[string]any{"api_key": good})
	if !poll(func() bool { return ask("turned") == http.StatusOK }) {
		t.Error("turned: never good again")
	}
	wantEnded(t, sv)
	if strings.Contains(sv.stderr.String(), good) {
		t.Error("the log holds the credential")
	}
	st.gone(t)
}

// wantLogged holds that the log says, if only in a moment, why a credential is not to be had.
func wantLogged(t *testing.T, sv *served, name string, says []string) {
	t.Helper()
	for _, want := range says {
		want = strings.Trim(strconv.Quote(want), `"`)
		if !poll(func() bool {
			for line := range strings.Lines(sv.stderr.String()) {
				if strings.Contains(line, fmt.Sprintf(`"credential":%q`, name)) && strings.Contains(line, want) {
					return true
				}
			}
			return false
		}) {
			t.Errorf("%s: the log does not say %s", name, want)
		}
	}
}
