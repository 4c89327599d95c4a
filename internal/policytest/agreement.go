package policytest

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/policy"
)

// An Agreement holds one policy to the oracle.
type Agreement struct {
	t      *rapid.T
	policy *policy.Policy
	oracle *Oracle
	text   string

	tests   strings.Builder   // a file of tests: what Request has found
	decided []policy.Decision // of each of them
}

// NewAgreement returns an agreement on p, whose routes are those of the file text. What does not agree
// fails t.
func NewAgreement(t *rapid.T, p *policy.Policy, text string) *Agreement {
	return &Agreement{t: t, policy: p, oracle: NewOracle(p.Routes()), text: text}
}

// Request holds that Decide decides and Tunnel tunnels what the oracle does, and that Explain decides
// what Decide does and gives a reason for each miss. It returns what was decided.
func (a *Agreement) Request(r policy.Request) policy.Decision {
	got, want := a.policy.Decide(r), a.oracle.Decide(r)
	for _, pair := range [][2]*policy.Reason{{&got.Reason, &want.Reason}, {&got.Reported, &want.Reported}} {
		if *pair[0] == policy.ConditionFailed || *pair[0] == policy.BodyNotAcceptable || *pair[0] == policy.ConditionNotMet {
			if got.Detail == "" {
				a.t.Fatalf("%s %s: no detail", r.Method, r.Target)
			}
			want.Detail = got.Detail
		}
		if *pair[0] == policy.BodyNotAcceptable && *pair[1] == policy.ConditionFailed {
			*pair[1] = *pair[0]
		}
	}
	if got != want {
		a.t.Fatalf("%s %s: got %+v, want %+v\n%s", r.Method, r.Target, got, want, a.text)
	}
	a.checkExplanation(r, got)
	if got, want := a.policy.Tunnel(r.Target.Authority), a.oracle.Tunnel(r.Target.Authority); got != want {
		a.t.Fatalf("%s: tunnel %+v, want %+v\n%s", r.Target.Authority, got, want, a.text)
	}
	return got
}

func (a *Agreement) checkExplanation(r policy.Request, want policy.Decision) {
	e := a.policy.Explain(r)
	if e.Decision != want {
		a.t.Fatalf("%s %s: Explain decides %+v, Decide %+v", r.Method, r.Target, e.Decision, want)
	}
	plain := e.Allow && e.Reported == ""
	if plain && len(e.Misses) > 0 || len(e.Misses) > 5 {
		a.t.Fatalf("%s %s: allowed %v with %d misses", r.Method, r.Target, e.Allow, len(e.Misses))
	}
	if !plain && e.Reason != policy.HostNotAllowed && len(e.Misses) == 0 {
		a.t.Fatalf("%s %s: denied for %s without a miss", r.Method, r.Target, e.Reason)
	}
	for _, m := range e.Misses {
		if m.Route == nil || len(m.Differs) == 0 {
			a.t.Fatalf("%s %s: a miss without route or difference: %+v", r.Method, r.Target, m)
		}
	}
}

// Test adds a test to those of [Agreement.RunTests]: that r, whose method must not be empty, is decided
// as d says, which is what Request returned for it.
func (a *Agreement) Test(r policy.Request, d policy.Decision) {
	fmt.Fprintf(&a.tests, "- {request: '%s %s', websocket: %v, headers: {", r.Method, r.Target, r.WebSocket)
	separator := ""
	for _, name := range []string{"Content-Type", "X-A"} {
		if values := r.Header[name]; values != nil {
			fmt.Fprintf(&a.tests, "%s%s: '%s'", separator, name, values[0])
			separator = ", "
		}
	}
	a.tests.WriteString("}, ")
	if body, ok := r.Body.(text); ok {
		fmt.Fprintf(&a.tests, "body: '%s', ", string(body))
	}
	switch {
	case d.Reported != "":
		fmt.Fprintf(&a.tests, "expect: deny, reason: %s}\n", d.Reported)
	case d.Allow:
		fmt.Fprintf(&a.tests, "expect: allow, route: %s}\n", d.Route.Name)
	default:
		fmt.Fprintf(&a.tests, "expect: deny, reason: %s}\n", d.Reason)
	}
	a.decided = append(a.decided, d)
}

// RunTests runs the tests as those of a policy file are run, and holds that each succeeds, and is
// explained by what was decided.
func (a *Agreement) RunTests() {
	if len(a.decided) == 0 {
		return
	}
	results, err := a.policy.RunTestFile("p_test.yaml", []byte("tests:\n"+a.tests.String()))
	if err != nil || len(results) != len(a.decided) {
		a.t.Fatalf("%d results of %d tests: %v\n%s", len(results), len(a.decided), err, a.tests.String())
	}
	for i, r := range results {
		if !r.OK || r.Explanation.Decision != a.decided[i] {
			a.t.Fatalf("%s: %s: got %s, want %s; decided %+v\n%s", r.Where, r.Request, r.Got, r.Want, a.decided[i], a.text)
		}
	}
}
