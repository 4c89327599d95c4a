package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// accessMethods are the methods behind the words of access, sorted.
var accessMethods = map[string][]string{
	"read-only":  {"GET", "HEAD", "OPTIONS"},
	"read-write": {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"},
}

// routeKeys are the keys of a route; a tunnel may have tunnelKeys only.
var (
	routeKeys = []string{
		"name", "host", "access", "methods", "paths", "query", "headers", "content_type", "grpc", "graphql", "when", "credential", "reason", "websocket",
		"replay", "outlive", "allow_encoded_slash", "allow_encoded_percent", "allow_minting", "limits", "mode", "correlate", "log", "tunnel",
	}
	tunnelKeys = []string{"name", "host", "reason", "tunnel"}
)

func (d *decoder) decodeRoute(v strictyaml.Value) {
	m := v.Mapping(routeKeys...)
	r := &Route{Where: v.Where(), order: len(d.policy.routes)}
	d.policy.routes = append(d.policy.routes, r)

	d.decodeRouteName(m, r)
	host := m.Need("host", "write the host, such as host: api.example.com")
	if s, ok := host.Text(); ok {
		var msg, hint string
		if r.Scheme, r.Host, r.Port, msg, hint = parseHost(s); msg != "" {
			host.Wrong(msg, hint)
		}
		d.hosts[Authority{r.Host, r.Port}] = append(d.hosts[Authority{r.Host, r.Port}], named{r, host})
	}
	r.Reason = prose(m.Get("reason"))
	var readable bool
	if r.Tunnel, readable = m.Get("tunnel").Bool(); r.Tunnel {
		d.decodeTunnel(m, r)
		return
	}
	if m.Has("tunnel") && !readable && !m.Has("paths") {
		return // a tunnel misspelt: that it has no paths is no second mistake
	}
	var calls []strictyaml.Value
	if m.Has("grpc") {
		calls = d.decodeGRPC(m, r)
	} else {
		r.Methods = decodeMethods(m)
	}
	r.AllowEncodedSlash, _ = m.Get("allow_encoded_slash").Bool()
	r.AllowEncodedPercent, _ = m.Get("allow_encoded_percent").Bool()
	r.AllowMinting, _ = m.Get("allow_minting").Bool()
	r.Correlate, _ = m.Get("correlate").Bool()
	log, _ := m.Get("log").Choice("template", "path")
	r.LogPath = log == "path"
	r.WebSocket, _ = m.Get("websocket").Bool()
	if r.WebSocket && len(r.Methods) > 0 && !slices.Contains(r.Methods, "GET") {
		m.Get("websocket").Wrong("a WebSocket begins with GET (RFC 6455 section 4.1), which the route does not allow", "add GET to methods")
	}
	d.decodeRouteCredential(m, r)
	decodeRefusedCredential(m, r)
	if r.Credential != "" && strings.HasPrefix(r.Host, "*.") {
		host.Warn(fmt.Sprintf("the credential goes to every name under %s", r.Host[2:]), "write the hosts that need it")
	}
	d.decodeMatches(m, r)
	d.decodeWhen(m.Get("when"), r)
	r.Limits = d.decodeLimits(m.Get("limits"), r)
	d.decodeRouteMode(m, r)
	if r.GRPC != nil {
		d.addCalls(calls, r)
	} else {
		d.decodePaths(m.Need("paths", `write ["/**"] for every path`), r)
	}
}

func (d *decoder) decodeRouteName(m strictyaml.Mapping, r *Route) {
	name := m.Need("name", "write a name; the audit trail shows it")
	s, ok := name.Text()
	if !ok {
		return
	}
	r.Name = s
	checkRef(name, s)
	if first, taken := d.routeNames[s]; taken {
		name.Wrong(fmt.Sprintf("the route %s has the name %s already", placeFrom(name, first), s), "write another name")
		return
	}
	d.routeNames[s] = name
}

// placeFrom says to a reader of v where other is: on which line, or in which other file.
func placeFrom(v, other strictyaml.Value) string {
	here, _, _ := splitWhere(v.Where())
	if there, _, _ := splitWhere(other.Where()); there == here {
		return fmt.Sprintf("on line %d", other.Line())
	}
	return "at " + other.Where()
}

// decodeRouteMode decodes the mode of a route whose conditions and limits are known.
func (d *decoder) decodeRouteMode(m strictyaml.Mapping, r *Route) {
	r.Mode = d.policy.mode
	mode := m.Get("mode")
	word, ok := mode.Choice("enforce", "report")
	switch {
	case !ok:
	case word == "enforce" && d.policy.mode == Report:
		mode.Wrong("the policy is in mode report: what its routes refuse is let through, whatever they say",
			"remove mode here, or write it on the routes that are to report and mode: enforce at the top")
	case word == "report" && !r.conditioned() && r.Limits == (Limits{}):
		mode.Warn("nothing is reported: the route has no conditions and no limits", "remove mode")
		r.Mode, r.trial = Report, true
	case word == "report":
		mode.Warn("the conditions and limits of the route refuse nothing, they are recorded only", "remove mode when the records show what you expect")
		r.Mode, r.trial = Report, true
	}
}

func (d *decoder) decodeRouteCredential(m strictyaml.Mapping, r *Route) {
	v := m.Get("credential")
	s, ok := nonEmpty(v)
	if !ok {
		return
	}
	r.Credential = s
	d.used[s] = true
	if !slices.ContainsFunc(d.credentials, func(c declared) bool { return c.name == s }) {
		var known []string
		for _, c := range d.credentials {
			known = append(known, c.name)
		}
		hint := strictyaml.DidYouMean(s, known)
		if near := strictyaml.Nearest(s, known); near != "" {
			// The slip is the one mistake: near is not unused, and this route ties with none of its.
			d.used[near] = true
			r.Credential = near
		}
		if hint == "" {
			hint = "declare it under credentials"
		}
		v.Wrong(fmt.Sprintf("credential %s is not declared", strictyaml.Quote(s)), hint)
	}
	if r.Scheme == "http" {
		v.Wrong("a credential must not travel over http, where anyone on the way reads it", "write the host with https, or remove the credential")
	}
}

// decodeRefusedCredential decodes what becomes of a request whose credential is refused or expires.
func decodeRefusedCredential(m strictyaml.Mapping, r *Route) {
	_, r.ReplaySafe = m.Get("replay").Choice("safe")
	r.Outlive, _ = m.Get("outlive").Bool()
	credentialed := m.Has("credential")
	if r.ReplaySafe && !credentialed {
		m.Key("replay").Wrong("only a request whose credential was refused is sent again, and the route has no credential", "remove replay")
	}
	switch {
	case r.Outlive && !r.WebSocket:
		m.Key("outlive").Wrong("only a WebSocket is closed when its credential expires", "write websocket: true, or remove outlive")
	case r.Outlive && !credentialed:
		m.Key("outlive").Wrong("only a WebSocket with a credential is closed when that expires, and the route has no credential", "remove outlive")
	}
}

// decodeMethods returns the methods of a route, sorted.
func decodeMethods(m strictyaml.Mapping) []string {
	kind, v := m.OneOf("access", "methods")
	if kind == "access" {
		word, _ := v.Choice("read-only", "read-write")
		return accessMethods[word]
	}
	var methods []string
	for _, item := range v.List() {
		s, ok := item.Text()
		switch {
		case !ok:
		case slices.Contains(methods, s):
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(s)), "remove it")
		case !ValidMethod(s):
			msg, hint := wrongMethod(s)
			item.Wrong(msg, hint)
		default:
			methods = append(methods, s)
		}
	}
	slices.Sort(methods)
	return methods
}

// wrongMethod says why s is not a [ValidMethod].
func wrongMethod(s string) (msg, hint string) {
	upper := strings.ToUpper(s)
	switch {
	case slices.Contains(neverMethods, upper):
		return fmt.Sprintf("%s is never let through", upper), "remove it"
	case upper != s && ValidMethod(upper):
		return fmt.Sprintf("%s is not in upper case; methods are case-sensitive", strictyaml.Quote(s)), "write " + upper
	}
	return fmt.Sprintf("%s is not a method", strictyaml.Quote(s)), "write methods such as GET or POST"
}

func (d *decoder) decodePaths(v strictyaml.Value, r *Route) {
	shapes := map[string]int{}
	for _, item := range v.List() {
		s, ok := item.Text()
		if !ok {
			continue
		}
		p, n, msg, hint := parsePattern(s)
		if msg == "" {
			msg, hint = r.unable(n)
		}
		if msg != "" {
			item.Wrong(msg, hint)
			continue
		}
		shape := p.shape()
		if line, ok := shapes[shape]; ok {
			item.Wrong(fmt.Sprintf("the path on line %d matches the same", line), "remove one of the two")
			continue
		}
		shapes[shape] = item.Line()
		d.addPath(r, s, p, item)
	}
}

// addPath adds the pattern p, whose text is s, to r. item is its place in the file.
func (d *decoder) addPath(r *Route, s string, p pattern, item strictyaml.Value) {
	r.Paths = append(r.Paths, s)
	r.patterns = append(r.patterns, p)
	d.checkTie(r, p.shape(), item)
	lintPath(r, p, item)
}

// addCalls adds the paths that the gRPC calls of r have. items are their places in the file.
func (d *decoder) addCalls(items []strictyaml.Value, r *Route) {
	for i, s := range r.GRPC.paths() {
		if i >= len(items) {
			return
		}
		p, _, msg, hint := parsePattern(s)
		if msg != "" {
			items[i].Wrong(msg, hint)
			continue
		}
		d.addPath(r, s, p, items[i])
	}
}

// unable says why a path with needs is not for r.
func (r *Route) unable(n needs) (msg, hint string) {
	switch {
	case n.encodedSlash && !r.AllowEncodedSlash:
		return "the path has an encoded slash (%2F), which the route does not take", "write allow_encoded_slash: true on the route"
	case n.encodedPercent && !r.AllowEncodedPercent:
		return "the path is encoded twice (%25), which the route does not take", "write allow_encoded_percent: true on the route"
	}
	return "", ""
}

// A tieKey is all by which two routes can match the same request equally well, but methods.
type tieKey struct {
	origin origin
	shape  string
}

// A claim is one route's path under a tieKey.
type claim struct {
	route *Route
	path  strictyaml.Value
}

// checkTie records a mistake if an earlier route would match the same requests equally well
// and do something else with them: which of the two decides would hang on their order alone.
func (d *decoder) checkTie(r *Route, shape string, path strictyaml.Value) {
	if r.Host == "" || len(r.Methods) == 0 {
		return
	}
	key := tieKey{origin{r.Scheme, r.Host, r.Port}, shape}
	for _, c := range d.ties[key] {
		differs := differentEffect(c.route, r)
		if differs == "" && slices.Equal(c.route.Methods, r.Methods) && !c.route.conditioned() && !r.conditioned() {
			return // c stands for r in all comparisons to come
		}
		if differs == "" && c.route.conditioned() != r.conditioned() {
			warnPointless(c, claim{r, path})
		}
		if differs == "" || !methodsTie(c.route.Methods, r.Methods) || conditionsDecide(c.route, r) {
			continue
		}
		another := "another "
		if differs == "limits" {
			another = "other "
		}
		hint := "make the paths or the methods of one narrower"
		if c.route.conditioned() && r.conditioned() {
			hint = "let their conditions exclude each other"
		}
		path.Wrong(fmt.Sprintf("matches the same requests as the path at %s, of route %s with %s", c.path.Where(), c.route.Name, another+differs),
			fmt.Sprintf("give both routes the same %s, or %s", differs, hint))
		return
	}
	d.ties[key] = append(d.ties[key], claim{r, path})
}

// warnPointless warns if one of two routes that do the same, the one with conditions, allows nothing
// that the other does not.
func warnPointless(narrow, wide claim) {
	if wide.route.conditioned() {
		narrow, wide = wide, narrow
	}
	if !slices.ContainsFunc(narrow.route.Methods, func(m string) bool { return !slices.Contains(wide.route.Methods, m) }) {
		narrow.path.Warn(fmt.Sprintf("the conditions change nothing here: route %s, at %s, allows the same without them", wide.route.Name, wide.path.Where()),
			"remove one of the two, or narrow the other")
	}
}

// conditionsDecide reports whether two routes whose methods tie cannot tie as a whole.
func conditionsDecide(a, b *Route) bool {
	return len(a.Methods) == len(b.Methods) && a.conditioned() != b.conditioned() || exclusive(a, b)
}

// differentEffect returns the first key in which two routes differ that matters once a request
// matches both, and "" if there is none.
func differentEffect(a, b *Route) string {
	switch {
	case a.Credential != b.Credential:
		return "credential"
	case a.WebSocket != b.WebSocket:
		return "websocket"
	case a.ReplaySafe != b.ReplaySafe:
		return "replay"
	case a.Outlive != b.Outlive:
		return "outlive"
	case a.AllowEncodedSlash != b.AllowEncodedSlash:
		return "allow_encoded_slash"
	case a.AllowEncodedPercent != b.AllowEncodedPercent:
		return "allow_encoded_percent"
	case a.Correlate != b.Correlate:
		return "correlate"
	case a.LogPath != b.LogPath:
		return "log"
	case a.Limits != b.Limits:
		return "limits"
	case a.Mode != b.Mode && a.Limits != (Limits{}):
		return "mode"
	}
	return ""
}

// methodsTie reports whether two sets overlap and neither is the more specific one.
func methodsTie(a, b []string) bool {
	common := 0
	for _, m := range a {
		if slices.Contains(b, m) {
			common++
		}
	}
	return common > 0 && (len(a) == len(b) || common < min(len(a), len(b)))
}
