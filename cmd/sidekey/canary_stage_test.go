package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// A canaryStage is what stands around the sidecar: Vault, upstreams, and directories.
type canaryStage struct {
	c       *canaries
	vault   *vaulttest.Server
	api     string // host:port, of what the CA file vouches for
	other   string // host:port, of what it does not
	config  string
	policy  string
	state   string // directories for temporary and state files, and the home
	environ []string

	mu   sync.Mutex
	seen map[string]bool // what reached the upstream, so that the story is known to have happened
}

func newCanaryStage(t *testing.T, c *canaries) *canaryStage {
	t.Helper()
	st := &canaryStage{c: c, state: t.TempDir(), seen: map[string]bool{}}
	secrets := t.TempDir() // the one place where a secret may be
	for _, name := range []string{"kv", "dynamic", "secret id", "env"} {
		c.set(name, newCanary())
	}
	var err error
	if st.vault, err = vaulttest.New(vaulttest.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.vault.Close)
	st.vault.AddAppRole("approle", "tester-role-id", c.of["secret id"], time.Hour)
	st.vault.PutKV("secret/data/agents/tester/api", map[string]any{"api_key": c.of["kv"]})
	st.vault.Deny("secret/data/agents/tester/denied")
	dynamic := c.of["dynamic"]
	st.vault.AddDynamic("github/token/tester", time.Hour, func(int) map[string]string { return map[string]string{"token": dynamic} })
	secretID := filepath.Join(secrets, "secret-id")
	if err := os.WriteFile(secretID, []byte(c.of["secret id"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trusted, untrusted := st.upstream(t), st.upstream(t)
	st.api, st.other = "api.test:"+trusted.port, "untrusted.test:"+untrusted.port
	caFile := filepath.Join(secrets, "upstream.crt")
	if err := os.WriteFile(caFile, trusted.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	st.config = strings.NewReplacer("VAULT", st.tapVault(t), "SECRETID", secretID, "CAFILE", caFile).Replace(canaryConfig)
	st.policy = strings.NewReplacer("UNTRUSTED", untrusted.port, "PORT", trusted.port).Replace(canaryPolicy)
	st.environ = []string{"API_KEY=" + c.of["env"], "TMPDIR=" + st.state, "HOME=" + st.state, "XDG_STATE_HOME=" + st.state, "PATH=" + os.Getenv("PATH")}
	return st
}

// tapVault stands before Vault and takes every token that it hands out for a canary. It returns its
// URL.
func (st *canaryStage) tapVault(t *testing.T) string {
	t.Helper()
	to, err := url.Parse(st.vault.URL())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			var reply struct {
				Auth struct {
					Token string `json:"client_token"`
				} `json:"auth"`
			}
			if json.Unmarshal(body, &reply) == nil && reply.Auth.Token != "" {
				st.c.set("token "+rand.Text()[:4], reply.Auth.Token)
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	srv := &http.Server{Handler: tap}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return "http://" + ln.Addr().String()
}

type canaryUpstream struct {
	port string
	ca   []byte // PEM
}

// upstream starts a server that hands back what it is sent.
func (st *canaryStage) upstream(t *testing.T) canaryUpstream {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:   http.HandlerFunc(st.reflect),
		TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) }},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return canaryUpstream{port(ln), ca.CertificatePEM()}
}

// reflect answers with the credential in the header, the body and the trailer, in the encodings that
// docs/security.md says are masked, or breaks off.
func (st *canaryStage) reflect(w http.ResponseWriter, r *http.Request) {
	secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, password, ok := r.BasicAuth(); ok {
		secret = password
	}
	if key := r.Header.Get("X-Api-Key") + r.URL.Query().Get("key"); key != "" {
		secret = key
	}
	st.mu.Lock()
	for name, value := range st.c.of {
		if secret == value {
			st.seen[name] = true
		}
	}
	st.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/abort") {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h.Set("Location", "https://elsewhere.test/?key="+url.QueryEscape(secret))
	h.Set("X-Secret", secret)
	h.Set("Set-Cookie", "token="+secret)
	h.Set("Trailer", "X-Last")
	if strings.HasSuffix(r.URL.Path, "/error") {
		w.WriteHeader(http.StatusUnauthorized)
	}
	escaped, _ := json.Marshal(secret)
	fmt.Fprintf(w, "%s\n%s\n%s\n%x\n%X\n%s\n", r.Header, secret, url.QueryEscape(secret), secret, secret, escaped)
	for skip := range 3 {
		fmt.Fprintln(w, base64.StdEncoding.EncodeToString([]byte("abc"[:skip]+secret)))
	}
	h.Set("X-Last", secret)
}

// attack makes the requests of an agent that wants a secret, and keeps all that it gets in got.
func (st *canaryStage) attack(t *testing.T, client agentClient, h2 bool, got io.Writer) {
	t.Helper()
	for _, path := range []string{"/kv/1", "/kv/error", "/kv/abort", "/dynamic/1", "/dynamic/error", "/env/1", "/env/abort", "/query/1?a=b",
		"/query/abort?a=b", "/query/1?key=mine", "/denied/1", "/nowhere", "/kv/%2e%2e/x", "/kv/" + strings.Repeat("x", 70_000)} {
		st.ask(t, client, h2, got, "GET", "https://"+st.api+path)
	}
	for _, target := range []string{"https://evil.test/", "https://closed.test:1/?q=1", "https://" + st.other + "/", "http://" + st.api + "/kv/1"} {
		st.ask(t, client, h2, got, "GET", target)
	}
	st.ask(t, client, h2, got, "DELETE", "https://"+st.api+"/env/1")
}

// ask makes one request. What comes, an error included, goes to got.
func (st *canaryStage) ask(t *testing.T, client agentClient, h2 bool, got io.Writer, method, target string) {
	t.Helper()
	client.h1, client.h2 = !h2, h2
	c, done, err := client.http()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	fmt.Fprintf(got, "== %s %.100s\n", method, target)
	req, err := http.NewRequestWithContext(context.Background(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		fmt.Fprintln(got, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Fprintln(got, resp.Proto, resp.Status, resp.Header, string(body), err, resp.Trailer)
}

// runSession runs this test binary as the agent of `sidekey run` and returns all output.
func (st *canaryStage) runSession(t *testing.T, binary string) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"run.yaml": st.config[:strings.Index(st.config, "audit:")], "policy.yaml": st.policy} {
		if err := os.WriteFile(filepath.Join(st.state, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "run", "--config", "run.yaml", "--policy", "policy.yaml", "--log-level", "debug", "--",
		self, "-test.run=^TestCanaryAgent$", "-test.v")
	cmd.Dir, cmd.Env = st.state, append(slices.Clone(st.environ), "CANARY_AGENT=https://"+st.api)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("run: %v\n%s", err, out)
	}
	return out
}

// TestCanaryAgent is the agent of runSession. It prints its environment and what it gets.
func TestCanaryAgent(t *testing.T) {
	base := os.Getenv("CANARY_AGENT")
	if base == "" {
		t.Skip("this is a process that TestCanary starts")
	}
	fmt.Println(strings.Join(os.Environ(), "\n"))
	client := agentClient{proxy: os.Getenv("HTTPS_PROXY"), caFile: os.Getenv("NODE_EXTRA_CA_CERTS")}
	for _, path := range []string{"/kv/1", "/dynamic/1", "/env/1", "/query/abort?a=b", "/nowhere"} {
		(&canaryStage{}).ask(t, client, false, os.Stdout, "GET", base+path)
	}
}

// check holds that the story happened: otherwise there was nothing to find.
func (st *canaryStage) check(t *testing.T, sv *served, agent, session string) {
	t.Helper()
	for _, name := range []string{"kv", "dynamic", "env"} {
		if !st.seen[name] {
			t.Errorf("%s never reached the upstream", name)
		}
	}
	tokens := 0
	for name := range st.c.of {
		if strings.HasPrefix(name, "token ") {
			tokens++
		}
	}
	if tokens < 2 {
		t.Errorf("Vault handed out %d tokens, want one for each session at least", tokens)
	}
	trail, err := os.ReadFile(filepath.Join(sv.dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"event":"secret.reflected"`, `"event":"request.denied"`, `"reason":"credential_unavailable"`,
		`"error":"upstream_tls"`, `"error":"upstream_unreachable"`, `"event":"credential.issued"`, `"event":"credential.revoked"`, `"path_sent":"/kv/1"`, `"request_id":"`} {
		if !bytes.Contains(trail, []byte(want)) {
			t.Errorf("the trail has no %s", want)
		}
	}
	for where, text := range map[string]string{"the agent of serve": agent, "the agent of run": session} {
		for _, want := range []string{"[sidekey:redacted]", "path_not_allowed", "200 OK", "502 Bad Gateway"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s saw no %s", where, want)
			}
		}
	}
}
