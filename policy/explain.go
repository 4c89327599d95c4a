package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	maxMisses  = 5
	maxAllowed = 20
)

// An Explanation is a decision in words.
type Explanation struct {
	Decision

	// Misses are the routes that came nearest to allowing a request that is denied, or reported,
	// the nearest first, at most five.
	Misses []Miss

	// Conditions are the conditions that were evaluated to decide, in that order.
	Conditions []ConditionValue
}

// A ConditionValue is what a condition of a route comes to on a request.
type ConditionValue struct {
	Route     *Route
	Condition string // one of the route's Conditions
	Value     string // "true", "false", or "error: " and what is wrong; it holds nothing of the request
}

// A Miss is a route that did not match a request, and all that keeps it from matching.
type Miss struct {
	Route   *Route
	Differs []string // such as "method: DELETE is not one of GET, HEAD, OPTIONS"
}

// Explain returns what [Policy.Decide] returns and, unless the request is simply allowed, the
// nearest misses.
// It looks at every route: it is for people, not for the way of a request.
func (p *Policy) Explain(r Request) Explanation {
	ev := evaluation{request: r, trace: true}
	e := Explanation{Decision: p.decide(&r, &ev)}
	e.Conditions = ev.values
	if e.Allow && e.Reported == "" {
		return e
	}
	type ranked struct {
		miss     Miss
		distance int
	}
	var near []ranked
	for _, route := range p.routes {
		if m, distance, ok := missOf(route, &ev); ok {
			near = append(near, ranked{m, distance})
		}
	}
	slices.SortStableFunc(near, func(a, b ranked) int { return cmp.Compare(a.distance, b.distance) })
	for _, n := range near[:min(len(near), maxMisses)] {
		e.Misses = append(e.Misses, n.miss)
	}
	return e
}

// missOf says what keeps route from allowing the request of ev and how far it is from it; ok is false if the
// hosts have nothing to do with each other, or if nothing differs.
func missOf(route *Route, ev *evaluation) (m Miss, distance int, ok bool) {
	m.Route = route
	r := &ev.request
	differ := func(weight int, format string, args ...any) {
		m.Differs = append(m.Differs, fmt.Sprintf(format, args...))
		distance += weight
	}
	t := r.Target
	if !matchesHost(route.Host, t.Host) {
		slips, near := slipsBetween(route.Host, t.Host)
		if !near {
			return Miss{}, 0, false
		}
		differ(100+slips, "host: %s is not %s", shown(t.Host), route.Host)
	}
	if t.Scheme != route.Scheme {
		differ(20, "scheme: %s is not %s", shown(t.Scheme), route.Scheme)
	}
	// A port that only follows from a scheme is no difference of its own.
	if t.Port != route.Port && (t.Port != defaultPort(t.Scheme) || route.Port != defaultPort(route.Scheme)) {
		differ(20, "port: %d is not %d", t.Port, route.Port)
	}
	if route.Tunnel {
		differ(5, "tunnel: connections to the host are tunnelled uninspected (CONNECT); no request of it is decided")
		return m, distance, true
	}
	if !matchesAny(route.patterns, t.Path) {
		note := ""
		if matchesAny(route.patterns, otherSlash(t.Path)) {
			note = " (the / at the end makes it another path)"
		}
		differ(10-min(sharedSegments(route.patterns, t.Path), 8), "path: %s does not match %s%s", shown(t.Path), orList(route.Paths), note)
	}
	if len(m.Differs) == 0 {
		if condition, value := ev.unmet(route); condition != "" {
			differ(2, "%s is %s", condition, value)
		}
	}
	if !slices.Contains(route.Methods, r.Method) {
		oneOf := ""
		if len(route.Methods) > 1 {
			oneOf = "one of "
		}
		differ(5, "method: %s is not %s%s", shown(r.Method), oneOf, strings.Join(route.Methods, ", "))
	}
	if r.WebSocket && !route.WebSocket {
		differ(3, "websocket: the route does not have websocket: true")
	}
	if t.needs.encodedSlash && !route.AllowEncodedSlash {
		differ(3, "path: it has an encoded slash (%%2F); the route does not have allow_encoded_slash: true")
	}
	if t.needs.encodedPercent && !route.AllowEncodedPercent {
		differ(3, "path: it is encoded twice (%%25); the route does not have allow_encoded_percent: true")
	}
	return m, distance, len(m.Differs) > 0
}

// unmet returns the first condition of route that does not hold, and its value. It returns "" if
// all hold, or if no pattern of route matches the path.
func (ev *evaluation) unmet(route *Route) (condition, value string) {
	i := slices.IndexFunc(route.patterns, func(p pattern) bool { return p.matches(ev.request.Target.Path) })
	if i < 0 || !route.conditioned() {
		return "", ""
	}
	ev.cost = 0
	if met, _ := ev.check(route, route.Paths[i]); met {
		return "", ""
	}
	last := ev.values[len(ev.values)-1]
	return last.Condition, last.Value
}

// matchesHost reports whether a route's host covers host.
func matchesHost(routeHost, host string) bool {
	parent, wildcard := strings.CutPrefix(routeHost, "*.")
	if wildcard {
		return parentOf(host) == parent
	}
	return routeHost == host
}

// slipsBetween counts the slips between two hosts that may be the same one mistyped, or of
// which one is the other with a label more or less.
func slipsBetween(routeHost, host string) (slips int, near bool) {
	name := strings.TrimPrefix(routeHost, "*.")
	if name != "" && host != "" && (name == host || parentOf(host) == name || parentOf(name) == host && strings.Contains(host, ".")) {
		return 3, true
	}
	if host == "" || len(host) > len(name)+3 || len(name) > len(host)+3 {
		return 0, false
	}
	slips = strictyaml.Distance(host, name)
	return slips, slips <= 3 && slips*4 < len(name)
}

func matchesAny(patterns []pattern, path string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.matches(path) })
}

// matches reports whether p matches path, which begins with "/" if it is a Target's.
func (p pattern) matches(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	return p.shared(strings.Split(path[1:], "/")) == -1
}

// shared returns how many segments p has in common with the beginning of a path, and -1 if p
// matches the path wholly.
func (p pattern) shared(segments []string) int {
	for i, e := range p {
		if e.kind == anySegments {
			after := p[i+1:]
			if len(after) > len(segments)-i || after.shared(segments[len(segments)-len(after):]) >= 0 {
				return i
			}
			return -1
		}
		if i == len(segments) || e.kind == exactSegment && e.text != segments[i] || e.kind == anySegment && segments[i] == "" {
			return i
		}
	}
	if len(p) < len(segments) {
		return len(p)
	}
	return -1
}

func sharedSegments(patterns []pattern, path string) int {
	most := 0
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, p := range patterns {
		most = max(most, p.shared(segments))
	}
	return most
}

// otherSlash returns path with a slash at its end added or taken away.
func otherSlash(path string) string {
	if without, ok := strings.CutSuffix(path, "/"); ok {
		return without
	}
	return path + "/"
}

// orList joins the first paths of a route for a sentence.
func orList(paths []string) string {
	const most = 3
	switch {
	case len(paths) > most+1:
		return strings.Join(paths[:most], ", ") + fmt.Sprintf(" or %d more", len(paths)-most)
	case len(paths) > 1:
		return strings.Join(paths[:len(paths)-1], ", ") + " or " + paths[len(paths)-1]
	}
	return strings.Join(paths, "")
}

// shown bounds and escapes what is repeated from a request.
func shown(s string) string {
	quoted := strictyaml.Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain != "" && !strings.Contains(plain, `\`) {
		return plain
	}
	return quoted
}

// AllowedOn lists for people what the policy allows on a, under either scheme: lines such as
// "GET, HEAD /repos/acme/**", "POST /graphql (with conditions)" or "CONNECT, tunnelled
// uninspected", sorted, at most 20. Where no route names a's port, it lists the ports and schemes
// under which the host is named, as "https://api.test:8443". It is nil if no route names the host.
func (p *Policy) AllowedOn(a Authority) []string {
	var lines []string
	for _, scheme := range []string{"https", "http"} {
		exact, wildcard := p.index.lookup(scheme, a)
		for _, s := range [...]*site{exact, wildcard} {
			if s != nil {
				lines = append(lines, s.allowed...)
			}
		}
	}
	if lines == nil {
		for _, d := range slices.Concat(p.index.doors[a.Host], p.index.wildcardDoors[parentOf(a.Host)]) {
			lines = append(lines, d.scheme+"://"+Authority{a.Host, d.port}.String())
		}
	}
	return firstAllowed(lines)
}

// allowedBy lists what r allows, for [Policy.AllowedOn].
func allowedBy(r *Route) []string {
	if r.Tunnel {
		return []string{"CONNECT, tunnelled uninspected"}
	}
	lines := make([]string, len(r.Paths))
	for i, path := range r.Paths {
		lines[i] = strings.Join(r.Methods, ", ") + " " + path
		if r.conditioned() {
			lines[i] += " (with conditions)"
		}
	}
	return lines
}

// firstAllowed sorts lines in place and returns the first ones, each once.
func firstAllowed(lines []string) []string {
	slices.Sort(lines)
	lines = slices.Compact(lines)
	return lines[:min(len(lines), maxAllowed)]
}
