package policy

import (
	"fmt"
	"strings"
)

// An elementKind is how much an element of a path pattern takes. Its order is the order of
// specificity.
type elementKind int

const (
	exactSegment elementKind = iota // the segment itself
	anySegment                      // * or {x}: any one segment that is not empty
	anySegments                     // **: any number of segments, none included
)

// An element is one segment of a pattern; text is set for an exactSegment only, because the
// name in {x} changes nothing.
type element struct {
	kind elementKind
	text string
}

// A pattern is a path pattern; at most one element is anySegments.
type pattern []element

// parsePattern returns the pattern that s spells and what its paths need, or what is wrong with
// s and what to write.
func parsePattern(s string) (p pattern, n needs, msg, hint string) {
	fail := func(msg, hint string) (pattern, needs, string, string) { return nil, needs{}, msg, hint }
	switch {
	case s == "":
		return fail("the path is empty", `write "/**" for every path`)
	case s[0] != '/':
		return fail("the path does not begin with /", fmt.Sprintf("write %q", "/"+s))
	case len(s) > maxPath:
		return fail(fmt.Sprintf("the path is longer than %d bytes", maxPath), "")
	}
	names := map[string]bool{}
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		if segment == "" && i < len(segments)-1 {
			return fail("the path has an empty segment (//)", "no request with // in its path is let through; write one slash")
		}
		e, msg, hint := parseElement(segment, &n)
		if msg != "" {
			return fail(msg, hint)
		}
		if e.kind == anySegments && p.deep() >= 0 {
			return fail("** stands in the path more than once", "write two paths, or * for exactly one segment")
		}
		if name := variable(segment); name != "" {
			if names[name] {
				return fail(fmt.Sprintf("the name {%s} stands in the path more than once", name), "name the second one differently")
			}
			names[name] = true
		}
		p = append(p, e)
	}
	if msg := checkDecoded(s, &n); msg != "" {
		return fail("the path "+msg, unsendable)
	}
	return p, n, "", ""
}

const unsendable = "no request with such a path is let through; write the path as clients send it"

// parseElement parses one segment of a pattern. It adds to n what the segment needs.
func parseElement(s string, n *needs) (e element, msg, hint string) {
	switch {
	case s == "*":
		return element{kind: anySegment}, "", ""
	case s == "**":
		return element{kind: anySegments}, "", ""
	case variable(s) != "":
		return element{kind: anySegment}, "", ""
	case strings.Contains(s, "*"):
		return e, fmt.Sprintf("the segment %q has a * beside other characters", s),
			"a * takes a whole segment; write the segment out, or * alone"
	case strings.ContainsAny(s, "{}"):
		return e, fmt.Sprintf("the segment %q is not a name in braces", s),
			"write {name}, of letters, digits and _, as the whole segment"
	case strings.ContainsAny(s, "?#"):
		return e, fmt.Sprintf("the segment %q has a query or a fragment", s), "write the path only; a query may be anything"
	}
	if msg := checkSegment(s, n); msg != "" {
		return e, "the path " + msg, unsendable
	}
	return element{exactSegment, s}, "", ""
}

// variable returns the name in "{name}", and "" if s is anything else.
func variable(s string) string {
	if len(s) < 3 || s[0] != '{' || s[len(s)-1] != '}' || isDigit(s[1]) {
		return ""
	}
	name := s[1 : len(s)-1]
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && name[i] != '_' {
			return ""
		}
	}
	return name
}

// deep returns the index of **, or -1.
func (p pattern) deep() int {
	for i, e := range p {
		if e.kind == anySegments {
			return i
		}
	}
	return -1
}

// shape spells p so that two patterns that match the same paths in the same way are equal.
func (p pattern) shape() string {
	var b strings.Builder
	for _, e := range p {
		b.WriteByte('/')
		switch e.kind {
		case exactSegment:
			b.WriteString(e.text) // which holds no *, as parsePattern makes sure
		case anySegment:
			b.WriteByte('*')
		case anySegments:
			b.WriteString("**")
		}
	}
	return b.String()
}
