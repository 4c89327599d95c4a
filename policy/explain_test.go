package policy_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

const explainYAML = `
version: 1
role: explain
routes:
  - {name: read, host: api.github.com, access: read-only, paths: [/user, "/repos/acme/**"]}
  - {name: comment, host: api.github.com, methods: [POST], paths: ["/repos/acme/{repo}/issues/{n}/comments"]}
  - {name: search, host: api.github.com, methods: [GET], paths: [/search/a, /search/b, /search/c, /search/d, /search/e]}
  - {name: llm, host: api.anthropic.com, methods: [POST], paths: [/v1/messages]}
  - {name: wild, host: "*.acme.test", access: read-only, paths: ["/**"]}
  - {name: plain, host: "http://plain.acme.test:8080", access: read-only, paths: ["/**"]}
`

func TestExplain(t *testing.T) {
	p := mustParse(t, explainYAML)
	for _, tt := range []struct {
		request string
		want    []string
	}{
		{"GET https://api.github.com/user", nil},
		{"DELETE https://api.github.com/repos/acme/app", []string{
			"read: method: DELETE is not one of GET, HEAD, OPTIONS",
			"comment: path: /repos/acme/app does not match /repos/acme/{repo}/issues/{n}/comments; method: DELETE is not POST",
			"search: path: /repos/acme/app does not match /search/a, /search/b, /search/c or 2 more; method: DELETE is not GET",
		}},
		{"GET https://api.github.com/user/", []string{
			"read: path: /user/ does not match /user or /repos/acme/** (the / at the end makes it another path)",
			"search: path: /user/ does not match /search/a, /search/b, /search/c or 2 more",
			"comment: path: /user/ does not match /repos/acme/{repo}/issues/{n}/comments; method: GET is not POST",
		}},
		{"POST https://api.anthropic.com:8443/v1/messages", []string{"llm: port: 8443 is not 443"}},
		{"POST http://api.anthropic.com/v1/messages", []string{"llm: scheme: http is not https"}},
		{"POST https://api.antropic.com/v1/messages", []string{"llm: host: api.antropic.com is not api.anthropic.com"}},
		{"POST https://anthropic.com/v1/messages", []string{"llm: host: anthropic.com is not api.anthropic.com"}},
		{"GET https://acme.test/x", []string{
			"wild: host: acme.test is not *.acme.test",
			"plain: host: acme.test is not plain.acme.test; scheme: https is not http; port: 443 is not 8080",
		}},
		{"GET https://a.b.acme.test/x", nil},
		{"GET https://evil.example/x", nil},
		{"WS GET https://x.acme.test/x", []string{"wild: websocket: the route does not have websocket: true"}},
		{"GET http://plain.acme.test/x", []string{"wild: scheme: http is not https", "plain: port: 80 is not 8080"}},
	} {
		var got []string
		for _, m := range p.Explain(request(t, tt.request)).Misses {
			got = append(got, m.Route.Name+": "+strings.Join(m.Differs, "; "))
		}
		if diff := cmp.Diff(got, tt.want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", tt.request, diff)
		}
	}
}

func TestExplainIsBoundedAndEscaped(t *testing.T) {
	r := policy.Request{Method: "GET\x1b[31m", Target: policy.Target{
		Scheme: "https", Authority: policy.Authority{Host: "h0.test", Port: 443}, Path: "/" + strings.Repeat("x", 5000),
	}}
	e := manyRoutes(10).Explain(r)
	if len(e.Misses) != 5 {
		t.Fatalf("got %d misses, want 5", len(e.Misses))
	}
	for _, m := range e.Misses {
		if s := strings.Join(m.Differs, "\n"); len(s) > 500 || strings.Contains(s, "\x1b") {
			t.Errorf("not bounded or not escaped: %q", s)
		}
	}
}

func TestRunTests(t *testing.T) {
	p := mustParse(t, explainYAML+`
tests:
  - {request: GET https://api.github.com/user, expect: allow, route: read}
  - {request: GET https://api.github.com/user, expect: allow}
  - {request: GET https://api.github.com/user, expect: allow, route: search}
  - {request: GET https://api.github.com/user, expect: deny}
  - {request: DELETE https://api.github.com/user, expect: deny}
  - {request: DELETE https://api.github.com/user, expect: deny, reason: method_not_allowed}
  - {request: DELETE https://api.github.com/user, expect: deny, reason: path_not_allowed}
  - {request: DELETE https://api.github.com/user, expect: allow}
`)
	type outcome struct {
		Where, Want, Got string
		OK               bool
	}
	want := []outcome{
		{"p.yaml:13:5", "allow by read", "allow by read", true},
		{"p.yaml:14:5", "allow", "allow by read", true},
		{"p.yaml:15:5", "allow by search", "allow by read", false},
		{"p.yaml:16:5", "deny", "allow by read", false},
		{"p.yaml:17:5", "deny", "deny: method_not_allowed", true},
		{"p.yaml:18:5", "deny: method_not_allowed", "deny: method_not_allowed", true},
		{"p.yaml:19:5", "deny: path_not_allowed", "deny: method_not_allowed", false},
		{"p.yaml:20:5", "allow", "deny: method_not_allowed", false},
	}
	var got []outcome
	for _, r := range p.RunTests() {
		got = append(got, outcome{r.Where, r.Want, r.Got, r.OK})
		if r.Explanation.Allow == strings.HasPrefix(r.Got, "deny") || !strings.HasSuffix(r.Request, "https://api.github.com/user") {
			t.Errorf("%s: got %q, explanation %+v", r.Request, r.Got, r.Explanation)
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

// The examples are what people copy: they parse, and their tests pass.
func TestExamples(t *testing.T) {
	all := files(t, "../examples/policies/*.yaml")
	maps.Copy(all, files(t, "../examples/policies/library/*.yaml"))
	for name, src := range all {
		p, err := policy.Parse(name, src)
		if err != nil {
			t.Error(err)
			continue
		}
		results := p.RunTests()
		if len(results) == 0 {
			t.Errorf("%s has no tests", name)
		}
		for _, r := range results {
			if !r.OK {
				t.Errorf("%s: %s: got %s, want %s", r.Where, r.Request, r.Got, r.Want)
			}
		}
		if first, _, _ := strings.Cut(string(src), "\n"); !strings.HasPrefix(first, "# yaml-language-server: $schema=../../") || !strings.HasSuffix(first, "../policy/schema.json") {
			t.Errorf("%s does not name the schema in its first line", name)
		}
	}
}
