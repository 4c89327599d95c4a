package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

func TestAgentEnv(t *testing.T) {
	const (
		url    = "http://127.0.0.1:4711"
		direct = "127.0.0.1,localhost,::1"
		ca     = "/run/ca/ca.crt"
		bundle = "/run/ca/bundle.crt"
	)
	want := map[string]string{
		"HTTP_PROXY": url, "HTTPS_PROXY": url, "ALL_PROXY": url, "NO_PROXY": direct,
		"http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": direct,
		"NODE_USE_ENV_PROXY":               "1",
		"NODE_EXTRA_CA_CERTS":              ca, // adds to what Node trusts
		"DENO_CERT":                        ca, // so does this
		"SSL_CERT_FILE":                    bundle,
		"REQUESTS_CA_BUNDLE":               bundle,
		"CURL_CA_BUNDLE":                   bundle,
		"GIT_SSL_CAINFO":                   bundle,
		"AWS_CA_BUNDLE":                    bundle,
		"PIP_CERT":                         bundle,
		"CARGO_HTTP_CAINFO":                bundle,
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": bundle,
		"UV_NATIVE_TLS":                    "1",
	}
	vs := agentEnv(url, "/run/ca")
	got := map[string]string{}
	for _, v := range vs {
		got[v.Name] = v.Value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if len(got) != len(vs) {
		t.Errorf("%d variables have %d names", len(vs), len(got))
	}
	for _, v := range vs {
		if looksLikeCredential(v.Name, v.Value) {
			t.Errorf("%s=%s looks like a credential: a session inside a session would lose it", v.Name, v.Value)
		}
	}
}

// Each format gives every value back to those who read that format.
func TestEnvFormats(t *testing.T) {
	vs := []variable{
		{"PLAIN", "http://127.0.0.1:3128"}, {"EMPTY", ""}, {"SPACE", " a b "}, {"QUOTES", `it's "x"`},
		{"DOLLAR", "$HOME `id` \\n"}, {"LATIN", "für"}, {"COLON", "a: {b}, #c"}, {"LINES", "a\nb"},
	}
	for format, parse := range map[string]func(*testing.T, string) []variable{
		"sh": parseSh, "json": parseJSON, "kube": parseKube,
	} {
		t.Run(format, func(t *testing.T) {
			text, err := envFormats[format](vs)
			if err != nil {
				t.Fatal(err)
			}
			sorted := cmpopts.SortSlices(func(a, b variable) bool { return a.Name < b.Name })
			if diff := cmp.Diff(vs, parse(t, text), sorted); diff != "" {
				t.Errorf("what a reader of %s gets (-want +got):\n%s", format, diff)
			}
		})
	}
}

func TestDotenv(t *testing.T) {
	got, err := envFormats["dotenv"]([]variable{{"A", "http://127.0.0.1:3128"}, {"B", "/run/x"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "A=http://127.0.0.1:3128\nB=/run/x\n"; got != want {
		t.Errorf("dotenv: %q, want %q", got, want)
	}
}

// parseSh lets a shell take text in and say what each variable is then.
func parseSh(t *testing.T, text string) (vs []variable) {
	t.Helper()
	const names = "PLAIN EMPTY SPACE QUOTES DOLLAR LATIN COLON LINES"
	cmd := exec.Command("/bin/sh", "-c", `eval "$1"; for n in $2; do eval "printf '%s\0' \"\$$n\""; done`, "sh", text, names)
	cmd.Env = []string{"HOME=/expanded"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	values := strings.SplitAfter(string(out), "\x00")
	for i, name := range strings.Fields(names) {
		vs = append(vs, variable{name, strings.TrimSuffix(values[i], "\x00")})
	}
	return vs
}

func parseJSON(t *testing.T, text string) (vs []variable) {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	for name, value := range m {
		vs = append(vs, variable{name, value})
	}
	return vs
}

func parseKube(t *testing.T, text string) []variable {
	t.Helper()
	var container struct{ Env []variable }
	if err := yaml.Unmarshal([]byte(text), &container); err != nil {
		t.Fatal(err)
	}
	return container.Env
}

func TestShellQuote(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"http://127.0.0.1:3128", "http://127.0.0.1:3128"},
		{"127.0.0.1,localhost,::1", "127.0.0.1,localhost,::1"},
		{"a_b-C.9", "a_b-C.9"},
		{"", "''"},
		{"~", "'~'"},
		{"a b", "'a b'"},
		{"it's", `'it'\''s'`},
		{"'", `''\'''`},
		{"a=b", "'a=b'"},
		{"für", "'für'"},
	} {
		if got := shellQuote(tc.in); got != tc.want {
			t.Errorf("shellQuote(%q) = %s, want %s", tc.in, got, tc.want)
		}
	}
}

// A word comes out of a shell as it went in, whatever is in it. All go through one shell, which
// prints each with a NUL behind it: the one byte that no word can have.
func TestShellQuoteRoundTrip(t *testing.T) {
	words := []string{
		"", " ", "a b", "it's", "''", `\\`, `\'`, "$HOME", "${HOME}", "$(id)", "`id`", "a;b", "a&&b", "a|b", "a>b", "<a",
		"[a]", "{a,b}", "~root", "#a", "!!", "-n", "-e", "--", "a\nb", "a\n\n", "für", "日本", "\xff\xfe",
	}
	for b := 1; b < 256; b++ {
		one := string([]byte{byte(b)})
		words = append(words, one, "a"+one+"z")
	}
	var script strings.Builder
	for _, w := range words {
		script.WriteString(`printf '%s\0' ` + shellQuote(w) + "\n")
	}
	cmd := exec.Command("/bin/sh")
	cmd.Stdin = strings.NewReader(script.String())
	cmd.Env = []string{"LC_ALL=C", "HOME=/expanded"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(words, strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")); diff != "" {
		t.Errorf("words (-in +out):\n%s", diff)
	}
}
