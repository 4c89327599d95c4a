package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// canaries are the secrets of a story, by what they are. Their values begin and end with bytes that
// encodings change.
type canaries struct {
	mu sync.Mutex
	of map[string]string
}

func newCanary() string { return "+/" + rand.Text() + "=~" }

func (c *canaries) set(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]string{}
	}
	c.of[name] = value
}

// forms are the encodings in which a canary is looked for: what every form of the whole value holds.
func forms(value string) map[string]string {
	core := strings.Trim(value, "+/=~")
	var percent strings.Builder
	for i := range len(core) {
		fmt.Fprintf(&percent, "%%%02x", core[i])
	}
	found := map[string]string{
		"raw": core, "lower case": strings.ToLower(core), "hex": hex.EncodeToString([]byte(core)),
		"HEX": strings.ToUpper(hex.EncodeToString([]byte(core))), "percent": percent.String(), "PERCENT": strings.ToUpper(percent.String()),
	}
	for skip := range 3 { // the middle is the same whatever stands around, at three alignments
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, skip), core...))
		found[fmt.Sprint("base64 at ", skip)] = text[4 : len(text)-4]
	}
	return found
}

// find lists the canaries that are in text, and in which form.
func (c *canaries) find(text []byte) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, value := range c.of {
		for form, needle := range forms(value) {
			if bytes.Contains(text, []byte(needle)) {
				found = append(found, name+" in "+form)
			}
		}
	}
	slices.Sort(found)
	return found
}

// findBelow looks through the names and contents of all files below dirs.
func (c *canaries) findBelow(t *testing.T, dirs ...string) (found []string) {
	t.Helper()
	files := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			for _, hit := range c.find(append([]byte(path+"\n"), text...)) {
				found = append(found, path+": "+hit)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Fatalf("no files below %q", dirs)
	}
	return found
}

// TestCanarySearch holds that TestCanary can fail: each form is found wherever it stands.
func TestCanarySearch(t *testing.T) {
	value := newCanary()
	var c canaries
	c.set("planted", value)
	if found := c.find([]byte("nothing of " + newCanary())); len(found) > 0 {
		t.Errorf("found %q where nothing is", found)
	}
	for i, text := range []string{
		value, strings.ToLower(value), url.QueryEscape(value), url.PathEscape(value),
		base64.StdEncoding.EncodeToString([]byte("x-access-token:" + value)), base64.URLEncoding.EncodeToString([]byte("bot:" + value)),
		base64.StdEncoding.EncodeToString([]byte(value)), hex.EncodeToString([]byte(value)), fmt.Sprintf("%X", value),
		forms(value)["percent"], fmt.Sprintf("%q", value),
	} {
		if len(c.find([]byte("before"+text+"after"))) == 0 {
			t.Errorf("form %d is not found: %q", i, text)
		}
	}
}

const canaryPolicy = `version: 1
role: tester
credentials:
  kv:
    from: {vault: {path: secret/data/agents/tester/api, field: api_key, max_age: 1h}}
    inject: {bearer: {}}
  dynamic:
    from: {vault: {path: github/token/tester, field: token}}
    inject: {basic: {user: x-access-token}}
  denied:
    from: {vault: {path: secret/data/agents/tester/denied, field: api_key, max_age: 1h}}
    inject: {bearer: {}}
    prefetch: false
  env:
    from: {env: {name: API_KEY}}
    inject: {header: {name: X-Api-Key}}
  query:
    from: {env: {name: API_KEY}}
    inject: {query: {name: key}}
routes:
  - {name: kv, host: "api.test:PORT", access: read-write, paths: ["/kv/**"], credential: kv, correlate: true, log: path}
  - {name: dynamic, host: "api.test:PORT", access: read-write, paths: ["/dynamic/**"], credential: dynamic, correlate: true, log: path}
  - {name: denied, host: "api.test:PORT", access: read-only, paths: ["/denied/**"], credential: denied}
  - {name: env, host: "api.test:PORT", access: read-only, paths: ["/env/**"], credential: env, correlate: true, log: path}
  - {name: query, host: "api.test:PORT", access: read-only, paths: ["/query/**"], credential: query, correlate: true, log: path}
  - {name: closed, host: "closed.test:1", access: read-only, paths: ["/**"], credential: query, correlate: true, log: path}
  - {name: untrusted, host: "untrusted.test:UNTRUSTED", access: read-only, paths: ["/**"], credential: kv}
`

const canaryConfig = `vault:
  address: VAULT
  auth: {method: approle, mount: approle, role_id: tester-role-id, secret_id_file: SECRETID}
upstream:
  allow_cidrs: [127.0.0.1/32]
  resolve: {api.test: 127.0.0.1, closed.test: 127.0.0.1, untrusted.test: 127.0.0.1}
  ca_file: CAFILE
audit: {path: audit.jsonl}
admin: admin.sock
log_level: debug
`

// TestCanary holds I10 for the whole binary: after sessions with everything that can go wrong, no
// secret is in what the agent got, the output, the trail, the metrics, the process's environment and
// command line, or a file.
func TestCanary(t *testing.T) {
	c := &canaries{}
	st := newCanaryStage(t, c)
	binary := buildSidekey(t)
	sv := startServe(t, binary, st.config, st.policy, st.environ...)
	var agent lockedBuffer
	for _, h2 := range []bool{false, true} {
		st.attack(t, sv.client(), h2, &agent)
	}
	st.vault.FailNext(500, 503, 403)
	st.ask(t, sv.client(), false, &agent, "GET", "https://"+st.api+"/denied/2")

	search := func(where string, text []byte) {
		t.Helper()
		if len(text) == 0 {
			t.Errorf("%s: there is nothing to look through", where)
		}
		for _, hit := range c.find(text) {
			t.Errorf("%s: %s", where, hit)
		}
	}
	search("what the agent got", []byte(agent.String()))
	resp, err := http.Get("http://" + sv.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	search("metrics", metrics)
	for _, args := range [][]string{{"status", "--json=false"}, {"status", "--json"}, {"session", "kill"}, {"session", "resume"}, {"session", "end"}, {"status", "--json"}} {
		out, err := exec.Command(binary, append(args, "--admin", filepath.Join(sv.dir, "admin.sock"))...).CombinedOutput()
		if err != nil && args[1] != "end" { // Vault may still fail, so that not all can be revoked
			t.Errorf("sidekey %q: %v\n%s", args, err, out)
		}
		search(fmt.Sprintf("sidekey %q", args), out)
	}
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", sv.cmd.Process.Pid, name))
		if err != nil {
			t.Logf("/proc/PID/%s cannot be read by this user, as it should be: %v", name, err)
			continue
		}
		for _, hit := range c.find(text) {
			t.Errorf("/proc/PID/%s of serve: %s", name, hit)
		}
	}
	if err := sv.stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
	search("standard error of serve", []byte(sv.stderr.String()))
	for _, hit := range c.find([]byte(sv.stdout.String())) {
		t.Errorf("standard output of serve: %s", hit)
	}
	session := st.runSession(t, binary)
	search("output of run", session)
	st.check(t, sv, agent.String(), string(session))
	for _, hit := range c.findBelow(t, sv.dir, st.state) {
		t.Error(hit)
	}
	sv.write("planted", "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("bot:"+c.of["kv"])))
	if hits := c.findBelow(t, sv.dir, st.state); len(hits) != 1 {
		t.Errorf("found %q of what was planted, want one hit", hits)
	}
}
