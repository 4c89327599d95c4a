package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// A test is one entry under tests.
type test struct {
	where   string
	text    string
	request Request
	allow   bool
	route   string // if set, the route that must allow
	reason  Reason // if set, the reason of the denial
}

func (d *decoder) decodeTest(v strictyaml.Value) {
	m := v.Mapping("request", "expect", "route", "reason")
	t := test{where: v.Where()}
	request := m.Need("request", "write METHOD URL, such as request: GET https://api.example.com/x")
	if s, ok := request.Text(); ok {
		t.text = s
		var msg, hint string
		if t.request, msg, hint = parseRequest(s); msg != "" {
			request.Wrong(msg, hint)
		}
	}
	expect, _ := m.Need("expect", "write allow or deny").Choice("allow", "deny")
	t.allow = expect == "allow"
	if s, ok := nonEmpty(m.Get("route")); ok {
		t.route = s
		var known []string
		for _, r := range d.policy.routes {
			known = append(known, r.Name)
		}
		if !slices.Contains(known, s) {
			m.Get("route").Wrong(fmt.Sprintf("there is no route %s", strictyaml.Quote(s)), strictyaml.DidYouMean(s, known))
		}
		if expect == "deny" {
			m.Get("route").Wrong("a denied request has no route", "remove route, or write expect: allow")
		}
	}
	var denials []string
	for _, r := range Reasons()[1:] {
		denials = append(denials, string(r))
	}
	if s, ok := m.Get("reason").Choice(denials...); ok {
		t.reason = Reason(s)
		if expect == "allow" {
			m.Get("reason").Wrong("reason tells why a request is denied", "remove reason, or write expect: deny")
		}
	}
	d.policy.tests = append(d.policy.tests, t)
}

// parseRequest parses "METHOD URL".
func parseRequest(s string) (r Request, msg, hint string) {
	method, url, ok := strings.Cut(s, " ")
	if !ok {
		return Request{}, fmt.Sprintf("%s is not a method and a URL", strictyaml.Quote(s)), "write METHOD URL, with one space"
	}
	if !ValidMethod(method) {
		msg, hint = wrongMethod(method)
		return Request{}, msg, hint
	}
	t, err := ParseURL(url)
	if err != nil {
		return Request{}, "such a request never reaches the policy: " + err.Error(), ""
	}
	return Request{Method: method, Target: t}, "", ""
}

// A TestResult is the outcome of one of the tests in a policy file.
type TestResult struct {
	Where   string // the test's place in the file, "file:line:column"
	Request string // "METHOD URL", as the file has it
	Want    string // such as "allow by github-read" or "deny"
	Got     string // such as "allow by llm" or "deny: path_not_allowed"
	OK      bool

	// Explanation is what the policy says about the request.
	Explanation Explanation
}

// RunTests runs the tests of the policy file, in file order.
func (p *Policy) RunTests() []TestResult {
	var results []TestResult
	for _, t := range p.tests {
		e := p.Explain(t.request)
		r := TestResult{Where: t.where, Request: t.text, Explanation: e}
		r.Want, r.Got = "deny", "deny: "+string(e.Reason)
		r.OK = e.Allow == t.allow && (t.reason == "" || t.reason == e.Reason)
		if t.reason != "" {
			r.Want = "deny: " + string(t.reason)
		}
		if t.allow {
			r.Want = "allow"
		}
		if t.route != "" {
			r.Want = "allow by " + t.route
		}
		if e.Allow {
			r.Got = "allow by " + e.Route.Name
			r.OK = r.OK && (t.route == "" || t.route == e.Route.Name)
		}
		results = append(results, r)
	}
	return results
}
