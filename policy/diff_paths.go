package policy

import (
	"encoding/binary"
	"slices"
	"strings"
)

// maxPathStates bounds what is looked at on one host: patterns with ** and many segments after it
// can tell very many kinds of paths apart.
const maxPathStates = 200_000

// A place is how far a path has come in a pattern: before its element at.
type place struct{ pattern, at int }

// A pathState is all that patterns know of the beginning of a path.
type pathState struct {
	places []place // sorted
	needs  needs
	ended  bool // no segment may follow
	path   string
}

// key is equal for states from which the same paths lead to the same patterns.
func (s *pathState) key() string {
	b := make([]byte, 0, 8*len(s.places)+1)
	for _, p := range s.places {
		b = binary.AppendUvarint(b, uint64(p.pattern))
		b = binary.AppendUvarint(b, uint64(p.at))
	}
	flags := byte(0)
	for i, set := range []bool{s.needs.encodedSlash, s.needs.encodedPercent, s.ended} {
		if set {
			flags |= 1 << i
		}
	}
	return string(append(b, flags))
}

// A pathWalk visits one path of each kind that patterns tell apart: they are an automaton over
// segments, whose alphabet are the segments that they spell out and, for each set of encodings, one
// that none of them does. Paths are visited the one with the fewest segments first.
type pathWalk struct {
	patterns []pattern
	encoded  bool // look at segments with encodings, too
}

// add adds the patterns of routes.
func (w *pathWalk) add(routes []*Route) {
	seen := map[string]bool{}
	for _, p := range w.patterns {
		seen[p.shape()] = true
	}
	for _, r := range routes {
		w.encoded = w.encoded || r.AllowEncodedSlash || r.AllowEncodedPercent
		for _, p := range r.patterns {
			if shape := p.shape(); !seen[shape] {
				seen[shape] = true
				w.patterns = append(w.patterns, p)
			}
		}
	}
}

// visit calls f with a path of each kind that some pattern matches.
func (w *pathWalk) visit(f func(path string) error) error {
	start := pathState{}
	for i := range w.patterns {
		start.places = append(start.places, w.reach(nil, place{i, 0})...)
	}
	slices.SortFunc(start.places, comparePlaces)
	seen := map[string]bool{}
	for queue := []pathState{start}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if s.path != "" && slices.ContainsFunc(s.places, func(p place) bool { return p.at == len(w.patterns[p.pattern]) }) {
			if err := f(s.path); err != nil {
				return err
			}
		}
		if s.ended {
			continue
		}
		for _, segment := range w.segments(&s) {
			next, ok := w.step(&s, segment)
			if key := next.key(); ok && !seen[key] {
				seen[key] = true
				queue = append(queue, next)
			}
		}
		if len(seen) > maxPathStates {
			return ErrTooComplex
		}
	}
	return nil
}

// reach appends p to places, and where ** may stand for no segment, what follows it.
func (w *pathWalk) reach(places []place, p place) []place {
	places = append(places, p)
	if pattern := w.patterns[p.pattern]; p.at < len(pattern) && pattern[p.at].kind == anySegments {
		places = w.reach(places, place{p.pattern, p.at + 1})
	}
	return places
}

func comparePlaces(a, b place) int {
	if a.pattern != b.pattern {
		return a.pattern - b.pattern
	}
	return a.at - b.at
}

// segments returns one segment of each kind that the patterns tell apart after s.
func (w *pathWalk) segments(s *pathState) []string {
	found := map[string]bool{"": true}
	segments := []string{""}
	for _, p := range s.places {
		if pattern := w.patterns[p.pattern]; p.at < len(pattern) && pattern[p.at].kind == exactSegment && !found[pattern[p.at].text] {
			found[pattern[p.at].text] = true
			segments = append(segments, pattern[p.at].text)
		}
	}
	suffixes := []string{""}
	if w.encoded {
		suffixes = []string{"", "%2Fx", "%2520x", "%252Fx"}
	}
	for _, suffix := range suffixes {
		other := "x"
		for found[other+suffix] {
			other += "x"
		}
		segments = append(segments, other+suffix)
	}
	return segments
}

// step returns what is known after one more segment; ok is false if no pattern can match any more,
// or if no request has such a path.
func (w *pathWalk) step(s *pathState, segment string) (next pathState, ok bool) {
	var places []place
	for _, p := range s.places {
		pattern := w.patterns[p.pattern]
		if p.at == len(pattern) {
			continue
		}
		switch e := pattern[p.at]; {
		case e.kind == anySegments:
			places = w.reach(places, p)
		case e.kind == exactSegment && e.text == segment, e.kind == anySegment && segment != "":
			places = w.reach(places, place{p.pattern, p.at + 1})
		}
	}
	slices.SortFunc(places, comparePlaces)
	next = pathState{places: slices.Compact(places), path: s.path + "/" + segment}
	if len(places) == 0 {
		return next, false
	}
	n, err := checkPath(next.path)
	if err != nil {
		return next, false
	}
	next.needs = n
	// What is decoded to a / at the end of a segment makes an empty one of whatever follows.
	_, err = checkPath("/" + segment + "/x")
	next.ended = segment == "" || err != nil
	return next, true
}

// all appends to found every end below n for method and the segments of path that begin at i, in
// the order in which [node.find] comes to them.
func (n *node) all(path, method string, i int, found []*end) []*end {
	if i > len(path) {
		for j := range n.ends {
			if n.ends[j].method == method {
				found = append(found, &n.ends[j])
			}
		}
		return n.allDeep(path, method, i, found)
	}
	next := len(path) + 1
	if j := strings.IndexByte(path[i:], '/'); j >= 0 {
		next = i + j + 1
	}
	segment := path[i : next-1]
	if child := n.exact[segment]; child != nil {
		found = child.all(path, method, next, found)
	}
	if n.any != nil && segment != "" {
		found = n.any.all(path, method, next, found)
	}
	return n.allDeep(path, method, i, found)
}

// allDeep is all for the patterns that have ** at n.
func (n *node) allDeep(path, method string, i int, found []*end) []*end {
	for _, r := range n.deep {
		if start, ok := lastSegments(path, i, r.segments); ok {
			found = r.tree.all(path, method, start, found)
		}
	}
	return found
}
