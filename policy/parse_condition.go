package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// decodeMatches decodes the conditions of a route that are not in CEL.
func (d *decoder) decodeMatches(m strictyaml.Mapping, r *Route) {
	if m.Has("content_type") {
		r.ContentTypes = decodeContentTypes(m.Get("content_type"))
		r.conditions = append(r.conditions, &contentTypeMatch{r.ContentTypes})
	}
	if m.Has("headers") {
		r.Headers = decodeHeaders(m.Get("headers"))
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			r.conditions = append(r.conditions, &headerMatch{name, r.Headers[name]})
		}
	}
	if m.Has("query") {
		r.Query = map[string][]string{}
		for _, e := range m.Get("query").Entries() {
			r.Query[e.Name] = textOrTexts(e.Value)
			if e.Name == "" || !isText(e.Name) {
				e.Key.Wrong("the name of the parameter is empty, or has a control character", "write it decoded, as the server reads it")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(r.Query)) {
			r.conditions = append(r.conditions, &queryMatch{name, r.Query[name]})
		}
	}
	if r.GRPC != nil {
		r.conditions = append(r.conditions, r.GRPC)
	}
	if m.Has("graphql") {
		r.GraphQL = decodeGraphQL(m.Get("graphql"))
		r.conditions = append(r.conditions, r.GraphQL)
		if len(r.Methods) > 0 && !slices.Equal(r.Methods, []string{"POST"}) {
			m.Key("graphql").Wrong("only a POST is looked into for GraphQL", "write methods: [POST], and another route for what else there is")
		}
		if m.Has("content_type") {
			m.Key("content_type").Wrong("graphql says already that the body is JSON", "remove content_type")
		}
	}
}

func decodeContentTypes(v strictyaml.Value) []string {
	var types []string
	for _, item := range v.List() {
		s, ok := item.Text()
		if !ok {
			continue
		}
		kind, subtype, found := strings.Cut(s, "/")
		switch {
		case slices.Contains(types, s):
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(s)), "remove it")
			continue
		case strings.Contains(s, ";"):
			item.Wrong("parameters are not looked at", fmt.Sprintf("write %s", strictyaml.Quote(strings.TrimSpace(s[:strings.IndexByte(s, ';')]))))
		case strings.Contains(s, "*"):
			item.Wrong("a media type has no wildcard here", "write out the types")
		case !found || !isToken(kind) || !isToken(subtype):
			item.Wrong(fmt.Sprintf("%s is not a media type", strictyaml.Quote(s)), "write one such as application/json")
		case strings.ToLower(s) != s:
			item.Wrong("the media type has upper case, which media types do not tell apart", fmt.Sprintf("write %s", strictyaml.Quote(strings.ToLower(s))))
		}
		types = append(types, s)
	}
	return types
}

var (
	// ownKeys are the header fields for which a route has a key of its own.
	ownKeys = map[string]string{"Host": "host", "Content-Type": "content_type", "Upgrade": "websocket"}

	// madeAnew are the header fields that end at a proxy (RFC 9110 section 7.6.1), or that it makes.
	madeAnew = []string{
		"Connection", "Content-Length", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding",
	}
)

func decodeHeaders(v strictyaml.Value) map[string][]string {
	headers := map[string][]string{}
	for _, e := range v.Entries() {
		name := canonicalHeader(e.Name)
		switch {
		case !isToken(e.Name):
			e.Key.Wrong(fmt.Sprintf("%s is not a header name", strictyaml.Quote(e.Name)), "")
		case ownKeys[name] != "":
			e.Key.Wrong(fmt.Sprintf("%s has a key of its own", name), "write "+ownKeys[name])
		case slices.Contains(madeAnew, name):
			e.Key.Wrong(fmt.Sprintf("%s is made anew: what the agent sends says nothing of what the upstream gets", name), "remove it")
		case headers[name] != nil:
			e.Key.Wrong(fmt.Sprintf("%s stands there already; case makes no other header", name), "keep one of the two")
		}
		headers[name] = textOrTexts(e.Value)
	}
	return headers
}

// decodeGRPC decodes grpc, and the methods and paths that it stands for.
func (d *decoder) decodeGRPC(m strictyaml.Mapping, r *Route) (paths []strictyaml.Value) {
	v := m.Get("grpc")
	g := v.Mapping("service", "methods")
	r.GRPC, r.Methods = &GRPC{}, []string{"POST"}
	for _, key := range []string{"access", "methods", "paths", "content_type", "graphql"} {
		if m.Has(key) {
			m.Key(key).Wrong(fmt.Sprintf("grpc says already what %s could", key), "remove "+key)
		}
	}
	service := g.Need("service", "write the service with its package, such as acme.v1.Builds")
	s, ok := service.Text()
	if ok && !isDotted(s) {
		service.Wrong(fmt.Sprintf("%s is not a gRPC service", strictyaml.Quote(s)), "write the service with its package, such as acme.v1.Builds")
		ok = false
	}
	r.GRPC.Service = s
	for _, item := range g.Get("methods").List() {
		name, isText := item.Text()
		switch {
		case !isText:
		case !isDotted(name) || strings.Contains(name, "."):
			item.Wrong(fmt.Sprintf("%s is not a gRPC method", strictyaml.Quote(name)), "write its name alone, such as GetBuild")
		case slices.Contains(r.GRPC.Methods, name):
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(name)), "remove it")
		default:
			r.GRPC.Methods = append(r.GRPC.Methods, name)
			paths = append(paths, item)
		}
	}
	if !g.Has("methods") {
		paths = []strictyaml.Value{service}
	}
	if !ok {
		return nil
	}
	return paths
}

// isDotted reports whether s is a full identifier of Protocol Buffers.
func isDotted(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || isDigit(part[0]) {
			return false
		}
		for i := range len(part) {
			if !isAlphanumeric(part[i]) && part[i] != '_' {
				return false
			}
		}
	}
	return true
}

func decodeGraphQL(v strictyaml.Value) *GraphQL {
	m := v.Mapping("type", "operations")
	g := &GraphQL{}
	g.Type, _ = m.Need("type", "write type: query, mutation or subscription").Choice("query", "mutation", "subscription")
	for _, item := range m.Get("operations").List() {
		name, ok := item.Text()
		switch {
		case !ok:
		case !isDotted(name) || strings.Contains(name, "."):
			item.Wrong(fmt.Sprintf("%s is not a field of GraphQL", strictyaml.Quote(name)), "write a field at the root of the schema, such as addComment")
		case slices.Contains(g.Operations, name):
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(name)), "remove it")
		default:
			g.Operations = append(g.Operations, name)
		}
	}
	return g
}
