package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

const clientsPolicy = `version: 1
role: tester
credentials:
  api:
    from: {env: {name: API_KEY}}
    inject: {bearer: {}}
  git:
    from: {env: {name: API_KEY}}
    inject: {basic: {user: x-access-token}}
routes:
  - {name: read, host: "api.test:PORT", access: read-only, paths: [/echo, "/bytes/*"], credential: api}
  - {name: upload, host: "api.test:PORT", methods: [POST, PUT], paths: [/upload], credential: api}
  - {name: git-refs, host: "api.test:PORT", methods: [GET], paths: ["/git/*/info/refs"], credential: git}
  - {name: git-fetch, host: "api.test:PORT", methods: [POST], paths: ["/git/*/git-upload-pack"], credential: git}
  - {name: git-push, host: "api.test:PORT", methods: [POST], paths: [/git/writable/git-receive-pack], credential: git}
`

const clientsConfig = `role: tester
upstream: {allow_cidrs: [127.0.0.1/32], resolve: {api.test: 127.0.0.1}, ca_file: DIR/upstream.crt}
`

// A bench holds what the clients need: the built binary, an upstream, and a directory.
type bench struct {
	dir    string
	binary string
	canary string
	up     *upstream
	base   string // https://api.test:PORT
}

// TestClients drives real clients through `sidekey run`. It takes some seconds and programs that a
// machine may not have, so it runs only where SIDEKEY_CLIENTS is set, as `make test-clients` does.
func TestClients(t *testing.T) {
	if os.Getenv("SIDEKEY_CLIENTS") == "" {
		t.Skip("SIDEKEY_CLIENTS is not set: run make test-clients")
	}
	b := newBench(t)
	t.Run("curl", b.curl)
	t.Run("git", b.testGit)
	t.Run("python", b.python)
	t.Run("node", b.node)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), canary: "canary-" + rand.Text()}
	b.binary = filepath.Join(b.dir, "sidekey")
	if out, err := exec.Command("go", "build", "-o", b.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var err error
	if b.up, err = newUpstream(b.canary); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.up.close)
	b.base = "https://api.test:" + port(b.up.tls)
	b.write(t, "upstream.crt", string(b.up.ca.CertificatePEM()))
	b.write(t, "config.yaml", strings.ReplaceAll(clientsConfig, "DIR", b.dir))
	b.write(t, "policy.yaml", strings.ReplaceAll(clientsPolicy, "PORT", port(b.up.tls)))
	return b
}

func (b *bench) write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(b.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// need skips the test where program is not installed.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: run tools/install-clients.sh", program)
	}
}

// run runs command as an agent in a session of its own, and returns its output and whether it
// succeeded. The output must not hold the credential.
func (b *bench) run(t *testing.T, command ...string) (output string, ok bool) {
	t.Helper()
	args := append([]string{"run", "--quiet", "--config", filepath.Join(b.dir, "config.yaml"),
		"--policy", filepath.Join(b.dir, "policy.yaml"), "--audit", filepath.Join(b.dir, "audit.jsonl"), "--"}, command...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Dir = b.dir
	cmd.Env = append(b.env(), "API_KEY="+b.canary)
	// A group of its own, so that the end of patience is the end of the client's children too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte(b.canary)) {
		t.Errorf("%s: the output holds the credential", command[0])
	}
	return string(out), err == nil
}

// env is an environment in which no setting of the user counts.
func (b *bench) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
}

// want runs command, which must succeed, and looks for patterns in its output.
func (b *bench) want(t *testing.T, success bool, command []string, patterns ...string) {
	t.Helper()
	out, ok := b.run(t, command...)
	if ok != success {
		t.Errorf("%q: success is %t\n%s", command, ok, out)
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
			t.Errorf("%q: no match for %q in\n%s", command, pattern, out)
		}
	}
}

func (b *bench) curl(t *testing.T) {
	need(t, "curl")
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	sum := sha256.Sum256(body)
	file := b.write(t, "body", string(body))
	uploaded := fmt.Sprintf("^size=%d sha256=%s$", len(body), hex.EncodeToString(sum[:]))
	bearer := `"Authorization": "` + digest("Bearer "+b.canary)
	for option, version := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
		curl := func(args ...string) []string {
			return append([]string{"curl", "-sS", option, "-w", "\\nstatus=%{http_code} version=%{http_version}\\n"}, args...)
		}
		end := func(status string) string { return "^status=" + status + " version=" + regexp.QuoteMeta(version) + "$" }
		t.Run(option, func(t *testing.T) {
			b.want(t, true, curl(b.base+"/echo"), end("200"), bearer)
			b.want(t, true, curl("-H", "Authorization: Bearer mine", b.base+"/echo"), end("200"), bearer)
			b.want(t, true, curl("-o", "/dev/null", b.base+"/bytes/5000000"), end("200"))
			b.want(t, true, curl("-T", file, b.base+"/upload"), end("200"), uploaded)
			b.want(t, true, curl("--data-binary", "@"+file, "-H", "Expect: 100-continue", b.base+"/upload"), end("200"), uploaded)
			b.want(t, true, curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@"+file, b.base+"/upload"), end("200"), uploaded)
			b.want(t, true, curl("-i", "-X", "DELETE", b.base+"/echo"), end("403"), `(?i)^sidekey-refusal: method_not_allowed\r$`)
			b.want(t, true, curl("-i", "https://evil.test/"), end("403"), `(?i)^sidekey-refusal: host_not_allowed\r$`)
			b.want(t, false, curl("--fail", "https://evil.test/"), end("403"))
		})
	}
}

// testGit clones and pushes over smart HTTP. Both repositories want the credential as a password, and
// both let it push: what is read-only is so by the policy.
func (b *bench) testGit(t *testing.T) {
	need(t, "git")
	b.up.git = b.gitBackend(t)
	for _, repo := range []string{"writable", "readonly"} {
		url := b.base + "/git/" + repo
		b.want(t, true, []string{"git", "clone", url, repo + "-clone"})
		if got, err := os.ReadFile(filepath.Join(b.dir, repo+"-clone", "big")); err != nil || len(got) != 3<<20 {
			t.Errorf("the clone has %d bytes in big (%v), want %d", len(got), err, 3<<20)
		}
	}
	// A push that does not fit into http.postBuffer goes over HTTP/1.1: of git 2.39 with libcurl 7.88
	// (Debian 12) one in ten hangs over HTTP/2, also straight to a net/http server.
	push := func(repo, version string) []string {
		return []string{"git", "-c", "http.version=" + version, "-C", repo + "-clone", "push", "origin", "HEAD:main"}
	}
	for _, size := range []int{1000, 3 << 20} {
		version := map[bool]string{true: "HTTP/1.1", false: "HTTP/2"}[size > 1<<20]
		for _, repo := range []string{"writable", "readonly"} {
			b.commit(t, filepath.Join(b.dir, repo+"-clone"), fmt.Sprintf("more-%d", size), size)
		}
		b.want(t, true, push("writable", version))
		b.want(t, false, push("readonly", version), `403`)
	}
	for repo, commits := range map[string]string{"writable": "3", "readonly": "1"} {
		got := b.git(t, filepath.Join(b.dir, "repos", repo), "rev-list", "--count", "main")
		if got != commits {
			t.Errorf("%s has %s commits, want %s", repo, got, commits)
		}
	}
	b.want(t, false, []string{"git", "clone", b.base + "/other/writable", "other"}, `403`)
}

// git runs git aside of Sidekey and returns its output, trimmed.
func (b *bench) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Env = b.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit adds a file of size bytes that do not compress.
func (b *bench) commit(t *testing.T, dir, name string, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	b.git(t, dir, "add", name)
	b.git(t, dir, "commit", "-q", "-m", name)
}

// gitBackend makes the repositories and returns what serves them.
func (b *bench) gitBackend(t *testing.T) http.Handler {
	t.Helper()
	seed := filepath.Join(b.dir, "seed")
	b.git(t, b.dir, "init", "-q", "-b", "main", seed)
	b.commit(t, seed, "big", 3<<20)
	for _, repo := range []string{"writable", "readonly"} {
		bare := filepath.Join(b.dir, "repos", repo)
		b.git(t, b.dir, "clone", "-q", "--bare", seed, bare)
		b.git(t, bare, "config", "http.receivepack", "true")
	}
	backend := &cgi.Handler{
		Path: filepath.Join(b.git(t, b.dir, "--exec-path"), "git-http-backend"),
		Root: "/git",
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Join(b.dir, "repos"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1"},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "x-access-token" || password != b.canary {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	})
}

func (b *bench) python(t *testing.T) {
	need(t, "python3")
	// What is first in PATH may be a script that wants the user's own home directory.
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatal(err)
	}
	python := strings.TrimSpace(string(out))
	bearer := `"Authorization": "` + digest("Bearer "+b.canary)
	t.Run("urllib", func(t *testing.T) {
		script := b.write(t, "urllib_client.py", `import sys, urllib.error, urllib.request
print(urllib.request.urlopen(sys.argv[1] + "/echo").read().decode())
try:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/echo", method="DELETE"))
except urllib.error.HTTPError as e:
    print("refused", e.code, e.headers["Sidekey-Refusal"])
`)
		b.want(t, true, []string{python, script, b.base}, bearer, "^refused 403 method_not_allowed$")
	})
	t.Run("requests", func(t *testing.T) {
		if exec.Command(python, "-c", "import requests").Run() != nil {
			t.Skip("Python's requests is not installed")
		}
		script := b.write(t, "requests_client.py", `import requests, sys
print(requests.get(sys.argv[1] + "/echo").text)
r = requests.delete(sys.argv[1] + "/echo")
print("refused", r.status_code, r.json()["reason"])
print(requests.put(sys.argv[1] + "/upload", data=iter([b"he", b"llo"])).text)
`)
		b.want(t, true, []string{python, script, b.base}, bearer, "^refused 403 method_not_allowed$", "^size=5 ")
	})
}

func (b *bench) node(t *testing.T) {
	need(t, "node")
	patterns := []string{`"Authorization": "` + digest("Bearer "+b.canary), "^refused 403 method_not_allowed$"}
	t.Run("tunnel", func(t *testing.T) {
		script := b.write(t, "tunnel.js", `const http = require("http"), https = require("https"), tls = require("tls")
const base = new URL(process.argv[2]), proxy = new URL(process.env.HTTPS_PROXY)
function call(method, done) {
  const connect = http.request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path: base.host })
  connect.on("connect", (_, socket) => {
    const createConnection = () => tls.connect({ socket, servername: base.hostname })
    https.request({ createConnection, host: base.hostname, port: base.port, path: "/echo", method }, async (r) => {
      const chunks = await r.toArray()
      socket.destroy()
      done(r, Buffer.concat(chunks).toString())
    }).end()
  })
  connect.end()
}
call("GET", (_, text) => {
  console.log(text)
  call("DELETE", (r, text) => console.log("refused", r.statusCode, JSON.parse(text).reason))
})
`)
		b.want(t, true, []string{"node", script, b.base}, patterns...)
	})
	t.Run("fetch", func(t *testing.T) {
		if exec.Command("node", "-e", `process.exit(process.allowedNodeEnvironmentFlags.has("--use-env-proxy") ? 0 : 1)`).Run() != nil {
			t.Skip("this node is too old to take a proxy from the environment (22.21 and 24.5 can)")
		}
		script := b.write(t, "fetch.mjs", `const base = process.argv[2]
console.log(await (await fetch(base + "/echo")).text())
const r = await fetch(base + "/echo", { method: "DELETE" })
console.log("refused", r.status, (await r.json()).reason)
`)
		b.want(t, true, []string{"node", script, b.base}, patterns...)
	})
}
