package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Seen is one request as an audit trail knows it.
type Seen struct {
	Time   time.Time
	Method string // CONNECT for a connection that was passed through
	Scheme string
	Host   string // as in [Authority]
	Port   uint16

	// Path is a path as it was sent, empty for a CONNECT; or, if Pattern is true, the pattern of the route that allowed the
	// request: all that a trail says of the path then, unless there is a Sent.
	Path    string
	Pattern bool

	// Sent is the path as it was sent, if Path is a pattern and the trail has both; else empty. One
	// that was cut when it was recorded counts as empty.
	Sent string

	// Route and Credential are the names of what allowed the request and went with it; empty if there
	// was none.
	Route      string
	Credential string

	// Denied is why the request was denied, or would have been if not in mode report; empty if it was
	// allowed. LetThrough tells the latter.
	Denied     Reason
	LetThrough bool

	// WebSocket says that the request asked to become a WebSocket, or did.
	WebSocket bool
}

// LearnConfig says what [Learn] drafts. Role is required.
type LearnConfig struct {
	Role string

	// Base is the policy by which the requests were decided. The routes that it allowed are kept as
	// they are, but narrowed to the methods, patterns and hosts that were seen, and its credentials
	// are copied. If it is nil, what is not in the trail is missing: the conditions and options of
	// routes, and where credentials come from, for which Sources stands.
	Base *Policy

	// Sources are what is known of where credentials come from, by name; nil for nothing.
	Sources map[string]From
}

// A Learned is a drafted policy.
type Learned struct {
	// Source is the text of the policy, with a comment on each route that says what was seen of it.
	// [Parse] takes it.
	Source []byte

	// Skipped are the requests of which no route can be made, by the reason.
	Skipped map[string]int
}

// ErrNothingSeen means that there is no request to learn from.
var ErrNothingSeen = errors.New("no request was seen that a route could be made of")

// Learn drafts the policy that allows the requests which were seen, and no more than that with two
// exceptions. Segments of a path that look like ids stand for any other in the same place: numbers,
// UUIDs, hex of seven digits or more, long random texts. And where a trail has the pattern of a route
// in place of a path, or the base policy has the route, it is all of that pattern that is allowed again:
// with the base policy, as it was, so that other routes stay of which requests were not seen but which decide on a part of it.
//
// Requests that were let through or denied without a credential get a route without one. The error
// is [ErrNothingSeen], or a [Mistakes] if the policy would be larger than one may be.
func Learn(cfg LearnConfig, seen []Seen) (*Learned, error) {
	l := learner{cfg: cfg, cells: map[cellKey]*cell{}, tunnels: map[origin]*cell{}, skipped: map[string]int{}}
	for i := range seen {
		if why := l.see(&seen[i]); why != "" {
			l.skipped[why]++
		}
	}
	l.dropTunnels()
	if len(l.cells)+len(l.tunnels) == 0 {
		return &Learned{Skipped: l.skipped}, ErrNothingSeen
	}
	l.keepBefore()
	var src []byte
	var p *Policy
	var err error
	for _, g := range []grouping{joined, single, wide} {
		src = l.write(g)
		if p, err = Parse("learned.yaml", src); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if p.role != cfg.Role {
		return nil, fmt.Errorf("the role became %q", p.role)
	}
	return &Learned{Source: src, Skipped: l.skipped}, nil
}

// A cellKey is all by which requests are told apart: each cell becomes one method of one path.
type cellKey struct {
	origin origin
	shape  string
	method string
	base   string // the route, if it has conditions
}

// A cell is what was seen of one kind of request.
type cell struct {
	key         cellKey
	path        string // a pattern
	pattern     pattern
	base        *Route         // nil if it is not known
	route       string         // the first name recorded; empty for none
	credentials map[string]int // how often each was carried, "" for none
	websocket   bool
	needs       needs

	count       int
	first, last time.Time
	example     string // a path as it was sent; empty if only patterns were seen
	denied      map[Reason]int
	refused     int // denied and not let through
}

type learner struct {
	cfg     LearnConfig
	cells   map[cellKey]*cell
	tunnels map[origin]*cell
	skipped map[string]int
}

// see adds s, or returns why no route can be made of it.
func (l *learner) see(s *Seen) (why string) {
	if s.Method == connect && s.Denied == "" {
		return l.seeTunnel(s)
	}
	if s.Method == connect {
		return "the connection was refused before anything was asked for"
	}
	if !ValidMethod(s.Method) {
		return "the method is never let through"
	}
	o := origin{s.Scheme, s.Host, s.Port}
	if !mayLeadTo(o) {
		return noRoute
	}
	path, n := s.Path, needs{}
	base := l.base(s, path)
	if target, ok := s.sent(); ok && base == nil {
		path, n = fold(s.Sent), target.needs
	}
	if !s.Pattern {
		target, err := ParseTarget(s.Scheme, Authority{s.Host, s.Port}, s.Path)
		if err != nil || target.HasQuery {
			return "the path could not be matched by any route, or was cut"
		}
		path, n = fold(s.Path), target.needs
	}
	p, patternNeeds, msg, _ := parsePattern(path)
	if msg != "" {
		return "the path could not be matched by any route, or was cut"
	}
	n.encodedSlash = n.encodedSlash || patternNeeds.encodedSlash
	n.encodedPercent = n.encodedPercent || patternNeeds.encodedPercent
	key := cellKey{origin: o, shape: p.shape(), method: s.Method}
	if base != nil && base.conditioned() {
		key.base = base.Name
	}
	c := l.cells[key]
	if c == nil {
		c = &cell{key: key, path: path, pattern: p, base: base, credentials: map[string]int{}, denied: map[Reason]int{}}
		l.cells[key] = c
	}
	if c.base == nil {
		c.base = base
	}
	c.see(s, n)
	return ""
}

const noRoute = "no route may lead to the host"

func mayLeadTo(o origin) bool {
	_, _, _, msg, _ := parseHost(hostText(o))
	return msg == "" && o.host != "" && !strings.HasPrefix(o.host, "*")
}

// seeTunnel adds a connection that was passed through.
func (l *learner) seeTunnel(s *Seen) (why string) {
	o := origin{"https", s.Host, s.Port}
	if !mayLeadTo(o) {
		return noRoute
	}
	c := l.tunnels[o]
	if c == nil {
		c = &cell{key: cellKey{origin: o, method: connect}, credentials: map[string]int{}, denied: map[Reason]int{}}
		l.tunnels[o] = c
	}
	c.see(s, needs{})
	return ""
}

// dropTunnels forgets tunnels to hosts of which requests are known: no policy can have both.
func (l *learner) dropTunnels() {
	for _, c := range l.cells {
		o := c.key.origin
		o.scheme = "https"
		if t := l.tunnels[o]; t != nil {
			l.skipped["connections to the host were tunnelled, and others of its requests decided"] += t.count
			delete(l.tunnels, o)
		}
	}
}

// keepBefore adds cells for routes of the base policy that decide on a part of what a cell of the
// base policy matches before it does: without them, the draft would give requests to a route that
// never had them, with another credential.
func (l *learner) keepBefore() {
	if l.cfg.Base == nil {
		return
	}
	all := newSide(l.cfg.Base)
	for queue := l.sorted(); len(queue) > 0; queue = queue[1:] {
		c := queue[0]
		if c.base == nil {
			continue
		}
		o := c.key.origin
		var at sites
		at.exact, at.wildcard = l.cfg.Base.index.lookup(o.scheme, Authority{o.host, o.port})
		walk := pathWalk{patterns: []pattern{c.pattern}}
		walk.add(all.on(o))
		// What is too complex to be looked at stays out: the draft is for people to read.
		_ = walk.visit(func(path string) error {
			if !c.pattern.matches(path) {
				return nil
			}
			for _, e := range at.ends(path, c.key.method) {
				if e.route == c.base && e.path == c.path {
					break
				}
				if before := l.keep(e, o, c.key.method); before != nil {
					queue = append(queue, before)
				}
			}
			return nil
		})
	}
}

// keep adds a cell of which nothing was seen, and returns it; nil if it is there.
func (l *learner) keep(e *end, o origin, method string) *cell {
	p, _, _, _ := parsePattern(e.path)
	key := cellKey{origin: o, shape: p.shape(), method: method}
	if e.route.conditioned() {
		key.base = e.route.Name
	}
	if l.cells[key] != nil {
		return nil
	}
	c := &cell{key: key, path: e.path, pattern: p, base: e.route, route: e.route.Name, credentials: map[string]int{}, denied: map[Reason]int{}}
	l.cells[key] = c
	return c
}

// base returns the route of the base policy that allowed s by the pattern path; nil if there is none.
func (l *learner) base(s *Seen, path string) *Route {
	if l.cfg.Base == nil || !s.Pattern || s.Denied != "" {
		return nil // what was let through for its conditions alone needs a route without them
	}
	for _, r := range l.cfg.Base.routes {
		if r.Name == s.Route && r.Scheme == s.Scheme && r.Port == s.Port && matchesHost(r.Host, s.Host) &&
			slices.Contains(r.Methods, s.Method) && slices.Contains(r.Paths, path) {
			return r
		}
	}
	return nil
}

func (c *cell) see(s *Seen, n needs) {
	c.count++
	if c.first.IsZero() || s.Time.Before(c.first) {
		c.first = s.Time
	}
	if s.Time.After(c.last) {
		c.last = s.Time
	}
	if c.example == "" {
		if _, ok := s.sent(); ok {
			c.example = s.Sent
		} else if !s.Pattern {
			c.example = s.Path
		}
	}
	c.route = cmp.Or(c.route, s.Route)
	c.websocket = c.websocket || s.WebSocket && s.Method == "GET"
	c.needs.encodedSlash = c.needs.encodedSlash || n.encodedSlash
	c.needs.encodedPercent = c.needs.encodedPercent || n.encodedPercent
	if s.Denied != "" {
		c.denied[s.Denied]++
		if !s.LetThrough {
			c.refused++
		}
		if !s.Pattern {
			return
		}
	}
	if s.Credential == "" || isName(s.Credential) {
		c.credentials[s.Credential]++
	}
}

// credential returns what the requests of c carried most often.
func (c *cell) credential() string {
	if c.base != nil {
		return c.base.Credential
	}
	if c.key.origin.scheme == "http" {
		return ""
	}
	best := ""
	for name, n := range c.credentials {
		if n > c.credentials[best] || n == c.credentials[best] && name > best {
			best = name
		}
	}
	return best
}

// options are what a route of c with these methods says beside them and its paths, as the file has
// it, in order.
func (c *cell) options(methods []string) []string {
	var lines []string
	add := func(key, value string) {
		if value != "" {
			lines = append(lines, key+": "+value)
		}
	}
	flag := func(key string, set bool) {
		if set {
			lines = append(lines, key+": true")
		}
	}
	r := c.base
	if r == nil {
		r = &Route{}
	}
	add("query", textLists(r.Query))
	add("headers", textLists(r.Headers))
	add("content_type", textList(r.ContentTypes))
	if g := r.GraphQL; g != nil {
		operations := ""
		if g.Operations != nil {
			operations = ", operations: " + textList(g.Operations)
		}
		add("graphql", "{type: "+g.Type+operations+"}")
	}
	add("when", quoted(strings.TrimSpace(r.When)))
	add("credential", plainText(c.credential()))
	add("limits", r.Limits.file())
	websocket := (c.websocket || r.WebSocket) && slices.Contains(methods, "GET")
	flag("websocket", websocket)
	if r.ReplaySafe {
		add("replay", "safe")
	}
	flag("outlive", r.Outlive && websocket)
	flag("allow_encoded_slash", c.needs.encodedSlash || r.AllowEncodedSlash)
	flag("allow_encoded_percent", c.needs.encodedPercent || r.AllowEncodedPercent)
	flag("allow_minting", c.mints())
	flag("correlate", r.Correlate)
	if r.LogPath {
		add("log", "path")
	}
	return lines
}

// mints reports whether a route of c has to say that its answers may hold credentials.
func (c *cell) mints() bool {
	if c.credential() == "" {
		return false
	}
	e, _ := mintedBy(&Route{Host: c.key.origin.host, Methods: []string{c.key.method}}, c.pattern)
	return e != nil
}
