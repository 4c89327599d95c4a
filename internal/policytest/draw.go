package policytest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/policy"
)

// DrawRoutes draws 1 to 12 routes, of which no two have the same name. Not all such routes make a
// policy: see [Tied] and [Tunnelled].
func DrawRoutes(t *rapid.T) []*policy.Route {
	var routes []*policy.Route
	for i := range rapid.IntRange(1, 12).Draw(t, "routes") {
		routes = append(routes, DrawRoute(t, i))
	}
	return routes
}

// DrawRoute draws a route named by i: a tunnel, or one with methods and paths that overlap with those
// of others, and perhaps a condition.
func DrawRoute(t *rapid.T, i int) *policy.Route {
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

// File returns the text of a policy file with routes.
func File(routes []*policy.Route) string {
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

// DrawRequestNear draws a request that one of routes would match, but for its conditions and perhaps its
// methods. It is nothing special if that route is a tunnel.
func DrawRequestNear(t *rapid.T, routes []*policy.Route) policy.Request {
	r := DrawRequest(t)
	route := rapid.SampledFrom(routes).Draw(t, "near")
	host := route.Host
	if label, wildcard := strings.CutPrefix(host, "*"); wildcard {
		host = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "label") + label
	}
	path := r.Target.Path
	if !route.Tunnel {
		path = drawPathOf(t, rapid.SampledFrom(route.Paths).Draw(t, "pattern"))
		r.Method = rapid.SampledFrom(append(slices.Clone(route.Methods), r.Method)).Draw(t, "method")
	}
	target, err := policy.ParseTarget(route.Scheme, policy.Authority{Host: host, Port: route.Port}, path)
	if err != nil {
		t.Fatal(err)
	}
	r.Target = target
	return r
}

// drawPathOf draws a path that a pattern matches.
func drawPathOf(t *rapid.T, pattern string) string {
	segment := rapid.SampledFrom([]string{"a", "b", "a", "b", "c", "a%2Fb", "a%2520"})
	var segments []string
	for s := range strings.SplitSeq(pattern[1:], "/") {
		switch {
		case s == "**":
			segments = append(segments, rapid.SliceOfN(segment, 0, 2).Draw(t, "deep")...)
		case s == "*" || strings.HasPrefix(s, "{"):
			segments = append(segments, segment.Draw(t, "segment"))
		default:
			segments = append(segments, s)
		}
	}
	return "/" + strings.Join(segments, "/")
}

// DrawRequest draws a request that routes of [DrawRoute] have a chance to match. Its method can be
// empty.
func DrawRequest(t *rapid.T) policy.Request {
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
		Body: rapid.SampledFrom([]policy.Body{text("1"), text("2"), text("?"), nil, nil, nil}).Draw(t, "body"),
	}
}
