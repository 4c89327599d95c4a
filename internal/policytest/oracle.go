// Package policytest draws random policies and requests, and decides them by a naive oracle, for the
// tests of whatever decides by a policy: only test files import it.
package policytest

import (
	"regexp"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/policy"
)

// An Oracle decides what a policy decides, by other means: it is naive, and knows routes and their
// conditions by the text of their file alone. It knows the conditions that [DrawRoute] draws. It is
// safe for concurrent use.
type Oracle struct{ candidates []candidate }

// NewOracle returns an oracle of routes, which are not changed.
func NewOracle(routes []*policy.Route) *Oracle { return &Oracle{candidates(routes)} }

// Tunnel returns the route that tunnels connections to a, or nil.
func (o *Oracle) Tunnel(a policy.Authority) *policy.Route {
	return tunnelOf(o.candidates, policy.Target{Scheme: "https", Authority: a})
}

// MatchesPath reports whether a path matches a pattern.
func MatchesPath(pattern, path string) bool {
	return candidates([]*policy.Route{{Paths: []string{pattern}}})[0].path.MatchString(path)
}

// A candidate is one path of one route.
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

// Decide decides by looking at every candidate and comparing each with the best so far. It gives no
// details.
func (o *Oracle) Decide(r policy.Request) policy.Decision {
	cs := o.candidates
	var matching []*candidate
	var host, scheme, origin, path bool
	if tunnelOf(cs, r.Target) != nil {
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
	best, reported, failed := applyConditions(matching, r)
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
func tunnelOf(cs []candidate, target policy.Target) *policy.Route {
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
