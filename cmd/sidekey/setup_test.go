package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
)

const smallPolicy = `version: 1
role: tester
routes:
  - {name: a, host: api.example.com, access: read-only, paths: [/a]}
`

// inTempDir makes a directory with the given files, enters it, and returns it.
func inTempDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// withRoots is an environment in which the system's roots are found whatever the system.
func withRoots(t *testing.T) environment {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "roots.crt")
	if err := os.WriteFile(path, ca.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return environment{"SSL_CERT_FILE=" + path}
}

func TestPrepare(t *testing.T) {
	dir := inTempDir(t, map[string]string{"policies/tester.yaml": smallPolicy})
	cfg := &config.Config{Role: "tester", Policy: "policies", CADir: dir, Audit: config.Audit{Path: "audit.jsonl"}, Session: config.Session{ID: "s-1"}}
	s, err := prepare(cfg, process{environ: withRoots(t)}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.sink.Close()
	for _, c := range s.bound.credentials {
		defer c.cache.Close(t.Context())
	}
	if want := filepath.Join("policies", "tester.yaml"); s.policyFile != want {
		t.Errorf("policy file %q, want %q", s.policyFile, want)
	}
	if s.policy.Role() != "tester" || s.ca == nil || s.bound == nil || s.vault != nil {
		t.Errorf("setup for role %q: CA %v, bound %v, Vault %v", s.policy.Role(), s.ca, s.bound, s.vault)
	}
	if !strings.HasPrefix(s.session.ID, "s-1.") || s.session.Role != "tester" {
		t.Errorf("session %+v, want s-1 for tester", s.session)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the CA directory has %v (%v); want what was there and audit.jsonl", entries, err)
	}
}

// Everything that is wrong is told at once, and nothing is made.
func TestPrepareMistakes(t *testing.T) {
	files := map[string]string{
		"good.yaml":        smallPolicy,
		"failing.yaml":     smallPolicy + "tests:\n  - {request: GET https://api.example.com/b, expect: allow}\n",
		"bad.yaml":         strings.Replace(smallPolicy, "paths", "path", 1),
		"dir/other.yaml":   smallPolicy,
		"empty":            "",
		"text":             "no certificate",
		"ca/.keep":         "",
		"vault-token-file": "x\n",
	}
	with := func(change func(*config.Config)) *config.Config {
		cfg := &config.Config{Role: "tester", Policy: "good.yaml", CADir: "ca", Audit: config.Audit{Path: "audit.jsonl"}}
		change(cfg)
		return cfg
	}
	token := func(path string) *config.Vault {
		return &config.Vault{Address: "http://127.0.0.1:8200", Auth: config.Auth{Method: "token", TokenFile: path}}
	}
	for _, tc := range []struct {
		name string
		cfg  *config.Config
		want []string // beginnings of the lines
	}{
		{"no policy", with(func(c *config.Config) { c.Policy = "none.yaml" }), []string{"config: policy: read policy: open none.yaml: no such file"}},
		{"not in the directory", with(func(c *config.Config) { c.Policy = "dir" }), []string{"config: policy: read policy: open dir/tester.yaml: no such file"}},
		{"another role", with(func(c *config.Config) { c.Role = "ops" }), []string{`config: role: the process is for role "ops" and good.yaml is for role "tester"`}},
		{"a test fails", with(func(c *config.Config) { c.Policy = "failing.yaml" }), []string{"failing.yaml:6:5: tests: "}},
		{"mistakes in the policy", with(func(c *config.Config) { c.Policy = "bad.yaml" }), []string{"bad.yaml:4:57: routes[0].path: unknown key"}},
		{"no CA directory", with(func(c *config.Config) { c.CADir = "none" }), []string{"config: ca.dir: stat none: no such file"}},
		{"a file for a CA directory", with(func(c *config.Config) { c.CADir = "text" }), []string{"config: ca.dir: text is not a directory"}},
		{"no audit directory", with(func(c *config.Config) { c.Audit.Path = "none/audit.jsonl" }), []string{"config: audit.path: open the audit trail: open none/audit.jsonl: no such file"}},
		{"no token file", with(func(c *config.Config) { c.Vault = token("none") }), []string{"config: vault.auth.token_file: open none: no such file"}},
		{"an empty token file", with(func(c *config.Config) { c.Vault = token("empty") }), []string{"config: vault.auth.token_file: empty is empty"}},
		{"a directory for a token file", with(func(c *config.Config) { c.Vault = token("dir") }), []string{"config: vault.auth.token_file: dir is a directory"}},
		{"no CA file for Vault", with(func(c *config.Config) { c.Vault = token("vault-token-file"); c.Vault.CAFile = "none" }), []string{"config: vault.ca_file: open none: no such file"}},
		{"no roots for upstreams", with(func(c *config.Config) { c.Upstream.CAFile = "none" }), []string{"config: upstream.ca_file: open none: no such file"}},
		{"no certificate in them", with(func(c *config.Config) { c.Upstream.CAFile = "text" }), []string{"config: upstream.ca_file: text holds no PEM certificate"}},
		{"all at once", &config.Config{Role: "ops", Policy: "failing.yaml", CADir: "none", Vault: token("empty"), Upstream: config.Upstream{CAFile: "text"}, Audit: config.Audit{Path: "audit.jsonl"}}, []string{
			"config: role: ", "failing.yaml:6:5: tests: ", "config: ca.dir: ", "config: vault.auth.token_file: ", "config: upstream.ca_file: ",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inTempDir(t, files)
			s, err := prepare(tc.cfg, process{environ: withRoots(t)}, zerolog.Nop())
			if s != nil {
				t.Fatal("prepare returned a setup")
			}
			if got := exitStatus(err, &bytes.Buffer{}); got != exitMistake {
				t.Errorf("exit status %d, want %d", got, exitMistake)
			}
			got := mistakeLines(t, err)
			if len(got) != len(tc.want) {
				t.Fatalf("%d mistakes, want %d:\n%s", len(got), len(tc.want), strings.Join(got, "\n"))
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("mistake %q, want %q", got[i], want)
				}
			}
			if _, err := os.Stat("audit.jsonl"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the audit trail was opened: %v", err)
			}
		})
	}
}

// The system's roots are among what is checked.
func TestPrepareWithoutRoots(t *testing.T) {
	inTempDir(t, map[string]string{"good.yaml": smallPolicy})
	cfg := &config.Config{Role: "tester", Policy: "good.yaml", CADir: ".", Audit: config.Audit{Path: "audit.jsonl"}}
	_, err := prepare(cfg, process{environ: environment{"SSL_CERT_FILE=none.crt"}}, zerolog.Nop())
	if got := mistakeLines(t, err); len(got) != 1 || !strings.Contains(got[0], "none.crt") {
		t.Errorf("mistakes %q, want one that names none.crt", got)
	}
}

func TestProtectedAddresses(t *testing.T) {
	for _, tc := range []struct {
		name, vault string
		env         environment
		want        []string
	}{
		{"nothing", "", nil, nil},
		{"Vault", "https://192.0.2.1:8200", nil, []string{"192.0.2.1:8200"}},
		{"Vault at https's port", "https://192.0.2.1", nil, []string{"192.0.2.1:443"}},
		{"Vault at http's port", "http://127.0.0.1", nil, []string{"127.0.0.1:80"}},
		{"Vault at IPv6", "https://[2001:db8::1]:8200", nil, []string{"[2001:db8::1]:8200"}},
		{"Vault at mapped IPv4", "https://[::ffff:192.0.2.1]:8200", nil, []string{"192.0.2.1:8200"}},
		{"the Kubernetes API", "", environment{"KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBERNETES_SERVICE_PORT=443"}, []string{"10.0.0.1:443"}},
		{"no port", "", environment{"KUBERNETES_SERVICE_HOST=10.0.0.1"}, nil},
		{"both", "https://192.0.2.1:8200", environment{"KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBERNETES_SERVICE_PORT=6443"}, []string{"10.0.0.1:6443", "192.0.2.1:8200"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := &config.Config{}
			if tc.vault != "" {
				cfg.Vault = &config.Vault{Address: tc.vault}
			}
			got := newProtected(cfg, tc.env).addrs
			if len(got) != len(tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
			for _, want := range tc.want {
				if !got[netip.MustParseAddrPort(want)] {
					t.Errorf("%v, want %s in it", got, want)
				}
			}
		})
	}
}

func TestAddressesOf(t *testing.T) {
	pol := parsePolicy(t, `
routes:
  - {name: a, host: a.example.com, access: read-only, paths: [/a]}
  - {name: b, host: "192.0.2.1:8443", access: read-only, paths: [/b]}
  - {name: c, host: "https://[2001:db8::1]", access: read-only, paths: [/c]}
  - {name: d, host: "http://192.0.2.2", access: read-only, paths: [/d]}
`)
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	if diff := cmp.Diff(want, addressesOf(pol), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

// Before the trail is open nothing can be issued.
func TestLateRecorder(t *testing.T) {
	var l lateRecorder
	if err := l.Issued(&credential.Issuance{Credential: "a"}); err == nil {
		t.Error("an issuance was accepted without a trail")
	}
	l.Revoked(&credential.Issuance{Credential: "a"}, nil) // must not panic
}

func TestNewLogger(t *testing.T) {
	for _, level := range []string{"debug", "info", "warn", "error"} {
		if _, err := newLogger(&bytes.Buffer{}, level); err != nil {
			t.Errorf("%s: %v", level, err)
		}
	}
	if _, err := newLogger(&bytes.Buffer{}, "loud"); err == nil {
		t.Error("loud is a level")
	}
}
