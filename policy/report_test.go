package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

const reportYAML = `
version: 1
role: report
credentials:
  c: {from: {env: {name: A}}, inject: {bearer: {}}}
routes:
  - {name: trial, host: api.test, methods: [GET, POST], paths: ["/r/{id}"], when: 'request.params.id == "1"', mode: report, credential: c}
  - {name: below, host: api.test, methods: [GET], paths: ["/r/**"], when: 'request.params == {} || request.query.q == ["1"]'}
  - {name: json, host: api.test, methods: [POST], paths: [/json], when: request.json.x == 1, mode: report}
  - {name: strict, host: api.test, methods: [POST], paths: [/strict], when: request.json.x == 1}
  - {name: strict-all, host: api.test, methods: [POST], paths: [/strict, /other], query: {a: "1"}, mode: report}
  - {name: first, host: b.test, methods: [POST], paths: [/x], query: {a: "1"}, mode: report}
  - {name: second, host: b.test, methods: [POST], paths: ["/{x}"], when: request.json.x == 1}
  - {name: small, host: c.test, methods: [POST], paths: [/x], when: request.json.x == 1, limits: {body: 10B}}
  - {name: large, host: c.test, methods: [POST], paths: [/y], when: request.json.x == 1, limits: {body: 20B}}
  - {name: trial-small, host: c.test, methods: [POST], paths: [/z], when: request.json.x == 1, limits: {body: 10B}, mode: report}
tests:
  - {request: GET https://api.test/r/1, expect: allow, route: trial}
  - {request: POST https://api.test/r/2, expect: deny, reason: condition_not_met}
  - {request: POST https://api.test/json, body: "{}", expect: deny, reason: condition_failed}
  - {request: POST https://api.test/json, body: "[", expect: deny, reason: body_not_acceptable}
`

// TestReportMode: a route in mode report allows where a condition would deny, and only there.
func TestReportMode(t *testing.T) {
	p := mustParse(t, reportYAML)
	for _, tt := range []struct{ request, body, want string }{
		{"GET https://api.test/r/1", "", "trial"},
		{"GET https://api.test/r/2", "", "below"},
		{"POST https://api.test/r/2", "", "trial (condition_not_met)"},
		{"PUT https://api.test/r/2", "", "method_not_allowed"},
		{"GET https://api.test/s", "", "path_not_allowed"},
		{"WS GET https://api.test/r/1", "", "websocket_not_allowed"},
		{"WS GET https://api.test/r/2?q=2", "", "websocket_not_allowed"},
		{"POST https://api.test/json", `{"x": 1}`, "json"},
		{"POST https://api.test/json", `{"x": 2}`, "json (condition_not_met)"},
		{"POST https://api.test/json", `{}`, "json (condition_failed)"},
		{"POST https://api.test/json", `{"x": 1`, "json (body_not_acceptable)"},
		// A route that enforces and fails denies, whatever comes after it.
		{"POST https://api.test/strict", `{}`, "condition_failed"},
		{"POST https://api.test/strict", `{"x": 2}`, "strict-all (condition_not_met)"},
		{"POST https://api.test/strict?a=1", `{"x": 2}`, "strict-all"},
		// What came before it in mode report is let through as if its conditions were met.
		{"POST https://b.test/x", `{}`, "first (condition_failed)"},
		{"POST https://b.test/x", `{"x": 1}`, "second"},
		{"POST https://b.test/y", `{"x": 2}`, "condition_not_met"},
		// limits.body bounds what a condition takes, of the route that asks.
		{"POST https://c.test/x", `{"x":   1}`, "small"},
		{"POST https://c.test/x", `{"x":    1}`, "body_not_acceptable"},
		{"POST https://c.test/y", `{"x":    1}`, "large"},
		{"POST https://c.test/z", `{"x":    1}`, "trial-small (body_not_acceptable)"},
	} {
		r := request(t, tt.request)
		r.Header = map[string][]string{"Content-Type": {"application/json"}}
		r.Body = &body{text: tt.body}
		d := p.Decide(r)
		got := outcome(d)
		if d.Reported != "" {
			got += " (" + string(d.Reported) + ")"
			if !d.Allow || d.Reason != policy.Allowed || d.Path == "" || d.Route.Mode != policy.Report {
				t.Errorf("%s %s: %+v", tt.request, tt.body, d)
			}
			if d.Detail == "" {
				t.Errorf("%s %s: reported %s, detail %q", tt.request, tt.body, d.Reported, d.Detail)
			}
		}
		if got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.request, tt.body, got, tt.want)
		}
		e := p.Explain(r)
		if e.Decision != d {
			t.Errorf("%s %s: Explain decides %+v, Decide %+v", tt.request, tt.body, e.Decision, d)
		}
		if d.Reported != "" && (len(e.Misses) == 0 || len(e.Conditions) == 0) {
			t.Errorf("%s %s: reported, with misses %v and conditions %v", tt.request, tt.body, e.Misses, e.Conditions)
		}
	}
	for _, r := range p.RunTests() {
		if !r.OK {
			t.Errorf("%s: want %s, got %s", r.Request, r.Want, r.Got)
		}
	}
}

// TestReportChangesNoTest: the tests of a policy come out the same in every mode.
func TestReportChangesNoTest(t *testing.T) {
	enforce := strings.ReplaceAll(reportYAML, ", mode: report", "")
	for _, src := range []string{reportYAML, enforce, strings.Replace(enforce, "role: report", "role: report\nmode: report", 1)} {
		for _, r := range mustParse(t, src).RunTests() {
			if !r.OK {
				t.Errorf("%s: want %s, got %s\n%s", r.Request, r.Want, r.Got, src)
			}
		}
	}
}

func TestRouteMode(t *testing.T) {
	const routes = `
version: 1
role: modes
routes:
  - {name: a, host: a.test, access: read-only, paths: [/x]}
  - {name: b, host: b.test, access: read-only, paths: [/x], mode: report, limits: {rate: 1/s}}
  - {name: c, host: c.test, access: read-only, paths: [/x], mode: report}
`
	modes := func(p *policy.Policy) (modes []policy.Mode) {
		for _, r := range p.Routes() {
			modes = append(modes, r.Mode)
		}
		return modes
	}
	p := mustParse(t, routes)
	if diff := cmp.Diff(modes(p), []policy.Mode{policy.Enforce, policy.Report, policy.Report}); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	var warnings []string
	for _, m := range p.Warnings() {
		warnings = append(warnings, m.Path+": "+m.Msg+"; "+m.Hint)
	}
	want := []string{
		"routes[1].mode: the conditions and limits of the route refuse nothing, they are recorded only; remove mode when the records show what you expect",
		"routes[2].mode: nothing is reported: the route has no conditions and no limits; remove mode",
	}
	if diff := cmp.Diff(warnings, want); diff != "" {
		t.Errorf("warnings (-got +want)\n%s", diff)
	}
	if diff := cmp.Diff(modes(mustParse(t, routes+"mode: report\n")), []policy.Mode{policy.Report, policy.Report, policy.Report}); diff != "" {
		t.Errorf("in mode report (-got +want)\n%s", diff)
	}
}
