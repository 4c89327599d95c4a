package policy

import (
	"slices"
	"strings"
	"time"
)

// A Request is what a policy decides on.
type Request struct {
	Method    string
	Target    Target
	WebSocket bool // the request asks to become a WebSocket (RFC 6455)

	// What follows is only looked at if a route that matches has conditions.

	// Header is the header as it was received, by canonical name ("Content-Type"); it may be nil.
	Header map[string][]string

	// Body is the body; nil means that there is none.
	Body Body

	// Session is the session that the request belongs to.
	Session Session

	// Now is the time of the request. If it is zero, conditions on the time deny.
	Now time.Time
}

// A Reason says why a decision is what it is. The set is closed.
type Reason string

// The reasons. All but the first deny.
const (
	Allowed             Reason = "allowed"
	HostNotAllowed      Reason = "host_not_allowed"      // no route names the host
	SchemeNotAllowed    Reason = "scheme_not_allowed"    // the host is named under the other scheme only
	PortNotAllowed      Reason = "port_not_allowed"      // the host is named with another port
	PathNotAllowed      Reason = "path_not_allowed"      // no route of the host names the path
	MethodNotAllowed    Reason = "method_not_allowed"    // the path is named for other methods
	WebSocketNotAllowed Reason = "websocket_not_allowed" // the route that decides grants no WebSocket

	EncodedSlashNotAllowed   Reason = "encoded_slash_not_allowed"   // the route that decides takes no %2F
	EncodedPercentNotAllowed Reason = "encoded_percent_not_allowed" // the route that decides takes nothing encoded twice

	ConditionNotMet   Reason = "condition_not_met"   // all that match but for their conditions have one that is false
	ConditionFailed   Reason = "condition_failed"    // a condition could not be evaluated
	BodyNotAcceptable Reason = "body_not_acceptable" // a condition needs a body, and cannot be sure of this one

	TunnelOnly Reason = "tunnel_only" // connections to the host are tunnelled; no route decides its requests
)

// Reasons returns all reasons, [Allowed] first.
func Reasons() []Reason {
	return []Reason{
		Allowed, HostNotAllowed, SchemeNotAllowed, PortNotAllowed,
		PathNotAllowed, MethodNotAllowed, WebSocketNotAllowed,
		EncodedSlashNotAllowed, EncodedPercentNotAllowed,
		ConditionNotMet, ConditionFailed, BodyNotAcceptable, TunnelOnly,
	}
}

// A Decision is the answer to one request. The zero Decision denies.
type Decision struct {
	Allow  bool
	Reason Reason // [Allowed] if Allow; empty in the zero Decision only
	Route  *Route // the route that allows; nil if denied
	Path   string // the pattern of the route that the path matches; empty if denied

	// Reported is why the request would be denied if Route were not in mode [Report]:
	// [ConditionNotMet], [ConditionFailed] or [BodyNotAcceptable]. It is empty if Allow is false, or
	// if the request is allowed anyway.
	Reported Reason

	// Detail says which conditions are not met, or which one failed and how, if Reason or Reported is
	// [ConditionNotMet], [ConditionFailed] or [BodyNotAcceptable]. It holds nothing of the request.
	Detail string
}

// An origin is what a route names of a request before its path.
type origin struct {
	scheme string
	host   string
	port   uint16
}

// A site is all that a policy says about one origin: a tree of routes, or a tunnel.
type site struct {
	tree    node
	tunnel  *Route
	allowed []string // for AllowedOn, whose cost an agent must not drive by being denied
}

// A door is one scheme and port under which a host is named.
type door struct {
	scheme string
	port   uint16
}

// An index finds routes by request. Hosts of the form *.example.com are kept in the wildcard
// maps, under example.com.
type index struct {
	sites         map[origin]*site
	wildcards     map[origin]*site
	doors         map[string][]door
	wildcardDoors map[string][]door
}

// newIndex expects routes whose order and patterns are set.
func newIndex(routes []*Route) index {
	x := index{
		sites: map[origin]*site{}, wildcards: map[origin]*site{},
		doors: map[string][]door{}, wildcardDoors: map[string][]door{},
	}
	for _, r := range routes {
		sites, doors := x.sites, x.doors
		host, wildcard := strings.CutPrefix(r.Host, "*.")
		if wildcard {
			sites, doors = x.wildcards, x.wildcardDoors
		}
		o := origin{r.Scheme, host, r.Port}
		s := sites[o]
		if s == nil {
			s = &site{}
			sites[o] = s
			doors[host] = append(doors[host], door{r.Scheme, r.Port})
		}
		s.allowed = append(s.allowed, allowedBy(r)...)
		if r.Tunnel {
			s.tunnel = r
		}
		for i, p := range r.patterns {
			s.tree.add(p, r.Paths[i], r)
		}
	}
	for _, sites := range []map[origin]*site{x.sites, x.wildcards} {
		for _, s := range sites {
			s.allowed = slices.Clone(firstAllowed(s.allowed))
		}
	}
	return x
}

// lookup returns the sites for scheme and a, that of the exact host first; either may be nil. If
// one of them is a tunnel, it is the only one: the exact host decides whether to tunnel.
func (x *index) lookup(scheme string, a Authority) (exact, wildcard *site) {
	exact = x.sites[origin{scheme, a.Host, a.Port}]
	if parent := parentOf(a.Host); parent != "" {
		wildcard = x.wildcards[origin{scheme, parent, a.Port}]
	}
	if exact != nil && wildcard != nil && (exact.tunnel != nil || wildcard.tunnel != nil) {
		wildcard = nil
	}
	return exact, wildcard
}

// Tunnel returns the route by which connections to a are passed through as they are, and nil
// if there is none: then they have to be intercepted, and each request decided. The route has
// no credential. A wildcard's tunnel does not reach a host that another route names exactly.
func (p *Policy) Tunnel(a Authority) *Route {
	return tunnelOf(p.index.lookup("https", a))
}

func tunnelOf(exact, wildcard *site) *Route {
	switch {
	case exact != nil:
		return exact.tunnel
	case wildcard != nil:
		return wildcard.tunnel
	}
	return nil
}

// parentOf returns host without its left-most label; "" if there is only one.
func parentOf(host string) string {
	_, parent, _ := strings.Cut(host, ".")
	return parent
}

// Decide says whether r may be sent, and by which route. The package comment says which route
// decides where several match. Its cost does not depend on the number of routes, and without
// conditions it allocates nothing when it allows. A request with a zero Target is denied.
func (p *Policy) Decide(r Request) Decision { return p.decide(&r, nil) }

// decide is Decide with an evaluation to use, which may be nil.
func (p *Policy) decide(r *Request, ev *evaluation) Decision {
	exact, wildcard := p.index.lookup(r.Target.Scheme, r.Target.Authority)
	q := probe{path: r.Target.Path, method: r.Method}
	e := find(exact, wildcard, &q)
	if e == nil {
		return Decision{Reason: p.denial(r, exact, wildcard)}
	}
	if e.route.conditioned() {
		if ev == nil {
			ev = &evaluation{request: *r}
		}
		ev.lookalikes = &p.lookalikes
		return ev.decide(exact, wildcard)
	}
	return grant(e, r)
}

// grant allows r by e, or denies it if it needs what the route does not grant.
func grant(e *end, r *Request) Decision {
	if reason := ungranted(e.route, r); reason != "" {
		return Decision{Reason: reason}
	}
	return Decision{Allow: true, Reason: Allowed, Route: e.route, Path: e.path}
}

func find(exact, wildcard *site, q *probe) *end {
	if q.path == "" || q.path[0] != '/' {
		return nil
	}
	for _, s := range [...]*site{exact, wildcard} {
		if s == nil {
			continue
		}
		if e := s.tree.find(q, 1); e != nil {
			return e
		}
	}
	return nil
}

// denial returns why no route matches r wholly.
func (p *Policy) denial(r *Request, exact, wildcard *site) Reason {
	if tunnelOf(exact, wildcard) != nil {
		return TunnelOnly
	}
	if exact != nil || wildcard != nil {
		if find(exact, wildcard, &probe{path: r.Target.Path, anyMethod: true}) != nil {
			return MethodNotAllowed
		}
		return PathNotAllowed
	}
	doors := slices.Concat(p.index.doors[r.Target.Host], p.index.wildcardDoors[parentOf(r.Target.Host)])
	switch {
	case len(doors) == 0:
		return HostNotAllowed
	case slices.ContainsFunc(doors, func(d door) bool { return d.scheme == r.Target.Scheme }):
		return PortNotAllowed
	}
	return SchemeNotAllowed
}

// KnowsAuthority reports whether any route, a tunnel included, names this scheme, host and port.
func (p *Policy) KnowsAuthority(scheme string, a Authority) bool {
	exact, wildcard := p.index.lookup(scheme, a)
	return exact != nil || wildcard != nil
}
