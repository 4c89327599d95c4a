package policy

import (
	"fmt"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// A test is one entry under tests.
type test struct {
	where   string
	text    string
	request Request
	expect  string // allow, deny or tunnel
	route   string // if set, the route that must allow or tunnel
	reason  Reason // if set, the reason of the denial
}

func (d *decoder) decodeTest(v strictyaml.Value) {
	m := v.Mapping("request", "headers", "body", "session", "now", "expect", "route", "reason", "websocket")
	t := test{where: v.Where()}
	request := m.Need("request", "write METHOD URL, such as request: GET https://api.example.com/x")
	if s, ok := request.Text(); ok {
		t.text = s
		var msg, hint string
		if t.request, msg, hint = parseRequest(s); msg != "" {
			request.Wrong(msg, hint)
		}
	}
	t.expect = decodeExpect(m, t)
	if t.request.WebSocket, _ = m.Get("websocket").Bool(); t.request.WebSocket && t.request.Method == connect {
		m.Key("websocket").Wrong("a tunnel is not looked into: nothing in it is a WebSocket", "remove websocket")
	}
	d.decodeTestRequest(m, &t.request)
	if s, ok := nonEmpty(m.Get("route")); ok {
		t.route = s
		if _, ok := d.routeNames[s]; !ok {
			var known []string
			for _, r := range d.policy.routes {
				known = append(known, r.Name)
			}
			m.Get("route").Wrong(fmt.Sprintf("there is no route %s", strictyaml.Quote(s)), strictyaml.DidYouMean(s, known))
		}
		if t.expect == "deny" {
			m.Get("route").Wrong("a denied request has no route", "remove route, or write expect: allow")
		}
	}
	var denials []string
	for _, r := range Reasons()[1:] {
		denials = append(denials, string(r))
	}
	if s, ok := m.Get("reason").Choice(denials...); ok {
		t.reason = Reason(s)
		if t.expect == "allow" || t.expect == "tunnel" {
			m.Get("reason").Wrong("reason tells why a request is denied", "remove reason, or write expect: deny")
		}
	}
	d.policy.tests = append(d.policy.tests, t)
}

const connect = "CONNECT"

// decodeExpect returns what a test expects. A CONNECT is not a request to be decided: it is
// tunnelled, or the requests in it are.
func decodeExpect(m strictyaml.Mapping, t test) string {
	v := m.Need("expect", "write allow or deny")
	word, _ := v.Text()
	switch {
	case t.request.Method == connect && word != "tunnel":
		v.Wrong("a CONNECT alone is neither allowed nor denied", "write expect: tunnel, or a request with the URL to ask for")
		return ""
	case t.request.Method != connect && t.request.Method != "" && word == "tunnel":
		v.Wrong("connections are tunnelled, not requests", fmt.Sprintf("write request: CONNECT %s", t.request.Target.Authority))
		return ""
	case word == "tunnel":
		return word
	}
	word, _ = v.Choice("allow", "deny")
	return word
}

// parseRequest parses "METHOD URL" or "CONNECT HOST:PORT". A CONNECT has the target / on its host,
// which stands for all that is asked for in it.
func parseRequest(s string) (r Request, msg, hint string) {
	method, url, ok := strings.Cut(s, " ")
	if !ok {
		return Request{}, fmt.Sprintf("%s is not a method and a URL", strictyaml.Quote(s)), "write METHOD URL, with one space"
	}
	if method == connect {
		a, err := ParseAuthority(url)
		if err != nil {
			return Request{}, "such a request never reaches the policy: " + err.Error(), "write CONNECT HOST:PORT"
		}
		return Request{Method: connect, Target: Target{Scheme: "https", Authority: a, Path: "/"}}, "", ""
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
	Request string // "METHOD URL" or "CONNECT HOST:PORT", as the file has it
	Want    string // such as "allow by github-read", "tunnel" or "deny"
	Got     string // such as "allow by llm", "no tunnel" or "deny: path_not_allowed"
	OK      bool

	// Explanation is what the policy says about the request; of a CONNECT, about a request in it.
	Explanation Explanation
}

// RunTests runs the tests of the policy file, in file order. They are about what the policy denies,
// whatever its mode or that of a route: what is only reported counts as denied.
func (p *Policy) RunTests() []TestResult {
	var results []TestResult
	for _, t := range p.tests {
		r := TestResult{Where: t.where, Request: t.text, Explanation: p.Explain(t.request)}
		var got, by string
		got, by, r.Got = p.outcome(t, r.Explanation.Decision)
		r.Want = t.expect
		switch {
		case t.route != "":
			r.Want += " by " + t.route
		case t.reason != "":
			r.Want += ": " + string(t.reason)
		}
		r.OK = got == t.expect && (t.route == "" || t.route == by) && (t.reason == "" || t.reason == denialOf(r.Explanation.Decision))
		results = append(results, r)
	}
	return results
}

// outcome returns what became of a test's request, by which route if by one, and both in words.
func (p *Policy) outcome(t test, d Decision) (got, by, words string) {
	if t.request.Method == connect {
		route := p.Tunnel(t.request.Target.Authority)
		if route == nil {
			return "", "", "no tunnel"
		}
		return "tunnel", route.Name, "tunnel by " + route.Name
	}
	switch {
	case d.Reported != "":
		return "deny", "", "deny: " + string(d.Reported) + " (reported only, by " + d.Route.Name + ")"
	case d.Allow:
		return "allow", d.Route.Name, "allow by " + d.Route.Name
	}
	return "deny", "", "deny: " + string(d.Reason)
}

// denialOf returns why d denies, or would if all routes were in mode enforce.
func denialOf(d Decision) Reason {
	if d.Reported != "" {
		return d.Reported
	}
	return d.Reason
}
