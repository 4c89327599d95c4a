package policy

import (
	"cmp"
	"slices"
	"strings"
)

// A node is a place in the segment tree of one host. The walk down the tree tries what is
// more specific first and so finds the route that decides without comparing routes.
type node struct {
	exact map[string]*node
	any   *node
	ends  []end  // routes whose pattern ends here
	deep  []rest // what follows a ** here; the longer rest first
}

// A rest is the tree of all patterns that have the same number of segments after a **.
type rest struct {
	segments int
	tree     *node
}

// An end is a route that may decide for one method among those with the same path shape, and the
// pattern of it that ends here, as the file has it.
type end struct {
	method string
	route  *Route
	path   string
}

// add puts r into the tree below n, under p, whose text is path.
func (n *node) add(p pattern, path string, r *Route) {
	for i, e := range p {
		switch e.kind {
		case exactSegment:
			if n.exact == nil {
				n.exact = map[string]*node{}
			}
			if n.exact[e.text] == nil {
				n.exact[e.text] = &node{}
			}
			n = n.exact[e.text]
		case anySegment:
			if n.any == nil {
				n.any = &node{}
			}
			n = n.any
		case anySegments:
			n.after(len(p)-i-1).add(p[i+1:], path, r)
			return
		}
	}
	for _, m := range r.Methods {
		n.insert(end{m, r, path})
	}
}

// insert puts e among the ends of its method, the most specific first. Behind one without
// conditions none is ever looked at, and so none is kept.
func (n *node) insert(e end) {
	at := len(n.ends)
	for i, other := range n.ends {
		switch {
		case other.method != e.method:
		case precedes(e.route, other.route):
			at = min(at, i)
		case !other.route.conditioned():
			return
		}
	}
	behind := n.ends[at:]
	n.ends = append(slices.Clone(n.ends[:at]), e)
	for _, other := range behind {
		if other.method != e.method || e.route.conditioned() {
			n.ends = append(n.ends, other)
		}
	}
}

// after returns the tree for patterns with that many segments after a ** at n.
func (n *node) after(segments int) *node {
	i, found := slices.BinarySearchFunc(n.deep, segments, func(r rest, want int) int {
		return cmp.Compare(want, r.segments)
	})
	if !found {
		n.deep = slices.Insert(n.deep, i, rest{segments, &node{}})
	}
	return n.deep[i].tree
}

// precedes reports whether a decides before b when both match with the same path shape.
func precedes(a, b *Route) bool {
	if len(a.Methods) != len(b.Methods) {
		return len(a.Methods) < len(b.Methods)
	}
	if a.conditioned() != b.conditioned() {
		return a.conditioned()
	}
	return a.order < b.order
}

// A probe is what the tree is searched for. anyMethod finds the first route by path alone;
// it is a field of its own so that an empty method matches nothing. eval is what conditions are
// evaluated with; if it is nil, they are not, and count as met.
type probe struct {
	path      string
	method    string
	anyMethod bool
	eval      *evaluation
}

// find returns the first end below n for the segments of q.path that begin at i, or nil.
// Segments begin after each "/"; i is len(q.path)+1 when none is left.
func (n *node) find(q *probe, i int) *end {
	if i > len(q.path) {
		if e := n.end(q); e != nil {
			return e
		}
		return n.findDeep(q, i)
	}
	next := len(q.path) + 1
	if j := strings.IndexByte(q.path[i:], '/'); j >= 0 {
		next = i + j + 1
	}
	segment := q.path[i : next-1]
	if child := n.exact[segment]; child != nil {
		if e := child.find(q, next); e != nil {
			return e
		}
	}
	if n.any != nil && segment != "" {
		if e := n.any.find(q, next); e != nil {
			return e
		}
	}
	return n.findDeep(q, i)
}

// findDeep is find for the patterns that have ** at n. As ** stands in a pattern once, the
// segments after it can only be the last ones of the path.
func (n *node) findDeep(q *probe, i int) *end {
	for _, r := range n.deep {
		start, ok := lastSegments(q.path, i, r.segments)
		if !ok {
			continue
		}
		if e := r.tree.find(q, start); e != nil {
			return e
		}
	}
	return nil
}

// lastSegments returns where the last n segments of path begin; ok is false if there are
// fewer at or after from.
func lastSegments(path string, from, n int) (start int, ok bool) {
	start = len(path) + 1
	for ; n > 0; n-- {
		if start <= from {
			return 0, false
		}
		start = strings.LastIndexByte(path[:start-1], '/') + 1
	}
	return start, true
}

func (n *node) end(q *probe) *end {
	for i := range n.ends {
		e := &n.ends[i]
		if !q.anyMethod && e.method != q.method {
			continue
		}
		if q.eval == nil || q.eval.accepts(e) {
			return e
		}
	}
	return nil
}
