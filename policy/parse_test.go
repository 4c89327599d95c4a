package policy_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sidekey/sidekey/policy"
)

// mustParse parses a policy that a test needs.
func mustParse(t testing.TB, src string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// files reads the files that pattern names; a test over none of them would prove nothing.
func files(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	m := map[string][]byte{}
	for _, name := range names {
		if m[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

var update = flag.Bool("update", false, "rewrite the mistakes that the files under testdata want")

// TestParseMistakes: each *.bad.yaml says at its foot which mistakes it has: all of them, in
// order, as "# want: LINE:COLUMN part of 'path: message; hint'". With -update the file is rewritten.
func TestParseMistakes(t *testing.T) {
	for name, src := range files(t, "testdata/*.bad.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			var want []string
			for line := range strings.Lines(string(src)) {
				if w, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSpace(w))
				}
			}
			p, err := policy.Parse("p.yaml", src)
			var got policy.Mistakes
			if !errors.As(err, &got) || p != nil {
				t.Fatalf("Parse: policy %v, error %v", p, err)
			}
			if *update {
				rewrite(t, name, src, got)
				return
			}
			for i, m := range got {
				line := oneLine(m)
				if i >= len(want) {
					t.Errorf("unexpected: %s", line)
					continue
				}
				place, words, _ := strings.Cut(want[i], " ")
				if m.Where != "p.yaml:"+place || !strings.Contains(line, words) {
					t.Errorf("got  %s\nwant %s", line, want[i])
				}
			}
			for _, w := range want[min(len(got), len(want)):] {
				t.Errorf("missing: %s", w)
			}
		})
	}
}

// rewrite replaces what the file name wants by got.
func rewrite(t *testing.T, name string, src []byte, got policy.Mistakes) {
	t.Helper()
	text, _, _ := strings.Cut(string(src), "\n# want: ")
	text = strings.TrimRight(text, "\n") + "\n\n"
	for _, m := range got {
		text += "# want: " + oneLine(m) + "\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func oneLine(m policy.Mistake) string {
	line := strings.TrimPrefix(m.Where, "p.yaml:") + " "
	if m.Path != "" {
		line += m.Path + ": "
	}
	line += m.Msg
	if m.Hint != "" {
		line += "; " + m.Hint
	}
	return line
}

func TestParseFull(t *testing.T) {
	src := files(t, "testdata/full.good.yaml")["testdata/full.good.yaml"]
	p, err := policy.Parse("full.yaml", src)
	if err != nil {
		t.Fatal(err)
	}
	if p.Role() != "full" || p.Mode() != policy.Report || p.Description() != "every key of the grammar,\nat least once\n" || len(p.SHA256()) != 64 {
		t.Errorf("got role %q, mode %v, description %q, SHA-256 %q", p.Role(), p.Mode(), p.Description(), p.SHA256())
	}
	wantCredentials := []policy.Credential{
		{"vault", policy.From{Vault: &policy.VaultFrom{Path: "secret/data/x", Field: "password", UserField: "user", MaxAge: time.Hour}}, policy.Inject{Basic: &policy.BasicInject{}}, true, "full.yaml:11:3"},
		{"oidc", policy.From{Vault: &policy.VaultFrom{Path: "identity/oidc/token/full", Field: "token"}}, policy.Inject{Bearer: &policy.BearerInject{}}, true, "full.yaml:14:3"},
		{"file", policy.From{File: &policy.FileFrom{"/run/x", 90 * time.Second}}, policy.Inject{Header: &policy.HeaderInject{"X-Api-Key", "Key "}}, true, "full.yaml:17:3"},
		{"exec", policy.From{Exec: &policy.ExecFrom{[]string{"gh", "auth", "token", ""}, 90 * time.Minute, 500 * time.Millisecond}}, policy.Inject{Query: &policy.QueryInject{"api_key"}}, true, "full.yaml:20:3"},
		{"env", policy.From{Env: &policy.EnvFrom{"TOKEN"}}, policy.Inject{Basic: &policy.BasicInject{"bot"}}, true, "full.yaml:23:3"},
	}
	if diff := cmp.Diff(p.Credentials(), wantCredentials); diff != "" {
		t.Errorf("credentials (-got +want)\n%s", diff)
	}
	readWrite := []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
	all := []string{"/**"}
	wantRoutes := []*policy.Route{
		{Name: "vault", Scheme: "https", Host: "api.example.com", Port: 443, Methods: []string{"GET", "HEAD", "OPTIONS"}, Paths: []string{"/", "/user", "/repos/{owner}/*/**", "/**/x/", "/%c3%a4"}, Credential: "vault", Reason: "shows everything", WebSocket: true, Limits: policy.Limits{Rate: policy.Rate{N: 30, Per: time.Minute}, Body: 64 << 10, Response: 10 << 20, Concurrency: 4, Timeout: 30 * time.Second, Budget: policy.Budget{Requests: 1000, Bytes: 100 << 20}}, Mode: policy.Report, Where: "full.yaml:27:5"},
		{Name: "oidc", Scheme: "https", Host: "*.example.com", Port: 8443, Methods: []string{"GET", "M-SEARCH", "MKCOL"}, Paths: all, Credential: "oidc", Where: "full.yaml:36:5"},
		{Name: "file", Scheme: "https", Host: "2001:db8::1", Port: 443, Methods: readWrite, Paths: all, Credential: "file", Where: "full.yaml:37:5"},
		{Name: "exec", Scheme: "https", Host: "192.0.2.1", Port: 8443, Methods: readWrite, Paths: all, Credential: "exec", Where: "full.yaml:38:5"},
		{Name: "env", Scheme: "https", Host: "127.0.0.1", Port: 8443, Methods: readWrite, Paths: all, Credential: "env", ReplaySafe: true, Where: "full.yaml:39:5"},
		{Name: "plain", Scheme: "http", Host: "internal.example", Port: 8080, Methods: readWrite, Paths: all, Correlate: true, LogPath: true, Where: "full.yaml:40:5"},
		{Name: "encoded", Scheme: "https", Host: "s3.example", Port: 443, Methods: []string{"GET", "HEAD", "OPTIONS"}, Paths: []string{"/b%2Fc/%2520/**"}, AllowEncodedSlash: true, AllowEncodedPercent: true, Where: "full.yaml:41:5"},
		{Name: "minting", Scheme: "https", Host: "api.github.com", Port: 443, Methods: readWrite, Paths: []string{"/app/**"}, Credential: "env", AllowMinting: true, WebSocket: true, Outlive: true, Where: "full.yaml:42:5"},
		{Name: "tunnel", Scheme: "https", Host: "*.pinned.example", Port: 8443, Tunnel: true, Reason: "the client pins its certificate", Where: "full.yaml:43:5"},
		{Name: "matches", Scheme: "https", Host: "m.example.com", Port: 443, Methods: []string{"PUT"}, Paths: []string{"/x"}, Query: map[string][]string{"state": {"open"}, "a b": {"c", "d"}}, Headers: map[string][]string{"X-Run": {"a", "b"}}, ContentTypes: []string{"application/xml"}, When: `now < timestamp("2027-01-01T00:00:00Z")`, Where: "full.yaml:44:5"},
		{Name: "grpc", Scheme: "https", Host: "m.example.com", Port: 443, Methods: []string{"POST"}, Paths: []string{"/acme.v1.Builds/GetBuild"}, GRPC: &policy.GRPC{Service: "acme.v1.Builds", Methods: []string{"GetBuild"}}, Where: "full.yaml:45:5"},
		{Name: "graphql", Scheme: "https", Host: "m.example.com", Port: 443, Methods: []string{"POST"}, Paths: []string{"/graphql"}, GraphQL: &policy.GraphQL{Type: "mutation", Operations: []string{"addComment", "addReaction"}}, Where: "full.yaml:46:5"},
	}
	for _, r := range wantRoutes {
		if !r.Tunnel {
			r.Mode = policy.Report // the file's
		}
	}
	if got, want := p.Budget(), (policy.Budget{Requests: 5000, Bytes: 1 << 30}); got != want {
		t.Errorf("budget: got %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(p.Routes(), wantRoutes, cmpopts.IgnoreUnexported(policy.Route{})); diff != "" {
		t.Errorf("routes (-got +want)\n%s", diff)
	}
}

func TestParseDefaults(t *testing.T) {
	p := mustParse(t, `
version: 1
role: a
credentials:
  file: {from: {file: {path: x}}, inject: {bearer: {}}}
  exec: {from: {exec: {command: [x]}}, inject: {bearer: {}}}
routes:
  - {name: a, host: a.example.com, access: read-only, paths: [/x], credential: file}
  - {name: b, host: b.example.com, access: read-only, paths: [/x], credential: exec}
`)
	cs := p.Credentials()
	if p.Mode() != policy.Enforce || cs[0].From.File.MaxAge != 5*time.Minute || cs[1].From.Exec.MaxAge != 5*time.Minute || cs[1].From.Exec.Timeout != 10*time.Second {
		t.Errorf("got mode %v, file %+v, exec %+v", p.Mode(), *cs[0].From.File, *cs[1].From.Exec)
	}
}

func TestModeString(t *testing.T) {
	if got, want := fmt.Sprint(policy.Mode(0), policy.Enforce, policy.Report), "invalid enforce report"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestValidMethod(t *testing.T) {
	for _, m := range []string{"GET", "POST", "M-SEARCH", "VERSION-CONTROL", "X_Y", "A1"} {
		if !policy.ValidMethod(m) {
			t.Errorf("%q is not valid", m)
		}
	}
	for _, m := range []string{"", "get", "Get", "GET ", "GET x", "TRACE", "TRACK", "CONNECT", "DEBUG", "PRI", "*", "-A", "1A", "GÉT", "A\x00", strings.Repeat("A", 33)} {
		if policy.ValidMethod(m) {
			t.Errorf("%q is valid", m)
		}
	}
}

// FuzzParse: whatever the file holds, Parse ends, and each mistake points into the file.
func FuzzParse(f *testing.F) {
	for _, src := range files(f, "testdata/*.yaml") {
		f.Add(string(src))
	}
	f.Add("---") // the parser has the missing value on line 2
	f.Fuzz(func(t *testing.T, src string) {
		p, err := policy.Parse("p", []byte(src))
		if err == nil {
			p.RunTests()
			return
		}
		var ms policy.Mistakes
		if !errors.As(err, &ms) || len(ms) == 0 {
			t.Fatalf("error is %T with %d mistakes", err, len(ms))
		}
		lines := strings.Split(src, "\n")
		for _, m := range ms {
			var line, column int
			if _, err := fmt.Sscanf(m.Where, "p:%d:%d", &line, &column); err != nil {
				t.Fatalf("%q is no place: %v", m.Where, err)
			}
			if line < 1 || line > len(lines) || column < 1 || column > len([]rune(lines[line-1]))+1 {
				t.Fatalf("%q is not in the file %q", m.Where, src)
			}
		}
	})
}
