package policy

import "fmt"

// OfRoutes makes a policy of routes whose exported fields are set, without a file: a file may
// not be large enough for the largest policies that tests measure.
func OfRoutes(routes []*Route) *Policy {
	for i, r := range routes {
		r.order = i
		for _, path := range r.Paths {
			p, _, msg, _ := parsePattern(path)
			if msg != "" {
				panic(fmt.Sprintf("path %s: %s", path, msg))
			}
			r.patterns = append(r.patterns, p)
		}
	}
	return &Policy{mode: Enforce, routes: routes, index: newIndex(routes)}
}

// NeedsOf returns whether the path of t needs an encoded slash, and double encoding.
func NeedsOf(t Target) (slash, percent bool) { return t.needs.encodedSlash, t.needs.encodedPercent }

// ParseJSON reads src as a body.
func ParseJSON(src []byte) (any, error) { return parseJSON(src, &lookalikes{}) }
