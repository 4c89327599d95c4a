package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// sites are where one policy looks for the routes of one host.
type sites struct{ exact, wildcard *site }

// ends returns all that may decide on a request, in the order in which they are asked.
func (s sites) ends(path, method string) []*end {
	var found []*end
	for _, at := range []*site{s.exact, s.wildcard} {
		if at != nil {
			found = at.tree.all(path, method, 1, found)
		}
	}
	return found
}

// A pair compares what two policies allow on one host, which is no wildcard.
type pair struct {
	*differ
	origin    origin
	old, next sites
}

func (p *pair) compare() error {
	walk := pathWalk{}
	methods := map[string]bool{}
	for _, routes := range [][]*Route{p.differ.old.on(p.origin), p.differ.next.on(p.origin)} {
		walk.add(routes)
		for _, r := range routes {
			for _, m := range r.Methods {
				methods[m] = true
			}
		}
	}
	sorted := slices.Sorted(maps.Keys(methods))
	return walk.visit(func(path string) error {
		target, err := ParseTarget(p.origin.scheme, Authority{p.origin.host, p.origin.port}, path)
		if err != nil {
			return nil // no request has such a path
		}
		for _, method := range sorted {
			if err := p.compareRequest(Request{Method: method, Target: target}); err != nil {
				return err
			}
		}
		return nil
	})
}

// compareRequest compares all requests of one kind.
func (p *pair) compareRequest(r Request) error {
	path := r.Target.Path
	s := search{old: p.old.ends(path, r.Method), next: p.next.ends(path, r.Method)}
	if len(s.old) == 0 && len(s.next) == 0 {
		return nil
	}
	kept := true
	var both []*end // of the other policy, where nothing changes
	s.leaf = func(before, after *end, a *assignment) {
		for _, websocket := range []bool{false, true} {
			r := r
			if r.WebSocket = websocket; websocket && r.Method != "GET" {
				continue
			}
			v := verdict{p, &s, r, granted(before, &r), granted(after, &r), a}
			if changed := v.note(); changed && !websocket {
				kept = false
			}
			if !websocket && v.before != nil && v.after != nil {
				both = append(both, v.before, v.after)
			}
		}
	}
	if err := s.run(); err != nil {
		return err
	}
	if kept && len(both) > 0 {
		for i := 0; i < len(both); i += 2 {
			p.regions.keep(r.Method, both[i+1], both[i])
			p.regions.keep(r.Method, both[i], both[i+1])
		}
	}
	return nil
}

// granted returns e if its route takes r.
func granted(e *end, r *Request) *end {
	if e == nil || ungranted(e.route, r) != "" {
		return nil
	}
	return e
}

// A verdict is what becomes of one request by two policies; nil ends deny it.
type verdict struct {
	*pair
	search        *search
	request       Request
	before, after *end
	assigned      *assignment
}

// note records how the two differ, and reports whether they do in what is allowed.
func (v *verdict) note() bool {
	switch {
	case v.before == nil && v.after == nil:
		return false
	case v.before == nil:
		c := Change{Kind: Gained, What: ChangeAccess, New: v.after.route, Before: conditionsOf(v.search.old, &v.request), After: v.after.route.enforced()}
		v.record(c, v.after)
		return true
	case v.after == nil:
		c := Change{Kind: Lost, What: ChangeAccess, Old: v.before.route, Before: v.before.route.enforced(), After: conditionsOf(v.search.next, &v.request)}
		v.record(c, v.before)
		return true
	}
	c := Change{Old: v.before.route, New: v.after.route}
	if v.before.path != v.after.path {
		c.Was = v.before.path
	}
	was, is := v.differ.old.credentials[c.Old.Credential], v.differ.next.credentials[c.New.Credential]
	if !sameCredential(was, is) {
		c.What, c.Before, c.After = ChangeCredential, describeCredential(was), describeCredential(is)
		switch {
		case was == nil:
			c.Kind = Gained
		case is == nil:
			c.Kind = Lost
		default:
			c.Kind = Changed
		}
		v.record(c, v.after)
	}
	for _, o := range options {
		before, after := o.value(c.Old), o.value(c.New)
		if before == after {
			continue
		}
		c.Kind, c.What, c.Before, c.After = o.kind(c.Old, c.New), ChangeOption, listed(before), listed(after)
		v.record(c, v.after)
	}
	return false
}

func listed(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// record adds c, which is about the requests that at decides, to the regions.
func (v *verdict) record(c Change, at *end) {
	c.Scheme, c.Host, c.Port, c.Path = at.route.Scheme, at.route.Host, at.route.Port, at.path
	c.Methods = []string{v.request.Method}
	c.Witness.Request = v.request
	c.Witness.Assume = v.assigned.add(&c.Witness.Request)
	v.regions.add(c, at)
}

// conditionsOf returns what a request has to meet to be allowed by one of ends: the conditions of
// the first that takes r, nil if none does.
func conditionsOf(ends []*end, r *Request) []string {
	for _, e := range ends {
		if granted(e, r) != nil && e.route.conditioned() {
			return e.route.enforced()
		}
	}
	return nil
}

// enforced returns the conditions of r that keep requests out.
func (r *Route) enforced() []string {
	if r.Mode == Report {
		return nil
	}
	return r.Conditions()
}

func sameCredential(a, b *Credential) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.DeepEqual(a.From, b.From) && reflect.DeepEqual(a.Inject, b.Inject)
}

// describeCredential says what a credential is, where it comes from and how it is put on a request.
func describeCredential(c *Credential) []string {
	if c == nil {
		return nil
	}
	words := []string{c.Name}
	switch f := c.From; {
	case f.Vault != nil && f.Vault.JWT != nil:
		words = append(words, fmt.Sprintf("vault %s jwt %s %v", f.Vault.Path, f.Vault.JWT.Algorithm, f.Vault.JWT.Claims))
	case f.Vault != nil:
		words = append(words, strings.TrimSpace(fmt.Sprintf("vault %s %s", f.Vault.Path, f.Vault.Field)))
	case f.File != nil:
		words = append(words, "file "+f.File.Path)
	case f.Exec != nil:
		words = append(words, "exec "+strings.Join(f.Exec.Command, " "))
	case f.Env != nil:
		words = append(words, "env "+f.Env.Name)
	}
	switch i := c.Inject; {
	case i.Bearer != nil:
		words = append(words, "bearer")
	case i.Basic != nil:
		words = append(words, strings.TrimSpace("basic "+i.Basic.User))
	case i.Header != nil:
		words = append(words, "header "+i.Header.Name)
	case i.Query != nil:
		words = append(words, "query "+i.Query.Name)
	case i.ClientCertificate != nil:
		words = append(words, "client certificate")
	}
	return words
}

// A keptKey is one method of a route's path.
type keptKey struct {
	method string
	route  *Route
	path   string
}

// regions gather changes of single requests to changes of patterns.
type regions struct {
	found map[string]*Change // by all that one line about several requests has in common
	order []string
	kept  map[keptKey]map[string]bool // the other policy's patterns where nothing changes
}

// keep notes that requests which at decides are as allowed by other, of the other policy.
func (g *regions) keep(method string, at, other *end) {
	key := keptKey{method, at.route, at.path}
	if g.kept == nil {
		g.kept = map[keptKey]map[string]bool{}
	}
	if g.kept[key] == nil {
		g.kept[key] = map[string]bool{}
	}
	name := other.path
	if other.route.Host != at.route.Host {
		name = other.route.Host + name
	}
	g.kept[key][name] = true
}

// add adds c, of one method, about at.
func (g *regions) add(c Change, at *end) {
	if g.found == nil {
		g.found = map[string]*Change{}
	}
	n := c.Witness.Request.Target.needs
	encoded := ""
	switch {
	case n.encodedSlash:
		encoded = "%2F"
	case n.encodedPercent:
		encoded = "%25"
	}
	other := c.Old
	if at.route == c.Old {
		other = c.New
	}
	routeOf := func(r *Route) int {
		if r == nil {
			return -1
		}
		return r.order
	}
	key := fmt.Sprintf("%s\x00%s\x00%d\x00%s\x00%s\x00%d\x00%q\x00%q", c.Kind, c.What, at.route.order, at.path, c.Methods[0], routeOf(other), c.Before, c.After) + c.Was
	if c.What == ChangeAccess {
		key = fmt.Sprintf("%s\x00%s\x00%d\x00%s\x00%s\x00%q\x00%q", c.Kind, c.What, at.route.order, at.path, c.Methods[0], c.Before, c.After)
	}
	known := g.found[key]
	if known == nil {
		known = &c
		g.found[key] = known
		g.order = append(g.order, key)
	}
	known.merge(c, encoded)
}

// merge adds to k a request c of the same line. Requests come the plainest first.
func (k *Change) merge(c Change, encoded string) {
	r := c.Witness.Request
	switch {
	case r.WebSocket:
		k.WebSocket = true
	case encoded == "":
		k.Plain = true
	}
	if encoded != "" && !slices.Contains(k.Encoded, encoded) {
		k.Encoded = append(k.Encoded, encoded)
	}
	was := k.Witness
	better := len(c.Witness.Assume) < len(was.Assume)
	if len(c.Witness.Assume) == len(was.Assume) {
		better = was.Request.WebSocket && !r.WebSocket ||
			was.Request.WebSocket == r.WebSocket && len(r.Target.Path) < len(was.Request.Target.Path)
	}
	if better {
		k.Witness = c.Witness
	}
}

// changes returns what was gathered, with the methods of equal changes in one.
func (g *regions) changes() []Change {
	var merged []Change
	for _, key := range g.order {
		c := *g.found[key]
		if c.WebSocket && !c.Plain && len(c.Encoded) == 0 && c.What == ChangeAccess {
			c.What = ChangeWebSocket
		}
		at := c.New
		if at == nil {
			at = c.Old
		}
		if c.What == ChangeAccess && c.Plain {
			c.Except = slices.Sorted(maps.Keys(g.kept[keptKey{c.Methods[0], at, c.Path}]))
		}
		slices.Sort(c.Encoded)
		i := slices.IndexFunc(merged, func(m Change) bool { return m.sameBut(&c) })
		if i < 0 {
			merged = append(merged, c)
			continue
		}
		merged[i].Methods = append(merged[i].Methods, c.Methods...)
	}
	for i := range merged {
		slices.Sort(merged[i].Methods)
		merged[i].Methods = slices.Compact(merged[i].Methods)
	}
	return merged
}

// sameBut reports whether c and d are equal but for their methods and witnesses.
func (c *Change) sameBut(d *Change) bool {
	return c.Kind == d.Kind && c.What == d.What && c.Path == d.Path && c.Old == d.Old && c.New == d.New &&
		c.WebSocket == d.WebSocket && c.Plain == d.Plain && c.Was == d.Was &&
		slices.Equal(c.Except, d.Except) && slices.Equal(c.Encoded, d.Encoded) && slices.Equal(c.Before, d.Before) && slices.Equal(c.After, d.After)
}
