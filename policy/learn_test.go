package policy_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/policy"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// seen makes a request that was denied, or if let through not quite, from "METHOD URL".
func seen(t testing.TB, s string, reason policy.Reason) policy.Seen {
	r := request(t, s)
	return policy.Seen{
		Time: noon, Method: r.Method, Scheme: r.Target.Scheme, Host: r.Target.Host, Port: r.Target.Port, Path: r.Target.Path,
		Denied: reason, LetThrough: true, WebSocket: r.WebSocket,
	}
}

func TestLearn(t *testing.T) {
	base := mustParse(t, `
version: 1
role: base
credentials:
  github:
    from: {vault: {path: github/token/base, field: token, max_age: 90m}}
    inject: {header: {name: X-Token, prefix: "Key "}}
routes:
  - {name: read, host: "*.github.test", access: read-only, paths: [/user, "/repos/{owner}/**"], credential: github, allow_encoded_slash: true}
  - {name: change, host: api.github.test, methods: [POST, PUT], paths: ["/repos/{owner}/issues"], credential: github, when: 'request.params.owner != "x"', limits: {rate: 5/m, body: 64KiB}, correlate: true, log: path}
`)
	allowed := func(route, credential, method, path string) policy.Seen {
		return policy.Seen{Time: noon.Add(time.Hour), Method: method, Scheme: "https", Host: "api.github.test", Port: 443, Path: path, Pattern: true, Route: route, Credential: credential}
	}
	log := []policy.Seen{
		allowed("read", "github", "GET", "/repos/{owner}/**"),
		allowed("read", "github", "GET", "/repos/{owner}/**"),
		allowed("change", "github", "POST", "/repos/{owner}/issues"),
		seen(t, "GET https://docs.test/pages/1234", policy.HostNotAllowed),
		seen(t, "GET https://docs.test/pages/77", policy.HostNotAllowed),
		seen(t, "HEAD https://docs.test/pages/77", policy.HostNotAllowed),
		seen(t, "WS GET http://live.test:8080/v1/8f14e45fceea/x/0b3dc2a1-9f00-4c1e-8f7e-6f0f2d0f9a11", policy.HostNotAllowed),
		{Time: noon, Method: "GET", Scheme: "https", Host: "169.254.169.254", Port: 443, Path: "/latest"},
		{Time: noon, Method: "GET", Scheme: "https", Host: "h.test", Port: 443, Path: "/" + strings.Repeat("x", 20) + "[+3 bytes]"},
		{Time: noon, Method: "CONNECT", Scheme: "https", Host: "pinned.test", Port: 443, Route: "pin"},
		{Time: noon, Method: "CONNECT", Scheme: "https", Host: "docs.test", Port: 443, Route: "pin"},
		{Time: noon, Method: "TRACE", Scheme: "https", Host: "h.test", Port: 443, Path: "/"},
	}
	const want = `version: 1
role: learner
description: learned from an audit log; read it before it is used

credentials:
  github:
    from: {vault: {path: github/token/base, field: token, max_age: 1h30m}}
    inject: {header: {name: X-Token, prefix: "Key "}}

routes:
  # seen 2 times, 2026-11-20T13:00:00Z to 2026-11-20T13:00:00Z
  # the log has the pattern of the route, not the paths that were asked for
  - name: read
    host: api.github.test
    methods: [GET]
    paths:
      - "/repos/{owner}/**"
    credential: github
    allow_encoded_slash: true
  # seen once, 2026-11-20T13:00:00Z
  # the log has the pattern of the route, not the paths that were asked for
  - name: change
    host: api.github.test
    methods: [POST]
    paths:
      - "/repos/{owner}/issues"
    when: "request.params.owner != \"x\""
    credential: github
    limits: {rate: 5/m, body: 64KiB}
    correlate: true
    log: path
  # seen 3 times, 2026-11-20T12:00:00Z to 2026-11-20T12:00:00Z; for example GET /pages/1234
  # let through in report mode, without a credential: host_not_allowed 3
  - name: docs.test-get-head
    host: docs.test
    methods: [GET, HEAD]
    paths:
      - "/pages/{id}"
  # seen once, 2026-11-20T12:00:00Z; for example GET /v1/8f14e45fceea/x/0b3dc2a1-9f00-4c1e-8f7e-6f0f2d0f9a11
  # let through in report mode, without a credential: host_not_allowed 1
  - name: live.test-get
    host: "http://live.test:8080"
    methods: [GET]
    paths:
      - "/v1/{id}/x/{id2}"
    websocket: true
  # seen once, 2026-11-20T12:00:00Z
  - name: pin
    host: pinned.test
    tunnel: true
`
	got, err := policy.Learn(policy.LearnConfig{Role: "learner", Base: base}, log)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got.Source), want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if diff := cmp.Diff(got.Skipped, map[string]int{
		"no route may lead to the host": 1, "the method is never let through": 1, "connections to the host were tunnelled, and others of its requests decided": 1, "the path could not be matched by any route, or was cut": 1,
	}); diff != "" {
		t.Errorf("skipped (-got +want)\n%s", diff)
	}
}

func TestLearnWithoutBase(t *testing.T) {
	log := []policy.Seen{
		{Time: noon, Method: "POST", Scheme: "https", Host: "api.test", Port: 443, Path: "/x", Pattern: true, Route: "a b: {", Credential: "v"},
		{Time: noon, Method: "POST", Scheme: "https", Host: "api.test", Port: 443, Path: "/y", Pattern: true, Route: "ok", Credential: "other"},
		{Time: noon, Method: "POST", Scheme: "https", Host: "api.test", Port: 443, Path: "/y", Pattern: true, Route: "ok", Credential: "bad: [name"},
	}
	got, err := policy.Learn(policy.LearnConfig{Role: "r", Sources: map[string]policy.From{"v": {Vault: &policy.VaultFrom{Path: "secret/data/v"}}}}, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n  v:\n    from: {vault: {path: secret/data/v, field: token, max_age: 5m}}\n", "\n  other:\n    from: {env: {name: SIDEKEY_OTHER}}\n",
		"# the log does not say", "nor its conditions", "\n  - name: api.test-post\n", "\n  - name: ok\n",
	} {
		if !strings.Contains(string(got.Source), want) {
			t.Errorf("%q is not in\n%s", want, got.Source)
		}
	}
	if _, err := policy.Learn(policy.LearnConfig{Role: "r"}, nil); !errors.Is(err, policy.ErrNothingSeen) {
		t.Errorf("of nothing: %v", err)
	}
}

// The path itself, where a trail has it, is all that is allowed again; but a route of the base policy stays
// what it was, and the path is an example.
func TestLearnFromSentPaths(t *testing.T) {
	const routes = `host: h.test, methods: [GET], paths: ["/r/{x}/**"], credential: a, when: request.params.x != "y", log: path`
	for _, tt := range []struct {
		sent, base string
		path       string
	}{
		{"/r/a/7", "", "/r/a/{id}"},
		{"/r/a/7", ofRoutes(routes), "/r/{x}/**"},
		{"", "", "/r/{x}/**"},
		{"/r/" + strings.Repeat("a", 50) + "[+3 bytes]", "", "/r/{x}/**"}, // was cut
	} {
		cfg := policy.LearnConfig{Role: "r"}
		if tt.base != "" {
			cfg.Base = mustParse(t, tt.base)
		}
		got, err := policy.Learn(cfg, []policy.Seen{
			{Time: noon, Method: "GET", Scheme: "https", Host: "h.test", Port: 443, Path: "/r/{x}/**", Pattern: true, Sent: tt.sent, Route: "r0", Credential: "a"},
		})
		if err != nil {
			t.Fatal(err)
		}
		r := mustParse(t, string(got.Source)).Routes()[0]
		if r.Paths[0] != tt.path || r.Credential != "a" || (r.When != "") != (tt.base != "") || r.LogPath != (tt.base != "") {
			t.Errorf("%.20s: learned %+v", tt.sent, r)
		}
		if strings.Contains(string(got.Source), "for example GET /r/a/7\n") != (tt.sent == "/r/a/7") {
			t.Errorf("%.20s: examples in\n%s", tt.sent, got.Source)
		}
	}
}

// A route that decides on a part of a pattern stays: without it that part would get another credential.
func TestLearnKeepsWhatDecidesBefore(t *testing.T) {
	base := mustParse(t, ofRoutes(
		`host: h.test, methods: [GET, POST], paths: ["/**"], credential: a`, `host: h.test, methods: [GET, PUT], paths: [/x], credential: b`, `host: h.test, methods: [PUT], paths: [/y], credential: b`,
	))
	got, err := policy.Learn(policy.LearnConfig{Role: "r", Base: base}, []policy.Seen{
		{Time: noon, Method: "GET", Scheme: "https", Host: "h.test", Port: 443, Path: "/**", Pattern: true, Route: "r0", Credential: "a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const kept = "  # not seen; it decides before a route that was, on a part of its paths\n  - name: r1\n    host: h.test\n    methods: [GET]\n    paths:\n      - /x\n    credential: b\n"
	if !strings.Contains(string(got.Source), kept) || strings.Contains(string(got.Source), "PUT") {
		t.Errorf("got\n%s", got.Source)
	}
}

func TestFold(t *testing.T) {
	for _, tt := range []struct{ segment, want string }{
		{"7", "{id}"}, {"0123", "{id}"}, {"7a", "7a"}, {"v1", "v1"}, {"2024-07-18", "2024-07-18"},
		{"deadbee", "deadbee"}, {"dead8ee", "{id}"}, {"dead8e", "dead8e"}, {"DEAD8EE", "{id}"},
		{"0b3dc2a1-9f00-4c1e-8f7e-6f0f2d0f9a11", "{id}"}, {"0b3dc2a1-9f00-4c1e", "0b3dc2a1-9f00-4c1e"},
		{"msg_01XFDUDYJgAACzvnptvVoYEL", "{id}"}, {"chatcmpl-9aBcDeFgHiJk1", "{id}"}, {"gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"},
		{"pull-requests", "pull-requests"}, {"installations", "installations"}, {"internationalization", "internationalization"},
		{"QwErTyUiOpAsDfGhJkLz", "{id}"}, {"msg_01XFDUDYJgAACzvn.json", "msg_01XFDUDYJgAACzvn.json"}, {"a*b", "{id}"}, {"**", "{id}"},
	} {
		got, err := policy.Learn(policy.LearnConfig{Role: "r"}, []policy.Seen{seen(t, "GET https://h.test/"+tt.segment, policy.HostNotAllowed)})
		if err != nil {
			t.Fatal(err)
		}
		p := mustParse(t, string(got.Source))
		if path := p.Routes()[0].Paths[0]; path != "/"+tt.want {
			t.Errorf("%s became %s, want /%s", tt.segment, path, tt.want)
		}
	}
}

// idLike is what the property below takes for an id: it draws no segment about which there could be
// two opinions.
var idLike = regexp.MustCompile(`^([0-9]+|[0-9a-f]{7,}|[A-Za-z0-9]{22})$`)

// TestLearnAllowsWhatWasSeen: a learned policy allows each request that was seen, as it was seen; and
// it allows nothing else but with other ids.
func TestLearnAllowsWhatWasSeen(t *testing.T) {
	segment := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "users", "a%2Fb", "a%2520", "x*y"}),
		rapid.StringMatching(`[0-9]{1,4}`), rapid.StringMatching(`[0-9a-f]{5}[0-9]{2}[0-9a-f]{1,4}`), rapid.StringMatching(`[A-Z]{10}[a-z]{6}[0-9]{6}`),
	)
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) policy.Request {
			path := "/" + strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, label+"path"), "/")
			if rapid.IntRange(0, 5).Draw(t, label+"slash") == 0 {
				path += "/"
			}
			scheme := rapid.SampledFrom([]string{"https", "https", "http"}).Draw(t, label+"scheme")
			a := policy.Authority{Host: rapid.SampledFrom([]string{"a.test", "b.test", "2001:db8::1"}).Draw(t, label+"host"), Port: rapid.SampledFrom([]uint16{443, 80, 8443}).Draw(t, label+"port")}
			target, err := policy.ParseTarget(scheme, a, path)
			if err != nil {
				t.Fatal(err)
			}
			r := policy.Request{Method: rapid.SampledFrom([]string{"GET", "GET", "POST", "PUT"}).Draw(t, label+"method"), Target: target}
			r.WebSocket = r.Method == "GET" && rapid.IntRange(0, 4).Draw(t, label+"ws") == 0
			return r
		}
		var log []policy.Seen
		var requests []policy.Request
		for i := range rapid.IntRange(1, 20).Draw(t, "n") {
			r := draw(fmt.Sprint("seen", i))
			requests = append(requests, r)
			s := policy.Seen{Time: noon, Method: r.Method, Scheme: r.Target.Scheme, Host: r.Target.Host, Port: r.Target.Port, Path: r.Target.Path, WebSocket: r.WebSocket}
			if s.Scheme == "https" {
				s.Credential = rapid.SampledFrom([]string{"", "c", "d"}).Draw(t, "credential")
			}
			log = append(log, s)
		}
		learned, err := policy.Learn(policy.LearnConfig{Role: "r"}, log)
		if err != nil || len(learned.Skipped) > 0 {
			t.Fatalf("%v; skipped %v", err, learned.Skipped)
		}
		p, err := policy.Parse("learned.yaml", learned.Source)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range requests {
			if d := p.Decide(r); !d.Allow {
				t.Fatalf("%s %s (ws %v) was seen and is denied: %s\n%s", r.Method, r.Target, r.WebSocket, d.Reason, learned.Source)
			}
		}
		for i := range 20 {
			r := draw(fmt.Sprint("other", i))
			if p.Decide(r).Allow && !slices.ContainsFunc(requests, func(s policy.Request) bool { return alike(s, r) }) {
				t.Fatalf("%s %s (ws %v) is allowed, and nothing like it was seen\n%s", r.Method, r.Target, r.WebSocket, learned.Source)
			}
		}
	})
}

// TestLearnNarrowsItsBase: of requests that a policy allowed and that were recorded with the patterns
// of routes, a policy is learned that allows each of them with the same credential, and nothing that
// the first one does not.
func TestLearnNarrowsItsBase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := drawDiffPolicy(t, "base", false)
		if base == nil || slices.ContainsFunc(base.Routes(), func(r *policy.Route) bool { return strings.HasPrefix(r.Host, "*") }) {
			return // a wildcard's routes are learned on the hosts that were seen, and have another place in the order there
		}
		var log []policy.Seen
		var requests []policy.Request
		for range 40 {
			r := drawDiffRequest(t)
			if d := base.Decide(r); d.Allow {
				requests = append(requests, r)
				log = append(log, policy.Seen{
					Time: noon, Method: r.Method, Scheme: r.Target.Scheme, Host: r.Target.Host, Port: r.Target.Port,
					Path: d.Path, Pattern: true, Route: d.Route.Name, Credential: d.Route.Credential, WebSocket: r.WebSocket,
				})
			}
		}
		if len(log) == 0 {
			return
		}
		learned, err := policy.Learn(policy.LearnConfig{Role: "r", Base: base}, log)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse("learned.yaml", learned.Source)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range requests {
			if a, b := effectsOf(base, r), effectsOf(p, r); !sameEffects(a, b) {
				t.Fatalf("%s %s: %+v became %+v\n%s", r.Method, r.Target, a, b, learned.Source)
			}
		}
		changes, err := policy.Diff(base, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.Gains() {
				t.Fatalf("%s\n%s", shownChange(c), learned.Source)
			}
		}
	})
}

// sameEffects compares all but the place in a file and prefetch, which is by default a matter of how
// many routes there are.
func sameEffects(a, b effects) bool {
	a.credential.Prefetch, b.credential.Prefetch = false, false
	return reflect.DeepEqual(a, b)
}

// alike reports whether b differs from a in ids only.
func alike(a, b policy.Request) bool {
	x, y := strings.Split(a.Target.Path, "/"), strings.Split(b.Target.Path, "/")
	if a.Method != b.Method || a.Target.Scheme != b.Target.Scheme || a.Target.Authority != b.Target.Authority || len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] != y[i] && (y[i] == "" || !idLike.MatchString(x[i]) && !strings.Contains(x[i], "*")) {
			return false
		}
	}
	return true
}
