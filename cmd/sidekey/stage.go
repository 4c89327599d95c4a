package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

const (
	demoTTL         = time.Second // of an issuance
	demoTokenPrefix = "demo-token-"
	demoName        = "api.demo.test"
	demoPolicy      = `version: 1
role: pr-reviewer
description: reads pull requests of acme/*
credentials:
  github:
    from: {vault: {path: github/token/pr-reviewer, field: token}}
    inject: {bearer: {}}
routes:
  - name: github-read
    host: %s
    access: read-only
    paths: [/user, /repos/acme/**]
    credential: github
`
)

func demoToken(n int) string { return fmt.Sprintf("%s%d", demoTokenPrefix, n) }

// A stage holds the demo's parties.
type stage struct {
	dir          string
	auditPath    string
	vault        *vaulttest.Server
	tokensBefore int
	upstream     *demoUpstream
	sidecar      *sidecar
	cancel       context.CancelFunc
	stopped      chan error
	agentName    string
	environ      []string
	firstIssued  time.Time
	read         int // bytes of the trail that were shown
}

func newStage(ctx context.Context, p process, dir string) (_ *stage, err error) {
	s := &stage{dir: dir, auditPath: filepath.Join(dir, "audit.jsonl"), stopped: make(chan error, 1), cancel: func() {}}
	if s.vault, err = vaulttest.New(vaulttest.Config{}); err != nil {
		return nil, err
	}
	secretID := "demo-secret-id"
	s.vault.AddAppRole("approle", "pr-reviewer", secretID, time.Minute)
	s.vault.AddDynamic("github/token/pr-reviewer", demoTTL, func(n int) map[string]string {
		if n == 1 {
			s.firstIssued = time.Now()
		}
		return map[string]string{"token": demoToken(n)}
	})
	s.tokensBefore = s.vault.LiveTokens()
	if s.upstream, err = newDemoUpstream(filepath.Join(dir, "upstream-ca.crt")); err != nil {
		s.vault.Close()
		return nil, err
	}
	cfg, err := s.config(secretID)
	if err == nil {
		err = s.start(ctx, cfg, p)
	}
	if err != nil {
		s.vault.Close()
		s.upstream.close()
		return nil, err
	}
	s.environ, _ = scrub(p.environ, nil, agentEnv(s.sidecar.url(), dir))
	s.agentName = "curl"
	if _, err := exec.LookPath("curl"); err != nil {
		s.agentName = "sidekey demo-agent"
	}
	return s, nil
}

// config writes the files that a real configuration would name. The SecretID is the sidecar's,
// not the agent's, and is removed when the sidecar has logged in.
func (s *stage) config(secretID string) (*config.Config, error) {
	policyFile, secretFile := filepath.Join(s.dir, "policy.yaml"), filepath.Join(s.dir, "secret-id")
	err := errors.Join(
		os.WriteFile(policyFile, fmt.Appendf(nil, demoPolicy, s.host()), 0o600),
		os.WriteFile(secretFile, []byte(secretID), 0o600),
	)
	loopback := netip.MustParseAddr("127.0.0.1")
	return &config.Config{
		Role: "pr-reviewer", Policy: policyFile, Listen: "127.0.0.1:0", CADir: s.dir, LogLevel: "error",
		Session: config.Session{RequestedBy: "you", TTL: time.Hour},
		Vault: &config.Vault{Address: s.vault.URL(), Auth: config.Auth{
			Method: "approle", RoleID: "pr-reviewer", SecretIDFile: secretFile,
		}},
		Upstream: config.Upstream{
			AllowCIDRs: []netip.Prefix{netip.PrefixFrom(loopback, 32)},
			Resolve:    map[string]netip.Addr{demoName: loopback},
			CAFile:     filepath.Join(s.dir, "upstream-ca.crt"),
		},
		Audit: config.Audit{Path: s.auditPath}, DrainGrace: 2 * time.Second,
	}, err
}

func (s *stage) start(ctx context.Context, cfg *config.Config, p process) error {
	log, err := newLogger(p.stderr, cfg.LogLevel)
	if err != nil {
		return err
	}
	setup, err := prepare(cfg, p, log)
	if err != nil {
		return err
	}
	if s.sidecar, err = newSidecar(setup, log); err != nil {
		return err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() { s.stopped <- s.sidecar.run(ctx) }()
	select {
	case <-s.sidecar.ready:
		return os.Remove(filepath.Join(s.dir, "secret-id"))
	case err := <-s.stopped:
		s.stopped <- err
		return err
	}
}

func (s *stage) host() string           { return demoName + ":" + s.upstream.port }
func (s *stage) url(path string) string { return "https://" + s.host() + path }

// stop ends the session and waits for it. It can be called again.
func (s *stage) stop() error {
	s.cancel()
	err := <-s.stopped
	s.stopped <- err
	return err
}

func (s *stage) close() {
	s.stop()
	s.upstream.close()
	s.vault.Close()
}

// answer is what the agent got.
type answer struct {
	command string
	status  string
	all     string // everything that it could see
	body    []string
}

func (a *answer) view() view {
	lines := append([]string{"$ " + a.command, "HTTP " + a.status}, a.body...)
	return view{"agent", lines}
}

// agent runs the agent as a child process for one request.
func (s *stage) agent(ctx context.Context, method, url string) (*answer, error) {
	args := []string{"curl", "-q", "-sS", "-i", "-X", method, url}
	shown := "curl -i -X " + method + " " + url
	if method == "GET" {
		args = []string{"curl", "-q", "-sS", "-i", url}
		shown = "curl -i " + url
	}
	if s.agentName != "curl" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args = []string{self, "demo-agent", method, url}
		shown = "sidekey demo-agent " + method + " " + url
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = s.environ
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %v: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	a := &answer{command: shown, all: string(out) + stderr.String() + strings.Join(s.environ, "\n")}
	return a, a.parse(out)
}

// parse reads the last of the responses that curl -i prints; the first is the proxy's to CONNECT.
func (a *answer) parse(out []byte) error {
	br := bufio.NewReader(bytes.NewReader(out))
	for {
		if _, err := br.Peek(1); err != nil {
			return nil
		}
		head, err := br.ReadString('\n')
		if err != nil {
			return fmt.Errorf("unreadable answer: %v", err)
		}
		if f := strings.Fields(head); len(f) >= 2 && strings.HasPrefix(f[0], "HTTP/") {
			a.status, a.body = f[1], nil
			for line := head; strings.TrimSpace(line) != "" && err == nil; {
				line, err = br.ReadString('\n')
			}
			continue
		}
		a.body = append(a.body, strings.TrimRight(head, "\r\n"))
	}
}

// newRecords returns the lines of the trail since the last call, made short.
func (s *stage) newRecords() []string {
	text, err := os.ReadFile(s.auditPath)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for line := range bytes.Lines(text[s.read:]) {
		out = append(out, shortRecord(line))
	}
	s.read = len(text)
	return out
}

// shortRecord shows the members of a record that tell the story.
func shortRecord(line []byte) string {
	var r struct {
		Seq, Status, Intent                                            int
		Event, Method, Host, Path, Route, Credential, Issuance, Reason string
		Source                                                         struct{ Path string }
	}
	if json.Unmarshal(line, &r) != nil {
		return string(line)
	}
	b := fmt.Sprintf("#%-2d %-18s", r.Seq, r.Event)
	for _, kv := range []struct{ key, value string }{
		{"", strings.TrimSpace(r.Method + " " + r.Host + r.Path)}, {"route", r.Route}, {"credential", r.Credential}, {"issuance", r.Issuance},
		{"from", r.Source.Path}, {"reason", r.Reason},
	} {
		if kv.value == "" {
			continue
		}
		if kv.key == "issuance" {
			kv.value = kv.value[:min(8, len(kv.value))]
		}
		if kv.key != "" {
			kv.key += "="
		}
		b += " " + kv.key + kv.value
	}
	if r.Intent != 0 {
		b += fmt.Sprintf(" intent=#%d", r.Intent)
	}
	if r.Status != 0 {
		b += fmt.Sprintf(" status=%d", r.Status)
	}
	return b
}

// verifyTrail checks the chain of a trail and says what it covers.
func verifyTrail(text []byte) ([]string, error) {
	sum, err := audit.Verify(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, ses := range sum.Sessions {
		lines = append(lines,
			fmt.Sprintf("%d records of session %s in one hash chain, head %.16s", ses.Records, ses.ID, ses.Head),
			fmt.Sprintf("%d intents, %d outcomes, %d denials, none missing", ses.Intents, ses.Outcomes, ses.Denied))
		if ses.Indeterminate != 0 || !ses.Ended {
			return lines, fmt.Errorf("%d intents without an outcome, session ended: %v", ses.Indeterminate, ses.Ended)
		}
	}
	if len(sum.Sessions) != 1 || sum.TornTail {
		return lines, errors.New("the trail is not one whole session")
	}
	return lines, nil
}

// A demoUpstream is a TLS server that answers with what it got, but for the credential.
type demoUpstream struct {
	port string
	srv  *http.Server

	mu  sync.Mutex
	got []string
}

func newDemoUpstream(caFile string) (*demoUpstream, error) {
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(caFile, ca.CertificatePEM(), 0o644); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &demoUpstream{}
	_, u.port, _ = net.SplitHostPort(ln.Addr().String())
	u.srv = &http.Server{
		Handler: u, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) },
		},
	}
	go u.srv.ServeTLS(ln, "", "")
	return u, nil
}

func (u *demoUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.got = append(u.got, r.Method+" "+r.RequestURI+" "+r.Proto, "Host: "+r.Host)
	if auth := r.Header.Get("Authorization"); auth != "" {
		u.got = append(u.got, "Authorization: "+auth)
	}
	u.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `[{"number": 7, "title": "Fix the build", "state": "open"}]`+"\n")
}

// take returns what came since the last call.
func (u *demoUpstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	got := u.got
	u.got = nil
	return got
}

func (u *demoUpstream) close() { u.srv.Close() }

// newDemoAgent is the agent of the demo where there is no curl: one request, as any Go program
// would make it.
func newDemoAgent(p process) *cobra.Command {
	return &cobra.Command{
		Use: "demo-agent METHOD URL", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := http.NewRequestWithContext(cmd.Context(), args[0], args[1], nil)
			if err != nil {
				return mistake(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return failed(err)
			}
			defer resp.Body.Close()
			fmt.Fprintf(p.stdout, "%s %s\n\n", resp.Proto, resp.Status)
			_, err = io.Copy(p.stdout, resp.Body)
			return failed(err)
		},
	}
}
