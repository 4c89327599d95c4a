package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

const tunnelYAML = `
version: 1
role: tunnel
routes:
  - {name: pinned, host: pinned.test, tunnel: true, reason: it pins its certificate}
  - {name: pinned-port, host: "pinned.test:8443", access: read-only, paths: ["/**"]}
  - {name: plain, host: "http://pinned.test", access: read-only, paths: ["/**"]}
  - {name: wild, host: "*.wild.test", tunnel: true}
  - {name: inspected, host: api.wild.test, access: read-only, paths: [/v1]}
  - {name: wide, host: "*.acme.test", access: read-only, paths: ["/**"]}
  - {name: exempt, host: exempt.acme.test, tunnel: true}
`

func TestTunnel(t *testing.T) {
	p := mustParse(t, tunnelYAML)
	for _, tt := range []struct{ authority, want, allowed string }{
		{"pinned.test:443", "pinned", "CONNECT, tunnelled uninspected"},
		{"pinned.test:8443", "", "GET, HEAD, OPTIONS /**"},
		{"pinned.test:80", "", "GET, HEAD, OPTIONS /**"},
		{"a.wild.test:443", "wild", "CONNECT, tunnelled uninspected"},
		{"a.wild.test:8443", "", "https://a.wild.test:443"},
		{"wild.test:443", "", ""},
		{"a.b.wild.test:443", "", ""},
		{"api.wild.test:443", "", "GET, HEAD, OPTIONS /v1"},
		{"x.acme.test:443", "", "GET, HEAD, OPTIONS /**"},
		{"exempt.acme.test:443", "exempt", "CONNECT, tunnelled uninspected"},
		{"evil.test:443", "", ""},
	} {
		a, err := policy.ParseAuthority(tt.authority)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r := p.Tunnel(a); r != nil {
			got = r.Name
			if r.Credential != "" || !p.KnowsAuthority("https", a) || p.KnowsAuthority("https", a) && p.KnowsAuthority("http", a) {
				t.Errorf("%s: route %+v", tt.authority, r)
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.authority, got, tt.want)
		}
		if got := strings.Join(p.AllowedOn(a), "; "); got != tt.allowed {
			t.Errorf("%s: allowed %q, want %q", tt.authority, got, tt.allowed)
		}
	}
	if r := p.Tunnel(policy.Authority{}); r != nil {
		t.Errorf("zero Authority: %+v", r)
	}
	if r := new(policy.Policy).Tunnel(policy.Authority{Host: "pinned.test", Port: 443}); r != nil {
		t.Errorf("zero Policy: %+v", r)
	}
}

func TestTunnelAllowsNoRequest(t *testing.T) {
	p := mustParse(t, tunnelYAML)
	for request_, want := range map[string]policy.Reason{
		"GET https://pinned.test/":         policy.TunnelOnly,
		"POST https://pinned.test/x":       policy.TunnelOnly,
		"WS GET https://pinned.test/x":     policy.TunnelOnly,
		"GET https://a.wild.test/":         policy.TunnelOnly,
		"GET https://exempt.acme.test/":    policy.TunnelOnly,
		"GET https://x.acme.test/":         policy.Allowed,
		"GET http://pinned.test/":          policy.Allowed,
		"GET https://pinned.test:8443/":    policy.Allowed,
		"GET https://api.wild.test/v1":     policy.Allowed,
		"GET https://api.wild.test/v2":     policy.PathNotAllowed,
		"GET https://pinned.test:22/":      policy.PortNotAllowed,
		"GET http://a.wild.test/":          policy.SchemeNotAllowed,
		"CONNECT https://pinned.test/":     policy.TunnelOnly,
		"GET https://pinned.test.evil.io/": policy.HostNotAllowed,
	} {
		d := p.Decide(request(t, request_))
		if d.Reason != want || d.Allow != (want == policy.Allowed) || d.Allow != (d.Route != nil) {
			t.Errorf("%s: got %+v, want %s", request_, d, want)
		}
	}
}

func TestTunnelExplains(t *testing.T) {
	p := mustParse(t, tunnelYAML)
	const uninspected = "tunnel: connections to the host are tunnelled uninspected (CONNECT); no request of it is decided"
	for request_, want := range map[string][]string{
		"GET https://pinned.test/x":    {"pinned: " + uninspected, "pinned-port: port: 443 is not 8443", "plain: scheme: https is not http"},
		"GET https://pinned.test:22/x": {"pinned-port: port: 22 is not 8443", "pinned: port: 22 is not 443; " + uninspected, "plain: scheme: https is not http; port: 22 is not 80"},
	} {
		var got []string
		for _, m := range p.Explain(request(t, request_)).Misses {
			got = append(got, m.Route.Name+": "+strings.Join(m.Differs, "; "))
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", request_, diff)
		}
	}
}

func TestRunTestsOfTunnels(t *testing.T) {
	p := mustParse(t, tunnelYAML+`
tests:
  - {request: "CONNECT pinned.test:443", expect: tunnel}
  - {request: "CONNECT pinned.test:443", expect: tunnel, route: pinned}
  - {request: "CONNECT pinned.test:443", expect: tunnel, route: wild}
  - {request: "CONNECT api.wild.test:443", expect: tunnel}
  - {request: "CONNECT evil.test:443", expect: tunnel}
  - {request: GET https://pinned.test/, expect: deny, reason: tunnel_only}
  - {request: GET https://pinned.test/, expect: allow}
  - {request: GET https://x.acme.test/ws, expect: deny, reason: websocket_not_allowed, websocket: true}
  - {request: GET https://x.acme.test/ws, expect: allow, websocket: false}
  - {request: GET https://x.acme.test/ws, expect: allow, websocket: true}
`)
	var got []string
	for _, r := range p.RunTests() {
		ok := map[bool]string{true: "ok", false: "FAIL"}[r.OK]
		got = append(got, ok+" want "+r.Want+" got "+r.Got)
	}
	want := []string{
		"ok want tunnel got tunnel by pinned",
		"ok want tunnel by pinned got tunnel by pinned",
		"FAIL want tunnel by wild got tunnel by pinned",
		"FAIL want tunnel got no tunnel",
		"FAIL want tunnel got no tunnel",
		"ok want deny: tunnel_only got deny: tunnel_only",
		"FAIL want allow got deny: tunnel_only",
		"ok want deny: websocket_not_allowed got deny: websocket_not_allowed",
		"ok want allow got allow by wide",
		"FAIL want allow got deny: websocket_not_allowed",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}
