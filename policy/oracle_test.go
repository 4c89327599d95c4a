package policy_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/policy"
)

// A candidate is one path of one route, as the oracle knows it: from the file's text alone.
type candidate struct {
	route    *policy.Route
	index    int
	text     string
	segments []string
	path     *regexp.Regexp
}

func candidates(routes []*policy.Route) []candidate {
	var cs []candidate
	for i, r := range routes {
		if r.Tunnel {
			cs = append(cs, candidate{route: r, index: i})
		}
		for _, path := range r.Paths {
			c := candidate{route: r, index: i, text: path, segments: strings.Split(path[1:], "/")}
			expr := "^"
			for j, s := range c.segments {
				switch {
				case s == "**":
					expr += "(?:/[^/]*)*"
				case s == "*" || strings.HasPrefix(s, "{"):
					c.segments[j] = "*"
					expr += "/[^/]+"
				default:
					expr += "/" + regexp.QuoteMeta(s)
				}
			}
			c.path = regexp.MustCompile(expr + "$")
			cs = append(cs, c)
		}
	}
	return cs
}

func (c candidate) wildcard() bool { return strings.HasPrefix(c.route.Host, "*.") }

func (c candidate) coversHost(host string) bool {
	if !c.wildcard() {
		return c.route.Host == host
	}
	label, found := strings.CutSuffix(host, c.route.Host[1:])
	return found && label != "" && !strings.Contains(label, ".")
}

// comparePaths is negative if the path a is more specific than b; both match one request.
func comparePaths(a, b []string) int {
	rank := func(segments []string, i int) int {
		switch {
		case i == len(segments):
			return 2
		case segments[i] == "**":
			return 3
		case segments[i] == "*":
			return 1
		}
		return 0
	}
	deep := false
	for i := 0; i < len(a) || i < len(b); i++ {
		if ra, rb := rank(a, i), rank(b, i); ra != rb {
			return ra - rb
		}
		if !deep && a[i] == "**" {
			deep = true
			if len(a) != len(b) {
				return len(b) - len(a)
			}
		}
	}
	return 0
}

// oracle decides by looking at every candidate and comparing each with the best so far.
func oracle(cs []candidate, r policy.Request) policy.Decision {
	var matching []*candidate
	var host, scheme, origin, path bool
	if oracleTunnel(cs, r.Target) != nil {
		return policy.Decision{Reason: policy.TunnelOnly}
	}
	for i := range cs {
		c := &cs[i]
		if !c.coversHost(r.Target.Host) {
			continue
		}
		host = true
		scheme = scheme || c.route.Scheme == r.Target.Scheme
		if c.route.Scheme != r.Target.Scheme || c.route.Port != r.Target.Port {
			continue
		}
		origin = true
		if c.route.Tunnel || !c.path.MatchString(r.Target.Path) {
			continue
		}
		path = true
		if slices.Contains(c.route.Methods, r.Method) {
			matching = append(matching, c)
		}
	}
	best, reported, failed := oracleConditions(matching, r)
	var denial policy.Reason
	switch {
	case failed:
		denial = policy.ConditionFailed
	case best == nil && len(matching) > 0:
		denial = policy.ConditionNotMet
	}
	if denial != "" && reported == nil {
		return policy.Decision{Reason: denial}
	}
	if denial != "" {
		best = reported
	}
	switch {
	case best != nil && r.WebSocket && !best.route.WebSocket:
		return policy.Decision{Reason: policy.WebSocketNotAllowed}
	case best != nil && !best.route.AllowEncodedSlash && slashIn(r.Target.Path):
		return policy.Decision{Reason: policy.EncodedSlashNotAllowed}
	case best != nil && !best.route.AllowEncodedPercent && encodedTwice.MatchString(r.Target.Path):
		return policy.Decision{Reason: policy.EncodedPercentNotAllowed}
	case best != nil:
		return policy.Decision{Allow: true, Reason: policy.Allowed, Route: best.route, Path: best.text, Reported: denial}
	case path:
		return policy.Decision{Reason: policy.MethodNotAllowed}
	case origin:
		return policy.Decision{Reason: policy.PathNotAllowed}
	case scheme:
		return policy.Decision{Reason: policy.PortNotAllowed}
	case host:
		return policy.Decision{Reason: policy.SchemeNotAllowed}
	}
	return policy.Decision{Reason: policy.HostNotAllowed}
}

var (
	encodedTwice = regexp.MustCompile(`%25[0-9A-Fa-f]{2}`)
	encodedSlash = regexp.MustCompile(`(?i)%(25)*2f`)
)

func slashIn(path string) bool { return encodedSlash.MatchString(path) }

// oracleTunnel returns the route that tunnels connections for target: that of the exact host, if
// any route names it, else that of a wildcard.
func oracleTunnel(cs []candidate, target policy.Target) *policy.Route {
	if target.Scheme != "https" {
		return nil
	}
	var found *policy.Route
	for _, c := range cs {
		if c.route.Scheme != "https" || c.route.Port != target.Port || !c.coversHost(target.Host) {
			continue
		}
		switch {
		case !c.wildcard() && c.route.Tunnel:
			return c.route
		case !c.wildcard():
			return nil
		case c.route.Tunnel:
			found = c.route
		}
	}
	return found
}

func (c *candidate) beats(d *candidate) bool {
	if c.wildcard() != d.wildcard() {
		return d.wildcard()
	}
	if n := comparePaths(c.segments, d.segments); n != 0 {
		return n < 0
	}
	if len(c.route.Methods) != len(d.route.Methods) {
		return len(c.route.Methods) < len(d.route.Methods)
	}
	if (c.route.When == "") != (d.route.When == "") {
		return c.route.When != ""
	}
	return c.index < d.index
}

// tied reports whether any two routes could match one request equally well and do different
// things with it.
func tied(routes []*policy.Route) bool {
	cs := candidates(routes)
	for i, c := range cs {
		for _, d := range cs[i+1:] {
			sameOrigin := c.route.Scheme == d.route.Scheme && c.route.Host == d.route.Host && c.route.Port == d.route.Port
			if c.index == d.index || !sameOrigin || !slices.Equal(c.segments, d.segments) || effect(c.route) == effect(d.route) {
				continue
			}
			inC := func(m string) bool { return slices.Contains(c.route.Methods, m) }
			inD := func(m string) bool { return slices.Contains(d.route.Methods, m) }
			all := func(ms []string, in func(string) bool) bool {
				return !slices.ContainsFunc(ms, func(m string) bool { return !in(m) })
			}
			if (c.route.When == "") != (d.route.When == "") && len(c.route.Methods) == len(d.route.Methods) {
				continue
			}
			cInD, dInC := all(c.route.Methods, inD), all(d.route.Methods, inC)
			if slices.ContainsFunc(c.route.Methods, inD) && cInD == dInC {
				return true
			}
		}
	}
	return false
}

// effect is all that a route does to a request that it matches.
func effect(r *policy.Route) [3]bool {
	return [3]bool{r.WebSocket, r.AllowEncodedSlash, r.AllowEncodedPercent}
}

// tunnelled reports whether a route is on the same host and port as a tunnel.
func tunnelled(routes []*policy.Route) bool {
	for i, a := range routes {
		for j, b := range routes {
			if i != j && a.Tunnel && a.Host == b.Host && a.Port == b.Port {
				return true
			}
		}
	}
	return false
}

func drawRoute(t *rapid.T, i int) *policy.Route {
	seldom := func(label string) bool { return rapid.IntRange(0, 9).Draw(t, label) == 0 }
	if seldom("tunnel") {
		return &policy.Route{
			Name:   fmt.Sprint("r", i),
			Scheme: "https",
			Host:   rapid.SampledFrom([]string{"a.example.com", "*.example.com", "b.example.com"}).Draw(t, "host"),
			Port:   rapid.SampledFrom([]uint16{443, 8443, 8443}).Draw(t, "port"),
			Tunnel: true,
		}
	}
	r := &policy.Route{
		Name:                fmt.Sprint("r", i),
		Scheme:              rapid.SampledFrom([]string{"https", "https", "https", "http"}).Draw(t, "scheme"),
		Host:                rapid.SampledFrom([]string{"a.example.com", "*.example.com", "b.example.com"}).Draw(t, "host"),
		Port:                rapid.SampledFrom([]uint16{443, 443, 443, 8443}).Draw(t, "port"),
		Methods:             rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "POST", "PUT"}), 1, 3, rapid.ID).Draw(t, "methods"),
		WebSocket:           seldom("websocket"),
		AllowEncodedSlash:   seldom("slash"),
		AllowEncodedPercent: seldom("percent"),
	}
	if rapid.IntRange(0, 3).Draw(t, "conditioned") == 0 {
		r.When = rapid.SampledFrom(slices.Sorted(maps.Keys(conditions))).Draw(t, "when")
		if rapid.IntRange(0, 2).Draw(t, "report") == 0 {
			r.Mode = policy.Report
		}
	}
	exact := []string{"a", "b", "*", "*", "{x}"}
	if r.AllowEncodedSlash {
		exact = append(exact, "a%2Fb")
	}
	if r.AllowEncodedPercent {
		exact = append(exact, "a%2520")
	}
	path := rapid.Custom(func(t *rapid.T) string {
		segments := rapid.SliceOfN(rapid.SampledFrom(exact), 0, 4).Draw(t, "segments")
		for j := range segments {
			if segments[j] == "{x}" {
				segments[j] = fmt.Sprintf("{x%d}", j)
			}
		}
		if rapid.Bool().Draw(t, "deep") {
			segments = slices.Insert(segments, rapid.IntRange(0, len(segments)).Draw(t, "at"), "**")
		}
		if len(segments) == 0 || rapid.IntRange(0, 4).Draw(t, "slash") == 0 {
			segments = append(segments, "")
		}
		return "/" + strings.Join(segments, "/")
	})
	shape := func(path string) string { return regexp.MustCompile(`{\w+}`).ReplaceAllString(path, "*") }
	r.Paths = rapid.SliceOfNDistinct(path, 1, 3, shape).Draw(t, "paths")
	if r.WebSocket && !slices.Contains(r.Methods, "GET") {
		r.Methods = append(r.Methods, "GET")
	}
	return r
}

func file(routes []*policy.Route) string {
	var b strings.Builder
	b.WriteString("version: 1\nrole: random\nroutes:\n")
	for _, r := range routes {
		fmt.Fprintf(&b, "- {name: %s, host: '%s://%s:%d', ", r.Name, r.Scheme, r.Host, r.Port)
		if r.Tunnel {
			b.WriteString("tunnel: true}\n")
			continue
		}
		fmt.Fprintf(&b, "methods: [%s], paths: ['%s'], websocket: %v, allow_encoded_slash: %v, allow_encoded_percent: %v",
			strings.Join(r.Methods, ", "), strings.Join(r.Paths, "', '"), r.WebSocket, r.AllowEncodedSlash, r.AllowEncodedPercent)
		if r.When != "" {
			fmt.Fprintf(&b, ", when: '%s'", r.When)
		}
		if r.Mode == policy.Report {
			b.WriteString(", mode: report")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func drawRequest(t *rapid.T) policy.Request {
	segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "a", "b", "c", "a%2Fb", "a%2520", "a%252Fb"}), 0, 6).Draw(t, "path")
	if len(segments) == 0 || rapid.IntRange(0, 4).Draw(t, "slash") == 0 {
		segments = append(segments, "")
	}
	authority := policy.Authority{
		Host: rapid.SampledFrom([]string{"a.example.com", "b.example.com", "c.example.com", "example.com", "a.a.example.com"}).Draw(t, "host"),
		Port: rapid.SampledFrom([]uint16{443, 443, 443, 8443, 22}).Draw(t, "port"),
	}
	scheme := rapid.SampledFrom([]string{"https", "https", "https", "http"}).Draw(t, "scheme")
	target, err := policy.ParseTarget(scheme, authority, "/"+strings.Join(segments, "/"))
	if err != nil {
		t.Fatal(err)
	}
	return policy.Request{
		Method:    rapid.SampledFrom([]string{"GET", "POST", "PUT", "DELETE", ""}).Draw(t, "method"),
		Target:    target,
		WebSocket: rapid.IntRange(0, 9).Draw(t, "websocket") == 0,
		Header: rapid.SampledFrom([]map[string][]string{
			{"Content-Type": {"application/json"}, "X-A": {"1"}},
			{"Content-Type": {"application/json"}, "X-A": {"2"}},
			{"Content-Type": {"application/json"}},
		}).Draw(t, "header"),
		Body: rapid.SampledFrom([]text{"1", "2", "?"}).Draw(t, "body"),
	}
}

// TestDecideAgreesWithOracle: the index decides and tunnels what a naive scan does, Explain
// decides what Decide does and gives a reason for each miss, and Parse refuses exactly the ties
// and the routes on tunnelled hosts.
func TestDecideAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var routes []*policy.Route
		for i := range rapid.IntRange(1, 12).Draw(t, "routes") {
			routes = append(routes, drawRoute(t, i))
		}
		p, err := policy.Parse("p", []byte(file(routes)))
		if err != nil || tied(routes) || tunnelled(routes) {
			var ms policy.Mistakes
			errors.As(err, &ms)
			has := func(words string) bool {
				return slices.ContainsFunc(ms, func(m policy.Mistake) bool { return strings.Contains(m.Msg, words) })
			}
			others := slices.ContainsFunc(ms, func(m policy.Mistake) bool {
				return !strings.HasPrefix(m.Msg, "matches the same requests") && !strings.HasPrefix(m.Msg, "the tunnel at")
			})
			if has("matches the same requests") != tied(routes) || has("the tunnel at") != tunnelled(routes) || others {
				t.Fatalf("tied: %v; tunnelled: %v; Parse: %v\n%s", tied(routes), tunnelled(routes), err, file(routes))
			}
			return
		}
		cs := candidates(p.Routes())
		for range 40 {
			r := drawRequest(t)
			got, want := p.Decide(r), oracle(cs, r)
			for _, pair := range [][2]*policy.Reason{{&got.Reason, &want.Reason}, {&got.Reported, &want.Reported}} {
				if *pair[0] == policy.ConditionFailed || *pair[0] == policy.BodyNotAcceptable || *pair[0] == policy.ConditionNotMet {
					if got.Detail == "" {
						t.Fatalf("%s %s: no detail", r.Method, r.Target)
					}
					want.Detail = got.Detail
				}
				if *pair[0] == policy.BodyNotAcceptable && *pair[1] == policy.ConditionFailed {
					*pair[1] = *pair[0]
				}
			}
			if got != want {
				t.Fatalf("%s %s: got %+v, want %+v\n%s", r.Method, r.Target, got, want, file(routes))
			}
			checkExplanation(t, p, r, got)
			if got, want := p.Tunnel(r.Target.Authority), oracleTunnel(cs, https(r.Target)); got != want {
				t.Fatalf("%s: tunnel %+v, want %+v\n%s", r.Target.Authority, got, want, file(routes))
			}
		}
	})
}

// https returns target as a CONNECT to its authority means it.
func https(target policy.Target) policy.Target {
	target.Scheme = "https"
	return target
}

func checkExplanation(t *rapid.T, p *policy.Policy, r policy.Request, want policy.Decision) {
	e := p.Explain(r)
	if e.Decision != want {
		t.Fatalf("%s %s: Explain decides %+v, Decide %+v", r.Method, r.Target, e.Decision, want)
	}
	plain := e.Allow && e.Reported == ""
	if plain && len(e.Misses) > 0 || len(e.Misses) > 5 {
		t.Fatalf("%s %s: allowed %v with %d misses", r.Method, r.Target, e.Allow, len(e.Misses))
	}
	if !plain && e.Reason != policy.HostNotAllowed && len(e.Misses) == 0 {
		t.Fatalf("%s %s: denied for %s without a miss", r.Method, r.Target, e.Reason)
	}
	for _, m := range e.Misses {
		if m.Route == nil || len(m.Differs) == 0 {
			t.Fatalf("%s %s: a miss without route or difference: %+v", r.Method, r.Target, m)
		}
	}
}
