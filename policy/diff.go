package policy

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
)

// A ChangeKind says which way access changes.
type ChangeKind string

// The kinds of a [Change]. What only is another, such as the credential that a request carries,
// counts as gained: nobody can tell which of two credentials may do more.
const (
	Gained  ChangeKind = "gained"
	Lost    ChangeKind = "lost"
	Changed ChangeKind = "changed"
)

// The things that a [Change] is about.
const (
	ChangeAccess     = "access"     // requests are allowed that were not, or the other way round
	ChangeWebSocket  = "websocket"  // the same of requests to become a WebSocket only
	ChangeCredential = "credential" // requests carry another credential, or the same name means another
	ChangeOption     = "option"     // a key of the route is another, such as replay, outlive or limits
	ChangeTunnel     = "tunnel"     // connections are passed through uninspected
	ChangeMode       = "mode"       // what becomes of a denied request
	ChangeBudget     = "budget"     // how much may be sent in a session
)

// A Change is one way in which two policies differ in what they allow.
type Change struct {
	Kind ChangeKind
	What string // one of ChangeAccess and so on

	// Scheme, Host and Port are those of the route that Path is of: Host may be a wildcard. They are
	// empty for a mode and a budget.
	Scheme string
	Host   string
	Port   uint16

	// Methods are sorted. Path is a pattern of the new policy or, for what is lost, of the old one.
	// Both are empty for a tunnel, a mode and a budget.
	Methods []string
	Path    string

	// Except are patterns of the other policy, sorted, with which parts of Path were allowed before,
	// or still are. One of another host than Host has that in front.
	Except []string

	// Was is the pattern of the old policy of which the requests were, if it is not Path and they are
	// allowed by both: the change is only where both match.
	Was string

	// WebSocket says of a change of access that it is one for WebSockets, too. Encoded are the
	// encodings in a path, %2F and %25, with which access changes: alone if Plain is false, and
	// otherwise as well.
	WebSocket bool
	Encoded   []string
	Plain     bool

	// Before and After are what the change is from and to: the conditions of access, or values of
	// what else changes. They are empty if there was or is none.
	Before []string
	After  []string

	// Old and New are the routes that allow the requests; nil where none does.
	Old, New *Route

	// Witness is a request that shows the change, as short as there is one. It is zero for a mode and a budget.
	Witness Witness
}

// Gains reports whether c lets an agent do what it could not do before.
func (c Change) Gains() bool { return c.Kind != Lost }

// A Witness is a request that two policies decide differently. For a tunnel it is a CONNECT.
type Witness struct {
	// Request has what conditions on query, headers and content type look at. For those in Assume,
	// something has to be added to it.
	Request Request

	// Assume are the conditions, in CEL or of GraphQL, that make the difference if they have these
	// values. They count as independent of each other and of the rest of the request, so that a
	// witness with more than one may not exist.
	Assume []ConditionValue
}

// String returns "METHOD URL", for a WebSocket with "(WebSocket)" behind it.
func (w Witness) String() string {
	if w.Request.Method == connect {
		return connect + " " + w.Request.Target.Authority.String()
	}
	s := w.Request.Method + " " + w.Request.Target.String()
	if w.Request.WebSocket {
		s += " (WebSocket)"
	}
	return s
}

// ErrTooComplex means that two policies have more combinations of patterns or conditions on one host
// than can be compared.
var ErrTooComplex = errors.New("the policies are too complex to be compared")

// Diff returns how what next allows differs from what old allows, whatever the files look like: the
// changes of the mode and the budget first, and then by host and path. It is empty if each request is decided alike
// and would carry the same.
//
// Without conditions in CEL or of GraphQL it is exact: there is a change that [Change.Gains] access
// if and only if [Policy.Decide] allows some request of next that it denies of old, or allows it
// with more; and each witness is one. A condition in CEL that is not the same text counts as
// another one, of which nothing is known.
//
// Of requests to become a WebSocket only GET is looked at (RFC 6455 section 4.1). Names of routes and
// credentials, reasons, tests and the role change no access. The error is [ErrTooComplex].
func Diff(old, next *Policy) ([]Change, error) {
	d := differ{old: newSide(old), next: newSide(next)}
	d.compareModes()
	d.compareBudgets()
	for _, o := range d.origins() {
		if err := d.compareOrigin(o); err != nil {
			return nil, err
		}
	}
	changes := append(d.changes, d.regions.changes()...)
	slices.SortStableFunc(changes, compareChanges)
	return changes, nil
}

func compareChanges(a, b Change) int {
	return cmp.Or(
		cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(b.Scheme, a.Scheme),
		cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind), slices.Compare(a.Methods, b.Methods),
		cmp.Compare(a.What, b.What),
	)
}

// A side is one of two policies that are compared.
type side struct {
	policy      *Policy
	credentials map[string]*Credential
	routes      map[origin][]*Route // by host as the routes have it, with a wildcard's "*."
}

func newSide(p *Policy) side {
	s := side{policy: p, credentials: map[string]*Credential{}, routes: map[origin][]*Route{}}
	for i := range p.credentials {
		s.credentials[p.credentials[i].Name] = &p.credentials[i]
	}
	for _, r := range p.routes {
		o := origin{r.Scheme, r.Host, r.Port}
		s.routes[o] = append(s.routes[o], r)
	}
	return s
}

// on returns the routes that may decide on o, whose host is no wildcard.
func (s *side) on(o origin) []*Route {
	routes := slices.Clone(s.routes[o])
	if parent := parentOf(o.host); parent != "" {
		routes = append(routes, s.routes[origin{o.scheme, "*." + parent, o.port}]...)
	}
	return routes
}

// A differ compares two policies.
type differ struct {
	old, next side
	changes   []Change
	regions   regions
}

func (d *differ) compareModes() {
	if d.old.policy.mode == d.next.policy.mode {
		return
	}
	c := Change{Kind: Lost, What: ChangeMode, Before: []string{d.old.policy.mode.String()}, After: []string{d.next.policy.mode.String()}}
	if d.next.policy.mode == Report {
		c.Kind = Gained
	}
	d.changes = append(d.changes, c)
}

func (d *differ) compareBudgets() {
	old, next := d.old.policy.budget, d.next.policy.budget
	for _, b := range []struct {
		key           string
		words         func(int64) string
		before, after int64
	}{{"requests: ", whole, old.Requests, next.Requests}, {"bytes: ", size, old.Bytes, next.Bytes}} {
		if b.before == b.after {
			continue
		}
		c := Change{Kind: Lost, What: ChangeBudget}
		if b.before > 0 {
			c.Before = []string{b.key + b.words(b.before)}
		}
		if b.after > 0 {
			c.After = []string{b.key + b.words(b.after)}
		}
		if b.before > 0 && (b.after == 0 || b.after > b.before) {
			c.Kind = Gained
		}
		d.changes = append(d.changes, c)
	}
}

// origins returns one origin for each kind of host that the policies tell apart, without wildcards:
// a wildcard's is a name under it that no route names.
func (d *differ) origins() []origin {
	found := map[origin]bool{}
	for _, s := range []*side{&d.old, &d.next} {
		for o := range s.routes {
			if parent, wildcard := strings.CutPrefix(o.host, "*."); wildcard {
				o.host = d.unnamed(o, parent)
			}
			found[o] = true
			// A wildcard of another policy may cover this host; on it, both are compared.
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b origin) int {
		return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port), cmp.Compare(b.scheme, a.scheme))
	})
}

// unnamed returns a name under parent that no route of either policy names on o's scheme and port.
func (d *differ) unnamed(o origin, parent string) string {
	for label := "x"; ; label += "x" {
		name := origin{o.scheme, label + "." + parent, o.port}
		if d.old.routes[name] == nil && d.next.routes[name] == nil {
			return name.host
		}
	}
}

// compareOrigin compares what the policies allow on o, whose host is no wildcard.
func (d *differ) compareOrigin(o origin) error {
	a := Authority{o.host, o.port}
	p := pair{differ: d, origin: o}
	p.old.exact, p.old.wildcard = d.old.policy.index.lookup(o.scheme, a)
	p.next.exact, p.next.wildcard = d.next.policy.index.lookup(o.scheme, a)
	d.compareTunnels(a, tunnelOf(p.old.exact, p.old.wildcard), tunnelOf(p.next.exact, p.next.wildcard))
	return p.compare()
}

func (d *differ) compareTunnels(a Authority, before, after *Route) {
	if (before == nil) == (after == nil) {
		return
	}
	c := Change{Kind: Gained, What: ChangeTunnel, Old: before, New: after}
	r := after
	if r == nil {
		c.Kind, r = Lost, before
	}
	c.Scheme, c.Host, c.Port = r.Scheme, r.Host, r.Port
	c.Witness.Request = Request{Method: connect, Target: Target{Scheme: r.Scheme, Authority: a, Path: "/"}}
	if !slices.ContainsFunc(d.changes, func(e Change) bool {
		return e.What == c.What && e.Kind == c.Kind && e.Old == c.Old && e.New == c.New
	}) {
		d.changes = append(d.changes, c)
	}
}
