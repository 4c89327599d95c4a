package policy

import (
	"mime"
	"net/textproto"
	"slices"
	"strings"
)

// oneOf words the values that a match takes, for people.
func oneOf(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return "[" + strings.Join(values, ", ") + "]"
}

// allIn reports whether there is a value, and every one is in allowed: a server may look at any of
// them.
func allIn(values, allowed []string) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(allowed, v) })
}

// A queryMatch asks that a parameter of the query is there and has no value but the given ones.
type queryMatch struct {
	name   string
	values []string
}

func (m *queryMatch) String() string {
	return "query: {" + m.name + ": " + oneOf(m.values) + "}"
}

func (m *queryMatch) holds(ev *evaluation) (bool, error) {
	query, err := ev.readQuery()
	if err != nil {
		return false, err
	}
	return allIn(query[m.name], m.values), nil
}

// A headerMatch asks that a header field is there and has no value but the given ones.
type headerMatch struct {
	name   string // canonical
	values []string
}

func (m *headerMatch) String() string {
	return "headers: {" + m.name + ": " + oneOf(m.values) + "}"
}

func (m *headerMatch) holds(ev *evaluation) (bool, error) {
	return allIn(ev.request.Header[m.name], m.values), nil
}

// A contentTypeMatch asks that the content is of one of the given media types, whatever their
// parameters.
type contentTypeMatch struct{ types []string }

func (m *contentTypeMatch) String() string {
	return "content_type: [" + strings.Join(m.types, ", ") + "]"
}

func (m *contentTypeMatch) holds(ev *evaluation) (bool, error) {
	mediaType, _, ok := contentType(ev.request.Header)
	return ok && slices.Contains(m.types, mediaType), nil
}

// contentType returns the media type of the one Content-Type field of header, in lower case, and
// its parameters. ok is false if there is none, or more than one.
func contentType(header map[string][]string) (mediaType string, params map[string]string, ok bool) {
	values := header["Content-Type"]
	if len(values) != 1 {
		return "", nil, false
	}
	mediaType, params, err := mime.ParseMediaType(values[0])
	return mediaType, params, err == nil
}

// A GRPC is a route for calls of one gRPC service. It stands for POST, for the paths
// /Service/Method, and for the content type of gRPC over HTTP/2.
type GRPC struct {
	Service string   // with its package: "acme.v1.Builds"
	Methods []string // nil for all of the service
}

// String returns g in the words of the file.
func (g *GRPC) String() string {
	if g.Methods == nil {
		return "grpc: {service: " + g.Service + "}"
	}
	return "grpc: {service: " + g.Service + ", methods: [" + strings.Join(g.Methods, ", ") + "]}"
}

// holds reports whether the content type is application/grpc, with or without +proto or the like.
func (g *GRPC) holds(ev *evaluation) (bool, error) {
	mediaType, _, ok := contentType(ev.request.Header)
	return ok && (mediaType == "application/grpc" || strings.HasPrefix(mediaType, "application/grpc+")), nil
}

// paths returns the paths that g stands for.
func (g *GRPC) paths() []string {
	if g.Methods == nil {
		return []string{"/" + g.Service + "/*"}
	}
	var paths []string
	for _, m := range g.Methods {
		paths = append(paths, "/"+g.Service+"/"+m)
	}
	return paths
}

// exclusive reports whether no request can meet the conditions of both a and b.
func exclusive(a, b *Route) bool {
	disjoint := func(x, y []string) bool {
		return len(x) > 0 && len(y) > 0 && !slices.ContainsFunc(x, func(s string) bool { return slices.Contains(y, s) })
	}
	for name, values := range a.Query {
		if disjoint(values, b.Query[name]) {
			return true
		}
	}
	for name, values := range a.Headers {
		if disjoint(values, b.Headers[name]) {
			return true
		}
	}
	return disjoint(a.ContentTypes, b.ContentTypes) ||
		a.GraphQL != nil && b.GraphQL != nil && a.GraphQL.Type != b.GraphQL.Type
}

// canonicalHeader returns name as the keys of a Request's Header are.
func canonicalHeader(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
