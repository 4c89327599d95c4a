package policy_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/internal/policytest"
	"github.com/sidekey/sidekey/policy"
)

// drawDiffPolicy draws a policy of routes that overlap, with conditions that Diff knows wholly or, if
// cel, with any.
func drawDiffPolicy(t *rapid.T, label string, cel bool) *policy.Policy {
	head := "version: 1\nrole: r\nmode: enforce\ncredentials:\n  a: {from: {env: {name: A}}, inject: {bearer: {}}}\n" +
		"  b: {from: {env: {name: " + rapid.SampledFrom([]string{"B", "B", "B", "C"}).Draw(t, label+"env") + "}}, inject: {bearer: {}}}\n" +
		"routes:\n  - {name: a, host: a.test, access: read-only, paths: [/], credential: a}\n  - {name: b, host: b.test, access: read-only, paths: [/], credential: b}\n"
	var p *policy.Policy
	for i := range rapid.IntRange(1, 6).Draw(t, label+"routes") {
		r := policytest.DrawRoute(t, i)
		if !cel {
			r.When, r.Mode = "", 0
		}
		line := strings.TrimPrefix(policytest.File([]*policy.Route{r}), "version: 1\nrole: random\nroutes:\n- ")
		line = strings.TrimSuffix(line, "}\n")
		if !r.Tunnel {
			line += rapid.SampledFrom([]string{
				"", "", "", "", ", headers: {X-A: [a, b]}", ", headers: {X-A: a}", ", headers: {X-A: c, X-B: d}", ", headers: {X-B: d}",
				", query: {q: [a, b]}", ", query: {q: a, r: a}", ", content_type: [application/json]", ", content_type: [text/plain, application/json]",
			}).Draw(t, "match")
			if r.Scheme == "https" {
				line += rapid.SampledFrom([]string{"", "", ", credential: a", ", credential: b", ", credential: a, replay: safe"}).Draw(t, "credential")
			}
		}
		// A route that ties with an earlier one is left out.
		if q, err := policy.Parse(label, []byte(head+"  - "+line+"}\n")); err == nil {
			p, head = q, head+"  - "+line+"}\n"
		}
	}
	return p
}

func drawDiffRequest(t *rapid.T) policy.Request {
	r := policytest.DrawRequest(t)
	r.WebSocket = r.WebSocket && r.Method == "GET" // RFC 6455 section 4.1; of others nothing is compared
	query := rapid.SampledFrom([]string{"", "q=a", "q=a&q=b", "q=a&r=a", "r=a", "q=%01", "q=c"}).Draw(t, "query")
	target, err := policy.ParseTarget(r.Target.Scheme, r.Target.Authority, r.Target.Path+"?"+query)
	if err != nil {
		t.Fatal(err)
	}
	r.Target = target
	r.Header = map[string][]string{}
	for _, h := range [][]string{{"X-A", "a", "b", "c", ""}, {"X-B", "d", ""}, {"Content-Type", "application/json", "text/plain", ""}} {
		if v := rapid.SampledFrom(h[1:]).Draw(t, h[0]); v != "" {
			r.Header[h[0]] = []string{v}
		}
	}
	return r
}

// effects is all that Diff compares of what becomes of one request.
type effects struct {
	allowed    bool
	credential policy.Credential
	replay     bool
}

func effectsOf(p *policy.Policy, r policy.Request) effects {
	d := p.Decide(r)
	if !d.Allow {
		return effects{}
	}
	o := effects{allowed: true, replay: d.Route.ReplaySafe}
	if i := slices.IndexFunc(p.Credentials(), func(c policy.Credential) bool { return c.Name == d.Route.Credential }); i >= 0 {
		o.credential = p.Credentials()[i]
		o.credential.Where = ""
	}
	return o
}

// gains reports whether b is access that a is not.
func (a effects) gains(b effects) bool {
	return b.allowed && !a.allowed || b.allowed && b.credential.Name != "" && !reflect.DeepEqual(a.credential, b.credential) || b.allowed && b.replay && !a.replay
}

// TestDiffAgreesWithBruteForce: Diff says that access is gained if and only if some request gains it,
// and likewise for what is lost; and each witness is a request that shows its change. What no
// witness shows is not in the universe: it is made of what the witnesses are, and of random requests.
func TestDiffAgreesWithBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, next := drawDiffPolicy(t, "old", false), drawDiffPolicy(t, "next", false)
		if old == nil || next == nil {
			return
		}
		changes, err := policy.Diff(old, next)
		if err != nil {
			t.Fatal(err)
		}
		back, err := policy.Diff(next, old)
		if err != nil {
			t.Fatal(err)
		}
		if len(changes) == 0 != (len(back) == 0) {
			t.Fatalf("%d changes one way, %d the other", len(changes), len(back))
		}
		gained := slices.ContainsFunc(changes, policy.Change.Gains)
		lost := slices.ContainsFunc(back, policy.Change.Gains)
		for _, c := range changes {
			checkWitness(t, old, next, c)
		}
		for range 60 {
			r := drawDiffRequest(t)
			a, b := effectsOf(old, r), effectsOf(next, r)
			if a.gains(b) && !gained || b.gains(a) && !lost {
				t.Fatalf("%s %s %v ws %v: %+v to %+v; gained %v, lost %v", r.Method, r.Target, r.Header, r.WebSocket, a, b, gained, lost)
			}
			if !a.allowed && b.allowed && !slices.ContainsFunc(changes, func(c policy.Change) bool { return covers(c, r, policy.Gained) }) {
				t.Fatalf("%s %s ws %v: gained, and in none of %d changes", r.Method, r.Target, r.WebSocket, len(changes))
			}
		}
	})
}

// covers reports whether c is about requests like r.
func covers(c policy.Change, r policy.Request, kind policy.ChangeKind) bool {
	return c.Kind == kind && (c.What == policy.ChangeAccess || c.What == policy.ChangeWebSocket && r.WebSocket) &&
		slices.Contains(c.Methods, r.Method) && c.Scheme == r.Target.Scheme && c.Port == r.Target.Port &&
		policytest.MatchesPath(c.Path, r.Target.Path)
}

func checkWitness(t *rapid.T, old, next *policy.Policy, c policy.Change) {
	if c.What == policy.ChangeTunnel {
		a := c.Witness.Request.Target.Authority
		if (old.Tunnel(a) == nil) != (c.Kind == policy.Gained) || (next.Tunnel(a) == nil) != (c.Kind == policy.Lost) {
			t.Fatalf("%s tunnel: witness %s is none", c.Kind, c.Witness)
		}
		return
	}
	r := c.Witness.Request
	if target, err := policy.ParseURL(r.Target.String()); err != nil || target != r.Target || len(c.Witness.Assume) > 0 {
		t.Fatalf("witness %s, assuming %v: %v", c.Witness, c.Witness.Assume, err)
	}
	a, b := effectsOf(old, r), effectsOf(next, r)
	shows := map[policy.ChangeKind]bool{
		policy.Gained:  a.gains(b),
		policy.Lost:    b.gains(a),
		policy.Changed: a.allowed && b.allowed && a.gains(b),
	}[c.Kind]
	if c.What == policy.ChangeAccess {
		shows = shows && a.allowed != b.allowed
	}
	if !shows {
		t.Fatalf("%s %s %s%s: the witness %s %v becomes %+v and %+v", c.Kind, c.What, c.Host, c.Path, c.Witness, r.Header, a, b)
	}
}

// TestDiffMissesNothing: with any conditions, whatever some request gains is in the difference, and
// there is none between a policy and itself.
func TestDiffMissesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, next := drawDiffPolicy(t, "old", true), drawDiffPolicy(t, "next", true)
		if old == nil || next == nil {
			return
		}
		if same, err := policy.Diff(old, old); err != nil || len(same) > 0 {
			t.Fatalf("against itself: %d changes, %v", len(same), err)
		}
		changes, err := policy.Diff(old, next)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			r := policytest.DrawRequest(t)
			r.WebSocket = r.WebSocket && r.Method == "GET"
			a, b := effectsOf(old, r), effectsOf(next, r)
			if a.gains(b) && !slices.ContainsFunc(changes, policy.Change.Gains) {
				t.Fatalf("%s %s %v: %+v to %+v; %d changes", r.Method, r.Target, r.Header, a, b, len(changes))
			}
		}
	})
}

// BenchmarkDiff is how long two large policies take.
func BenchmarkDiff(b *testing.B) {
	var old, next []string
	for i := range 5000 {
		line := fmt.Sprintf(`host: h%d.test, access: read-only, paths: ["/r%d/*/x", "/r%d/**"]`, i/50, i, i)
		old, next = append(old, line), append(next, strings.Replace(line, "/x", "/y", i%2))
	}
	p, q := mustParse(b, ofRoutes(old...)), mustParse(b, ofRoutes(next...))
	for b.Loop() {
		if _, err := policy.Diff(p, q); err != nil {
			b.Fatal(err)
		}
	}
}
