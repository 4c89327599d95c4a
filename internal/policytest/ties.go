package policytest

import (
	"slices"

	"github.com/sidekey/sidekey/policy"
)

// Tied reports whether any two routes could match one request equally well and do different
// things with it.
func Tied(routes []*policy.Route) bool {
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

// Tunnelled reports whether a route is on the same host and port as a tunnel.
func Tunnelled(routes []*policy.Route) bool {
	for i, a := range routes {
		for j, b := range routes {
			if i != j && a.Tunnel && a.Host == b.Host && a.Port == b.Port {
				return true
			}
		}
	}
	return false
}
