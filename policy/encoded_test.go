package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

const encodedYAML = `
version: 1
role: encoded
routes:
  - {name: projects, host: gitlab.test, access: read-only, paths: ["/projects/{id}", "/projects/{id}/issues", "/projects/acme%2Fapp/raw"], allow_encoded_slash: true}
  - {name: users, host: gitlab.test, access: read-only, paths: ["/users/{id}"]}
  - {name: keys, host: s3.test, access: read-only, paths: ["/bucket/**"], allow_encoded_slash: true, allow_encoded_percent: true}
  - {name: percent, host: s3.test, access: read-only, paths: ["/percent/*"], allow_encoded_percent: true}
  - {name: plain, host: s3.test, access: read-only, paths: ["/bucket/plain/**"]}
  - {name: socket, host: s3.test, access: read-only, paths: [/ws/*], websocket: true}
`

func TestEncodedIsGrantedNotMatched(t *testing.T) {
	p := mustParse(t, encodedYAML)
	for _, tt := range []struct{ request, want string }{
		{"GET https://gitlab.test/projects/acme%2Fapp", "projects"},
		{"GET https://gitlab.test/projects/acme%2fapp", "projects"},
		{"GET https://gitlab.test/projects/a%2Fb%2Fc/issues", "projects"},
		{"GET https://gitlab.test/projects/acme%2Fissues", "projects"},
		{"GET https://gitlab.test/projects/acme%2Fapp/raw", "projects"},
		// Two spellings are two paths, and the slash that is encoded ends no segment.
		{"GET https://gitlab.test/projects/acme%2fapp/raw", "path_not_allowed"},
		{"GET https://gitlab.test/projects/acme/app/raw", "path_not_allowed"},
		{"GET https://gitlab.test/projects%2Facme", "path_not_allowed"},
		{"POST https://gitlab.test/projects/acme%2Fapp", "method_not_allowed"},

		{"GET https://gitlab.test/users/7", "users"},
		{"GET https://gitlab.test/users/7%2Fkeys", "encoded_slash_not_allowed"},
		{"GET https://gitlab.test/projects/a%2520b", "encoded_percent_not_allowed"},
		// What is encoded twice is decoded twice by some, and so needs both.
		{"GET https://gitlab.test/projects/a%252Fb", "encoded_percent_not_allowed"},
		{"GET https://s3.test/percent/a%252Fb", "encoded_slash_not_allowed"},
		{"GET https://s3.test/percent/a%2520b", "percent"},
		{"GET https://s3.test/percent/a%25252Fb", "encoded_slash_not_allowed"},
		{"GET https://s3.test/bucket/a%2Fb%252Fc%2520d/e", "keys"},
		// The route that decides grants, not any that matches.
		{"GET https://s3.test/bucket/plain/a%2Fb", "encoded_slash_not_allowed"},
		{"GET https://s3.test/bucket/plain/a%2520b", "encoded_percent_not_allowed"},
		{"GET https://s3.test/bucket/plain%2Fa", "keys"},
		{"GET https://s3.test/bucket/plain/100%25", "plain"},
		{"WS GET https://s3.test/ws/a%2Fb", "encoded_slash_not_allowed"},
		{"WS GET https://s3.test/bucket/plain/a%2Fb", "websocket_not_allowed"},
	} {
		d := p.Decide(request(t, tt.request))
		got := string(d.Reason)
		if d.Allow {
			got = d.Route.Name
		}
		if got != tt.want || d.Allow != (d.Route != nil) {
			t.Errorf("%s: got %s, want %s", tt.request, got, tt.want)
		}
	}
}

func TestEncodedExplains(t *testing.T) {
	p := mustParse(t, encodedYAML)
	for request, want := range map[string]string{
		"https://gitlab.test/users/7%2Fkeys":      "users: path: it has an encoded slash (%2F); the route does not have allow_encoded_slash: true",
		"https://gitlab.test/projects/a%2520b":    "projects: path: it is encoded twice (%25); the route does not have allow_encoded_percent: true",
		"https://s3.test/bucket/plain/a%2Fb%2520": "plain: path: it has an encoded slash (%2F); the route does not have allow_encoded_slash: true; path: it is encoded twice (%25); the route does not have allow_encoded_percent: true",
	} {
		target, err := policy.ParseURL(request)
		if err != nil {
			t.Fatal(err)
		}
		misses := p.Explain(policy.Request{Method: "GET", Target: target}).Misses
		if len(misses) == 0 {
			t.Errorf("%s: no miss", request)
			continue
		}
		if diff := cmp.Diff(misses[0].Route.Name+": "+strings.Join(misses[0].Differs, "; "), want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", request, diff)
		}
	}
}

// Targets stay comparable: a target is the same however it was made.
func TestTargetIsComparable(t *testing.T) {
	for _, path := range []string{"/a%2Fb", "/a%2520b", "/a"} {
		a, err := policy.ParseTarget("https", api, path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := policy.ParseURL(a.String())
		if err != nil || a != b {
			t.Errorf("%s: got %v and %v, %v", path, a, b, err)
		}
	}
}

func TestDecideEncodedDoesNotAllocate(t *testing.T) {
	p := mustParse(t, encodedYAML)
	r := request(t, "GET https://s3.test/bucket/a%2Fb%252Fc%2520d/e")
	allow := true
	if n := testing.AllocsPerRun(100, func() { allow = allow && p.Decide(r).Allow }); n != 0 || !allow {
		t.Errorf("%v allocations, allowed %v", n, allow)
	}
}

// BenchmarkParseTarget is what each request pays before it is decided.
func BenchmarkParseTarget(b *testing.B) {
	for name, target := range map[string]string{
		"plain": "/repos/acme/app/issues/7/comments?page=2", "space": "/a%20b/c", "encoded": "/bucket/a%2Fb%252Fc%2520d/e",
		"longest": "/" + strings.Repeat("%252525", 1150),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				policy.ParseTarget("https", api, target)
			}
		})
	}
}
