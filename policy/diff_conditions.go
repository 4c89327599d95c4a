package policy

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// maxLeaves bounds the combinations of conditions that are looked at for one kind of request.
const maxLeaves = 4096

// A domain is what an atom looks at. Atoms of different domains are independent of each other.
type domain string

const (
	queryDomain   domain = "query "  // with the parameter's name
	headerDomain  domain = "header " // with the field's name
	contentDomain domain = "content type"
	graphqlDomain domain = "graphql " // with the operation's type
	opaqueDomain  domain = "opaque "  // with a key of its own
)

// An atom is a condition as far as two policies' conditions can be compared: that what domain names
// is in set.
type atom struct {
	domain domain
	set    []string // sorted; nil stands for all, and is what an opaque atom has
	fails  bool     // it may be impossible to evaluate
	text   string
}

func (a *atom) key() string { return string(a.domain) + "\x00" + strings.Join(a.set, "\x00") }

// group is equal for atoms that can only be impossible to evaluate together.
func (a *atom) group() string {
	for _, d := range []domain{queryDomain, graphqlDomain} {
		if strings.HasPrefix(string(a.domain), string(d)) {
			return string(d)
		}
	}
	return a.key()
}

// atomOf returns c, a condition of the route that e ends at, as an atom.
func atomOf(c condition, e *end) *atom {
	sorted := func(set []string) []string {
		set = slices.Clone(set)
		slices.Sort(set)
		return slices.Compact(set)
	}
	switch c := c.(type) {
	case *queryMatch:
		return &atom{queryDomain + domain(c.name), sorted(c.values), true, c.String()}
	case *headerMatch:
		return &atom{headerDomain + domain(c.name), sorted(c.values), false, c.String()}
	case *contentTypeMatch:
		return &atom{contentDomain, sorted(c.types), false, c.String()}
	case *GRPC:
		return &atom{contentDomain, []string{grpcType, grpcType + "+*"}, false, "content_type: [" + grpcType + "]"}
	case *GraphQL:
		return &atom{graphqlDomain + domain(c.Type), sorted(c.Operations), true, c.String()}
	case *when:
		key := tidyWhen(c.source)
		if c.needs["request.params"] {
			key += "\x00" + paramPlaces(e.path)
		}
		return &atom{opaqueDomain + domain(key), nil, true, c.String()}
	}
	return &atom{opaqueDomain + domain(c.String()), nil, true, c.String()}
}

const grpcType = "application/grpc"

// tidyWhen returns source without what says nothing in CEL: white space outside of texts. It leaves
// alone what it is not sure to understand.
func tidyWhen(source string) string {
	source = strings.TrimSpace(source)
	if strings.ContainsAny(source, "\\") || strings.Contains(source, "//") || strings.Contains(source, `"""`) || strings.Contains(source, "'''") {
		return source
	}
	var b strings.Builder
	quote, space := rune(0), false
	for _, r := range source {
		if quote == 0 && strings.ContainsRune(" \t\r\n", r) {
			space = true
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		switch {
		case quote == r:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		}
		b.WriteRune(r)
	}
	return b.String()
}

// paramPlaces says which segment each name in a pattern stands for.
func paramPlaces(pattern string) string {
	var b strings.Builder
	for segment := range strings.SplitSeq(pattern, "/") {
		switch {
		case variable(segment) != "", segment == "**":
			b.WriteString(segment)
		}
		b.WriteByte('/')
	}
	return b.String()
}

// A truth is what an atom comes to; the zero truth is not known.
type truth int

const (
	isTrue truth = iota + 1
	isFalse
	isError
)

func (t truth) String() string { return [...]string{"", "true", "false", "error"}[t] }

// An assignment says what some atoms come to.
type assignment struct {
	atoms  []*atom // in the order in which they were assigned
	truths map[string]truth
}

// possible reports whether there is a request on which the atoms come to what a says, as far as they
// are not opaque.
func (a *assignment) possible() bool {
	failing := map[string]bool{}
	for i, x := range a.atoms {
		fails, group := a.truths[x.key()] == isError, x.group()
		if was, known := failing[group]; known && was != fails {
			return false
		}
		failing[group] = fails
		if !fails && i == slices.IndexFunc(a.atoms, func(y *atom) bool { return y.domain == x.domain }) && !a.satisfiable(x.domain) {
			return false
		}
	}
	kinds := 0
	for x := range a.domains(graphqlDomain) {
		if _, holds := a.values(x); holds {
			kinds++
		}
	}
	return kinds <= 1
}

// domains returns the domains of a's atoms that begin with prefix.
func (a *assignment) domains(prefix domain) map[domain]bool {
	found := map[domain]bool{}
	for _, x := range a.atoms {
		if strings.HasPrefix(string(x.domain), string(prefix)) && a.truths[x.key()] != isError {
			found[x.domain] = true
		}
	}
	return found
}

// values returns the largest set of values that meets every true atom of d, nil for all; holds is
// false if none is true.
func (a *assignment) values(d domain) (set []string, holds bool) {
	for _, x := range a.atoms {
		switch {
		case x.domain != d || a.truths[x.key()] != isTrue:
		case set == nil:
			set = x.set
			holds = true
		case x.set != nil:
			set = slices.DeleteFunc(slices.Clone(set), func(v string) bool { return !slices.Contains(x.set, v) })
		}
	}
	return set, holds
}

// satisfiable reports whether what d looks at can meet the true atoms and not the false ones.
func (a *assignment) satisfiable(d domain) bool {
	if d == contentDomain {
		_, ok := a.contentType()
		return ok
	}
	set, holds := a.values(d)
	if !holds {
		return true // what is not there meets none
	}
	graphql := strings.HasPrefix(string(d), string(graphqlDomain))
	if set != nil && len(set) == 0 && !graphql {
		return false
	}
	for _, x := range a.atoms {
		if x.domain == d && a.truths[x.key()] == isFalse && within(set, x.set) {
			return false
		}
	}
	return true
}

// within reports whether all of set is in other; nil is everything.
func within(set, other []string) bool {
	if set == nil || other == nil {
		return other == nil
	}
	return !slices.ContainsFunc(set, func(v string) bool { return !slices.Contains(other, v) })
}

// contentType returns a media type that meets the true atoms and not the false ones; it is empty for
// none.
func (a *assignment) contentType() (mediaType string, ok bool) {
	candidates := []string{""}
	for _, x := range a.atoms {
		if x.domain == contentDomain {
			candidates = append(candidates, x.set...)
		}
	}
	for _, c := range candidates {
		c = strings.Replace(c, "+*", "+proto", 1)
		if !slices.ContainsFunc(a.atoms, func(x *atom) bool {
			return x.domain == contentDomain && (a.truths[x.key()] == isTrue) != x.takes(c)
		}) {
			return c, true
		}
	}
	return "", false
}

// takes reports whether a content type meets x.
func (x *atom) takes(mediaType string) bool {
	return slices.ContainsFunc(x.set, func(t string) bool {
		prefix, open := strings.CutSuffix(t, "*")
		return t == mediaType || open && strings.HasPrefix(mediaType, prefix)
	})
}

// add makes r meet what a says, and returns the conditions that it could not be made to meet.
func (a *assignment) add(r *Request) []ConditionValue {
	var assumed []ConditionValue
	query := url.Values{}
	header := map[string][]string{}
	for _, x := range a.atoms {
		value := a.truths[x.key()]
		switch {
		case strings.HasPrefix(string(x.domain), string(opaqueDomain)), strings.HasPrefix(string(x.domain), string(graphqlDomain)):
			assumed = append(assumed, ConditionValue{Condition: x.text, Value: value.String()})
		case x.domain == contentDomain:
			if mediaType, _ := a.contentType(); mediaType != "" {
				header["Content-Type"] = []string{mediaType}
			}
		case value == isError:
			query["x\x01"] = []string{""}
		case value == isTrue:
			if name, ok := strings.CutPrefix(string(x.domain), string(queryDomain)); ok {
				query[name] = a.pick(x.domain)
				continue
			}
			header[strings.TrimPrefix(string(x.domain), string(headerDomain))] = a.pick(x.domain)
		}
	}
	if len(header) > 0 {
		r.Header = header
	}
	if len(query) > 0 {
		r.Target.Query, r.Target.HasQuery = query.Encode(), true
	}
	return assumed
}

// pick returns values that meet the true atoms of d and not the false ones, as few as do.
func (a *assignment) pick(d domain) []string {
	set, _ := a.values(d)
	for _, v := range set {
		if !slices.ContainsFunc(a.atoms, func(x *atom) bool {
			return x.domain == d && a.truths[x.key()] == isFalse && slices.Contains(x.set, v)
		}) {
			return []string{v}
		}
	}
	return set
}

// A search tries what all conditions of two lists of routes may come to.
type search struct {
	old, next []*end
	atoms     map[*end][]*atom
	leaf      func(before, after *end, a *assignment) // nil ends deny
	leaves    int
}

func (s *search) run() error {
	s.atoms = map[*end][]*atom{}
	for _, e := range slices.Concat(s.old, s.next) {
		for _, c := range e.route.conditions {
			s.atoms[e] = append(s.atoms[e], atomOf(c, e))
		}
	}
	return s.branch(&assignment{truths: map[string]truth{}})
}

func (s *search) branch(a *assignment) error {
	before, open := s.decide(s.old, a)
	var after *end
	if open == nil {
		after, open = s.decide(s.next, a)
	}
	if open == nil {
		if s.leaves++; s.leaves > maxLeaves {
			return ErrTooComplex
		}
		s.leaf(before, after, a)
		return nil
	}
	for _, t := range []truth{isTrue, isFalse, isError} {
		if t == isError && !open.fails {
			continue
		}
		b := assignment{append(slices.Clip(a.atoms), open), maps.Clone(a.truths)}
		b.truths[open.key()] = t
		if !b.possible() {
			continue
		}
		if err := s.branch(&b); err != nil {
			return err
		}
	}
	return nil
}

// decide returns the end among ends that decides if the atoms come to what a says, nil if none does;
// or the first atom on which it hangs and of which a says nothing. As in [evaluation.deny], a route
// in mode report lets through what its own conditions would have denied.
func (s *search) decide(ends []*end, a *assignment) (decides *end, open *atom) {
	var reported *end
next:
	for _, e := range ends {
		for _, x := range s.atoms[e] {
			value := a.truths[x.key()]
			if value == 0 {
				return nil, x
			}
			if value != isTrue && reported == nil && e.route.Mode == Report {
				reported = e
			}
			switch value {
			case isFalse:
				continue next
			case isError:
				return reported, nil
			}
		}
		return e, nil
	}
	return reported, nil
}
