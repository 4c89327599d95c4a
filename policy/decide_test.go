package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

// request makes a request from "METHOD URL", or from "WS METHOD URL" one that asks for a WebSocket.
func request(t testing.TB, s string) policy.Request {
	t.Helper()
	s, ws := strings.CutPrefix(s, "WS ")
	method, url, _ := strings.Cut(s, " ")
	target, err := policy.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Request{Method: method, Target: target, WebSocket: ws}
}

const decideYAML = `
version: 1
role: decide
routes:
  - {name: user, host: api.test, access: read-only, paths: [/user, /users/, "/u/{id}"]}
  - {name: repos, host: api.test, access: read-only, paths: ["/repos/acme/**"]}
  - {name: repos-write, host: api.test, access: read-write, paths: ["/repos/acme/app/**"]}
  - {name: issue, host: api.test, methods: [POST], paths: ["/repos/acme/{repo}/issues/{n}"]}
  - {name: head, host: api.test, methods: [HEAD], paths: ["/repos/acme/**"]}
  - {name: tail, host: api.test, methods: [GET], paths: ["/**/raw", "/**/a/raw", "/**/*/raw"]}
  - {name: tail-a, host: api.test, methods: [GET], paths: ["/**/b/raw"]}
  - {name: middle, host: api.test, methods: [GET], paths: ["/m/**/z", "/m/*/z", "/m/x/**"]}
  - {name: slash, host: api.test, methods: [GET], paths: ["/s/**/", /s]}
  - {name: root, host: root.test, methods: [GET], paths: [/]}
  - {name: all, host: all.test, methods: [GET], paths: ["/**"]}
  - {name: exact-host, host: one.wild.test, methods: [GET], paths: ["/**"]}
  - {name: wild, host: "*.wild.test", methods: [GET, POST], paths: ["/**", /x]}
  - {name: port, host: "api.test:8443", methods: [GET], paths: ["/**"]}
  - {name: plain, host: "http://plain.test", methods: [GET], paths: ["/**"]}
  - {name: socket, host: ws.test, methods: [GET], paths: ["/ws/**"], websocket: true}
  - {name: no-socket, host: ws.test, methods: [GET], paths: [/ws/plain]}
  - {name: first, host: tie.test, methods: [GET, POST], paths: [/x]}
  - {name: second, host: tie.test, methods: [GET, PUT], paths: [/x]}
  - {name: ip, host: "https://[2001:db8::1]", methods: [GET], paths: ["/**"]}
`

func TestDecide(t *testing.T) {
	p := mustParse(t, decideYAML)
	for _, tt := range []struct{ request, want string }{
		{"GET https://api.test/user", "user"},
		{"HEAD https://api.test/user", "user"},
		{"GET https://api.test/user?x=/../y", "user"},
		{"POST https://api.test/user", "method_not_allowed"},
		{"get https://api.test/user", "method_not_allowed"},
		{" https://api.test/user", "method_not_allowed"},

		// A slash at the end makes another path.
		{"GET https://api.test/user/", "path_not_allowed"},
		{"GET https://api.test/users/", "user"},
		{"GET https://api.test/users", "path_not_allowed"},
		{"GET https://api.test/User", "path_not_allowed"},
		{"GET https://api.test/userx", "path_not_allowed"},

		// {id} takes exactly one segment that is not empty.
		{"GET https://api.test/u/7", "user"},
		{"GET https://api.test/u/", "path_not_allowed"},
		{"GET https://api.test/u", "path_not_allowed"},
		{"GET https://api.test/u/7/8", "path_not_allowed"},
		{"GET https://api.test/u/7/", "path_not_allowed"},
		{"GET https://api.test/u/**", "user"},
		{"GET https://api.test/u/a%20b", "user"},

		// ** takes any number of segments, none and a last empty one included.
		{"GET https://api.test/repos/acme", "repos"},
		{"GET https://api.test/repos/acme/", "repos"},
		{"GET https://api.test/repos/acme/x/y/z/", "repos"},
		{"GET https://api.test/repos/acmex", "path_not_allowed"},
		{"GET https://api.test/repos", "path_not_allowed"},
		{"GET https://all.test/", "all"},
		{"GET https://root.test/", "root"},
		{"GET https://root.test/x", "path_not_allowed"},

		// Methods: the smaller set, and no shadow by a more specific path.
		{"HEAD https://api.test/repos/acme/x", "head"},
		{"GET https://api.test/repos/acme/app/x", "repos-write"},
		{"POST https://api.test/repos/acme/app/issues/7", "repos-write"},
		{"POST https://api.test/repos/acme/lib/issues/7", "issue"},
		{"GET https://api.test/repos/acme/lib/issues/7", "repos"},
		{"DELETE https://api.test/repos/acme/lib/issues/7", "method_not_allowed"},
		{"GET https://tie.test/x", "first"},
		{"PUT https://tie.test/x", "second"},

		// ** at the beginning and in the middle.
		{"GET https://api.test/raw", "tail"},
		{"GET https://api.test/x/y/raw", "tail"},
		{"GET https://api.test/x/b/raw", "tail-a"},
		{"GET https://api.test/b/raw", "tail-a"},
		{"GET https://api.test/raw/", "path_not_allowed"},
		{"GET https://api.test/m/z", "middle"},
		{"GET https://api.test/m/a/z", "middle"},
		{"GET https://api.test/m/a/b/z", "middle"},
		{"GET https://api.test/m/x", "middle"},
		{"GET https://api.test/m/a", "path_not_allowed"},
		{"GET https://api.test/s", "slash"},
		{"GET https://api.test/s/", "slash"},
		{"GET https://api.test/s/a/", "slash"},
		{"GET https://api.test/s/a", "path_not_allowed"},

		// Hosts.
		{"GET https://one.wild.test/x", "exact-host"},
		{"POST https://one.wild.test/x", "wild"},
		{"GET https://two.wild.test/y", "wild"},
		{"PUT https://two.wild.test/y", "method_not_allowed"},
		{"GET https://wild.test/y", "host_not_allowed"},
		{"GET https://a.two.wild.test/y", "host_not_allowed"},
		{"GET https://xwild.test/y", "host_not_allowed"},
		{"GET https://api.test.evil.example/user", "host_not_allowed"},
		{"GET https://evil.example/user", "host_not_allowed"},
		{"GET https://192.0.2.1/", "host_not_allowed"},
		{"GET https://[2001:db8::1]/", "ip"},
		{"GET https://[2001:db8::2]/", "host_not_allowed"},

		// Ports and schemes.
		{"GET https://api.test:8443/user", "port"},
		{"GET https://api.test:22/user", "port_not_allowed"},
		{"GET https://two.wild.test:8443/x", "port_not_allowed"},
		{"GET http://api.test/user", "scheme_not_allowed"},
		{"GET http://api.test:443/user", "scheme_not_allowed"},
		{"GET http://two.wild.test/y", "scheme_not_allowed"},
		{"GET http://plain.test/", "plain"},
		{"GET https://plain.test/", "scheme_not_allowed"},
		{"GET http://plain.test:8080/", "port_not_allowed"},

		// A WebSocket is granted by the route that decides, or not at all.
		{"WS GET https://ws.test/ws/x", "socket"},
		{"GET https://ws.test/ws/x", "socket"},
		{"WS GET https://ws.test/ws/plain", "websocket_not_allowed"},
		{"GET https://ws.test/ws/plain", "no-socket"},
		{"WS GET https://api.test/user", "websocket_not_allowed"},
		{"WS GET https://api.test/nope", "path_not_allowed"},
	} {
		r := request(t, tt.request)
		d := p.Decide(r)
		got := string(d.Reason)
		if d.Allow {
			got = d.Route.Name
		}
		if got != tt.want || d.Allow != (d.Route != nil) || d.Allow != (d.Reason == policy.Allowed) {
			t.Errorf("%s: got %s (%+v), want %s", tt.request, got, d, tt.want)
		}
		if e := p.Explain(r); e.Decision != d {
			t.Errorf("%s: Explain decides %+v, Decide %+v", tt.request, e.Decision, d)
		}
	}
}

// Of two patterns the first one listed decides wherever both match.
func TestSpecificity(t *testing.T) {
	for _, tt := range []struct{ winner, loser, path string }{
		{"/a/b", "/a/*", "/a/b"},
		{"/a/*", "/*/b", "/a/b"},
		{"/a/*", "/a/**", "/a/b"},
		{"/a", "/a/**", "/a"},
		{"/a/", "/a/**", "/a/"},
		{"/a/**", "/*/b", "/a/b"},
		{"/*/*", "/**", "/a/b"},
		{"/*/**", "/**/b", "/a/b"},
		{"/*/**", "/**/*", "/a/b"},
		{"/**/b", "/**", "/a/b"},
		{"/**/*", "/**", "/a/b"},
		{"/**/*/b", "/**/b", "/a/b"},
		{"/**/a/b", "/**/*/b", "/a/b"},
		{"/**/a/*", "/**/*/b", "/a/b"},
		{"/a/**/c", "/**/b/c", "/a/b/c"},
		{"/a/b/**", "/a/**/b/c", "/a/b/c"},
		{"/a/**/b/c", "/a/**/c", "/a/b/c"},
		{"/**/", "/**", "/a/"},
	} {
		target := "GET https://api.test" + tt.path
		for _, order := range [][]string{{tt.winner, tt.loser}, {tt.loser, tt.winner}} {
			var routes []*policy.Route
			for _, path := range order {
				routes = append(routes, &policy.Route{Name: path, Scheme: "https", Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{path}})
			}
			d := policy.OfRoutes(routes).Decide(request(t, target))
			if !d.Allow || d.Route.Name != tt.winner {
				t.Errorf("%v on %s: got %+v, want %s", order, tt.path, d.Route, tt.winner)
			}
			for _, r := range routes {
				if d := policy.OfRoutes([]*policy.Route{{Name: "x", Scheme: "https", Host: "api.test", Port: 443, Methods: r.Methods, Paths: r.Paths}}).Decide(request(t, target)); !d.Allow {
					t.Errorf("%s alone does not match %s", r.Name, tt.path)
				}
			}
		}
	}
}

func TestZeroValuesDeny(t *testing.T) {
	ok := request(t, "GET https://api.test/user")
	if d := new(policy.Policy).Decide(ok); d.Allow || d.Reason != policy.HostNotAllowed {
		t.Errorf("zero Policy: %+v", d)
	}
	p := mustParse(t, decideYAML)
	if d := p.Decide(policy.Request{}); d.Allow || d.Reason != policy.HostNotAllowed {
		t.Errorf("zero Request: %+v", d)
	}
	noMethod, noPath := ok, ok
	noMethod.Method, noPath.Target.Path = "", ""
	if d := p.Decide(noMethod); d.Allow || d.Reason != policy.MethodNotAllowed {
		t.Errorf("no method: %+v", d)
	}
	if d := p.Decide(noPath); d.Allow || d.Reason != policy.PathNotAllowed {
		t.Errorf("no path: %+v", d)
	}
	if (policy.Decision{}).Allow {
		t.Error("zero Decision allows")
	}
}

func TestKnowsAuthority(t *testing.T) {
	p := mustParse(t, decideYAML)
	for _, tt := range []struct {
		scheme, authority string
		want              bool
	}{
		{"https", "api.test:443", true}, {"https", "api.test:8443", true}, {"https", "two.wild.test:443", true}, {"http", "plain.test:80", true},
		{"https", "api.test:22", false}, {"http", "api.test:443", false}, {"https", "wild.test:443", false}, {"https", "evil.example:443", false},
	} {
		a, err := policy.ParseAuthority(tt.authority)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.KnowsAuthority(tt.scheme, a); got != tt.want {
			t.Errorf("%s %s: got %v, want %v", tt.scheme, a, got, tt.want)
		}
	}
}

func TestAllowedOn(t *testing.T) {
	p := mustParse(t, decideYAML)
	for authority, want := range map[string][]string{
		"one.wild.test:443": {"GET /**", "GET, POST /**", "GET, POST /x"},
		"plain.test:80":     {"GET /**"},
		"tie.test:443":      {"GET, POST /x", "GET, PUT /x"},
		"evil.example:443":  nil,
	} {
		a, err := policy.ParseAuthority(authority)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p.AllowedOn(a), want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", authority, diff)
		}
	}
	if got := manyRoutes(100).AllowedOn(policy.Authority{Host: "h0.test", Port: 443}); len(got) != 20 || got[0] != "GET /r0/x/**" {
		t.Errorf("of many: got %d, first %q", len(got), got[0])
	}
}

// A policy carries a request's decision without allocating, wherever the route stands.
func TestDecideDoesNotAllocate(t *testing.T) {
	p := mustParse(t, decideYAML)
	for _, s := range []string{
		"GET https://api.test/user", "GET https://api.test/x/b/raw", "GET https://api.test/m/a/b/z",
		"POST https://one.wild.test/x", "WS GET https://ws.test/ws/x", "GET https://[2001:db8::1]/a/b/c/d",
	} {
		r := request(t, s)
		allow := true
		if n := testing.AllocsPerRun(100, func() { allow = allow && p.Decide(r).Allow }); n != 0 || !allow {
			t.Errorf("%s: %v allocations, allowed %v", s, n, allow)
		}
	}
}

// manyRoutes makes n routes, up to 1000 on one host.
func manyRoutes(n int) *policy.Policy {
	routes := make([]*policy.Route, n)
	for i := range routes {
		routes[i] = &policy.Route{
			Name: fmt.Sprint("r", i), Scheme: "https", Host: fmt.Sprintf("h%d.test", i/1000), Port: 443,
			Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/r%d/x/**", i)},
		}
	}
	return policy.OfRoutes(routes)
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		p := manyRoutes(n)
		last := n - 1
		r := request(b, fmt.Sprintf("GET https://h%d.test/r%d/x/y/z?q=1", last/1000, last))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(r).Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkDecideLongPath is what an agent can make of a decision by the length of its path.
func BenchmarkDecideLongPath(b *testing.B) {
	p := mustParse(b, decideYAML)
	r := request(b, "GET https://api.test"+strings.Repeat("/a", 4000))
	for b.Loop() {
		p.Decide(r)
	}
}
