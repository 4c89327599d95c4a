package policy_test

import (
	"strings"
	"testing"

	"github.com/sidekey/sidekey/policy"
)

func TestRunTestFile(t *testing.T) {
	p := mustParse(t, decideYAML)
	results, err := p.RunTestFile("dir/p_test.yaml", []byte("policy: p.yaml\ntests:\n  - {request: GET https://api.test/user, expect: allow, route: user}\n  - {request: GET https://api.test/x, expect: allow}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || !results[0].OK || results[1].OK || results[1].Where != "dir/p_test.yaml:4:5" || results[1].Got != "deny: path_not_allowed" {
		t.Errorf("got %+v", results)
	}
	if again := p.RunTests(); len(again) != 0 {
		t.Errorf("the policy has %d tests of its own now", len(again))
	}
	for _, tt := range []struct{ src, want string }{
		{"tests:\n  - {request: GET https://api.test/user, expect: allow, route: usr}\n", "t.yaml:2:64: tests[0].route: there is no route \"usr\"\n\thint: did you mean user?"},
		{"policy: ''\ntests: []\n", "t.yaml:1:9: policy: the text is empty\nt.yaml:2:8: tests: the list is empty"},
		{"testes: []\n", "t.yaml:1:1: testes: unknown key\n\thint: did you mean tests?"},
		{"version: 2\ntests:\n  - {request: GET https://api.test/user, expect: allow}\n", "t.yaml:1:10: version: this version is not known"},
	} {
		if _, err := p.RunTestFile("t.yaml", []byte(tt.src)); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %s", tt.src, err, tt.want)
		}
	}
}

func TestTestFileNames(t *testing.T) {
	for _, tt := range []struct {
		name, src string
		is        bool
		tests     string
	}{
		{"a/p_test.yaml", "tests: []", true, "p.yaml"},
		{"p_test.yml", "policy: q.yaml\ntests: []", true, "q.yaml"},
		{"p.yaml", "", false, ""}, {"_test.yaml", "", false, ""}, {"p_test.go", "", false, ""}, {"p_test", "", false, ""},
	} {
		if got := policy.IsTestFile(tt.name); got != tt.is {
			t.Errorf("%s: %v", tt.name, got)
		}
		if tt.is && policy.TestedBy(tt.name, []byte(tt.src)) != tt.tests {
			t.Errorf("%s is about %s, want %s", tt.name, policy.TestedBy(tt.name, []byte(tt.src)), tt.tests)
		}
	}
}
