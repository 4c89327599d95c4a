package policy_test

import (
	"testing"

	"github.com/sidekey/sidekey/policy"
)

func TestReplay(t *testing.T) {
	p := mustParse(t, ofRoutes(
		`host: h.test, methods: [GET], paths: ["/a/**"]`,
		`host: h.test, methods: [GET], paths: [/b/x], websocket: true`,
		`host: h.test, methods: [POST], paths: [/c], headers: {X-A: a}`,
		`host: h.test, methods: [GET], paths: [/a/cel], when: request.host == "x"`,
		`host: t.test, tunnel: true`,
	))
	pattern := func(method, path string) policy.Seen {
		return policy.Seen{Method: method, Scheme: "https", Host: "h.test", Port: 443, Path: path, Pattern: true}
	}
	sent := func(path, real string) policy.Seen {
		s := pattern("GET", path)
		s.Sent = real
		return s
	}
	for _, tt := range []struct {
		seen    policy.Seen
		verdict policy.Verdict
		reason  policy.Reason
	}{
		{seen(t, "GET https://h.test/a/b", ""), policy.WouldAllow, ""},
		{seen(t, "PUT https://h.test/a/b", ""), policy.WouldDeny, policy.MethodNotAllowed},
		{seen(t, "GET https://i.test/a/b", ""), policy.WouldDeny, policy.HostNotAllowed},
		{seen(t, "WS GET https://h.test/a/b", ""), policy.WouldDeny, policy.WebSocketNotAllowed},
		{seen(t, "WS GET https://h.test/b/x", ""), policy.WouldAllow, ""},
		{seen(t, "POST https://h.test/c", ""), policy.MayAllow, ""},
		{seen(t, "GET https://h.test/a/cel", ""), policy.MayAllow, ""}, // it can fail to be evaluated
		{pattern("GET", "/a/*/c"), policy.WouldAllow, ""},
		{pattern("GET", "/a/{x}"), policy.MayAllow, ""},
		{pattern("GET", "/b/*"), policy.MayDeny, policy.PathNotAllowed},
		{pattern("GET", "/**"), policy.MayDeny, policy.PathNotAllowed},
		{pattern("GET", "/d/*"), policy.WouldDeny, policy.PathNotAllowed},
		{pattern("GET", "no pattern"), policy.WouldDeny, policy.PathNotAllowed},
		{sent("/b/*", "/b/x"), policy.WouldAllow, ""},
		{sent("/b/*", "/b/y"), policy.WouldDeny, policy.PathNotAllowed},
		{sent("/a/{x}", "/a/y"), policy.WouldAllow, ""},
		{sent("/a/{x}", "/a/cel"), policy.MayAllow, ""},
		{sent("/b/*", "/b/x[+3 bytes]"), policy.MayDeny, policy.PathNotAllowed}, // was cut
		{sent("/b/*", "/b/x?q"), policy.MayDeny, policy.PathNotAllowed},
		{policy.Seen{Method: "CONNECT", Scheme: "https", Host: "t.test", Port: 443}, policy.WouldAllow, ""},
		{policy.Seen{Method: "CONNECT", Scheme: "https", Host: "h.test", Port: 443}, policy.WouldDeny, policy.PathNotAllowed},
		{policy.Seen{Method: "GET", Scheme: "https", Host: "h.test", Port: 443, Path: "/a/x[+3 bytes]"}, policy.WouldDeny, policy.PathNotAllowed},
		{policy.Seen{}, policy.WouldDeny, policy.PathNotAllowed},
	} {
		got := p.Replay(tt.seen)
		if got.Verdict != tt.verdict || got.Reason != tt.reason || (got.Verdict == policy.WouldAllow) != (got.Route != nil && got.Verdict != policy.MayAllow) {
			t.Errorf("%s %s %s: got %s %q by %v, want %s %q", tt.seen.Method, tt.seen.Host, tt.seen.Path, got.Verdict, got.Reason, got.Route, tt.verdict, tt.reason)
		}
	}
}
