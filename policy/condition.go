package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Session is what a condition can know about the session that a request belongs to. What is
// not known is empty.
type Session struct {
	ID          string
	Role        string
	RequestedBy string // who asked for the session
}

// A condition is one thing that a route asks of a request beyond host, path and method. It is
// immutable.
type condition interface {
	// String returns the condition in the words of the file, its key first.
	String() string

	// holds reports whether the request of ev meets the condition. An error, a [*refusal], denies
	// the request whatever other routes say.
	holds(ev *evaluation) (bool, error)
}

// A refusal is why a request is denied by a condition that cannot be decided. Its message holds
// nothing of the request.
type refusal struct {
	reason Reason
	msg    string
}

func (r *refusal) Error() string { return r.msg }

func failed(format string, args ...any) error {
	return &refusal{ConditionFailed, fmt.Sprintf(format, args...)}
}

func unacceptable(format string, args ...any) error {
	return &refusal{BodyNotAcceptable, fmt.Sprintf(format, args...)}
}

// maxCost bounds what all CEL conditions of one decision may cost, in CEL's units. A unit is
// some tens of nanoseconds.
const maxCost = 1_000_000

// maxUnmet is how many conditions that are not met are told.
const maxUnmet = 3

// An evaluation is one request while conditions are evaluated on it. What several conditions need
// is read once, and what none needs is not read. It is for one goroutine.
type evaluation struct {
	request Request
	path    string // the pattern of the candidate, as the file has it

	lookalikes *lookalikes

	refused  *refusal
	by       *Route   // the route whose condition refused
	reported *end     // the first in mode report whose conditions are not met, or refused
	notMet   []string // which conditions are not, of the first routes that the search came to
	limit    int64    // of the candidate's body; 0 is none
	cost     uint64
	trace    bool
	values   []ConditionValue // if trace

	query   once[map[string][]string]
	headers map[string]string
	json    once[any]
	size    int64 // of the body that json was read from
	graphql once[graphQLRequest]
}

// A once is what is read at most once, and the error of it.
type once[T any] struct {
	done  bool
	value T
	err   error
}

func (o *once[T]) get(read func() (T, error)) (T, error) {
	if !o.done {
		o.value, o.err = read()
		o.done = true
	}
	return o.value, o.err
}

// accepts reports whether the search for a route ends at e: its conditions hold, or one of them
// cannot be decided. The latter is noted in refused.
func (ev *evaluation) accepts(e *end) bool {
	met, err := ev.check(e.route, e.path)
	if !met && e.route.trial && ev.reported == nil {
		ev.reported = e
	}
	if err != nil {
		ev.refused, ev.by = err, e.route
		return true
	}
	return met
}

// check evaluates the conditions of route, one of whose patterns is path, up to the first that
// does not hold.
func (ev *evaluation) check(route *Route, path string) (met bool, refused *refusal) {
	ev.path, ev.limit = path, cmp.Or(route.Limits.Body, defaultBody)
	for _, c := range route.conditions {
		holds, err := c.holds(ev)
		if ev.trace {
			ev.note(route, c, holds, err)
		}
		if err != nil && !errors.As(err, &refused) {
			refused = &refusal{ConditionFailed, err.Error()}
		}
		if err == nil && !holds {
			ev.noteNotMet(route, c)
		}
		if err != nil || !holds {
			return false, refused
		}
	}
	return true, nil
}

// noteNotMet notes for people that a condition does not hold; a route may be come to by several paths.
func (ev *evaluation) noteNotMet(route *Route, c condition) {
	text := fmt.Sprintf("route %s: not met: %s", route.Name, c)
	if len(ev.notMet) < maxUnmet && !slices.Contains(ev.notMet, text) {
		ev.notMet = append(ev.notMet, text)
	}
}

func (ev *evaluation) note(route *Route, c condition, holds bool, err error) {
	v := ConditionValue{Route: route, Condition: c.String(), Value: fmt.Sprint(holds)}
	if err != nil {
		v.Value = "error: " + err.Error()
	}
	ev.values = append(ev.values, v)
}

// decide is [Policy.Decide] where the most specific route has conditions.
func (ev *evaluation) decide(exact, wildcard *site) Decision {
	r := &ev.request
	e := find(exact, wildcard, &probe{path: r.Target.Path, method: r.Method, eval: ev})
	switch {
	case ev.refused != nil:
		return ev.deny(Decision{Reason: ev.refused.reason, Detail: fmt.Sprintf("route %s: %s", ev.by.Name, ev.refused.msg)})
	case e == nil:
		return ev.deny(Decision{Reason: ConditionNotMet, Detail: strings.Join(ev.notMet, "; ")})
	}
	return grant(e, r)
}

// deny returns d, a denial, or what becomes of it if the search came to a route in mode report.
func (ev *evaluation) deny(d Decision) Decision {
	if ev.reported == nil {
		return d
	}
	allowed := grant(ev.reported, &ev.request)
	if allowed.Allow {
		allowed.Reported, allowed.Detail = d.Reason, d.Detail
	}
	return allowed
}

// readQuery returns the decoded parameters of the query by their decoded names.
func (ev *evaluation) readQuery() (map[string][]string, error) {
	return ev.query.get(func() (map[string][]string, error) { return ev.parseQuery() })
}

func (ev *evaluation) parseQuery() (map[string][]string, error) {
	values, err := parseQuery(ev.request.Target.Query)
	for name := range values {
		if err == nil && ev.lookalikes.inQuery(name) {
			err = failed("the query has a parameter that some servers take for one that a condition looks for, and that is written otherwise")
		}
	}
	return values, err
}

// parseQuery reads s as application/x-www-form-urlencoded (URL Standard section 5.1).
func parseQuery(s string) (map[string][]string, error) {
	values := map[string][]string{}
	for part := range strings.SplitSeq(s, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		name, value = decodeForm(name), decodeForm(value)
		if !isText(name) || !isText(value) {
			return nil, failed("the query encodes bytes that are not UTF-8, or a control character")
		}
		values[name] = append(values[name], value)
	}
	return values, nil
}

func decodeForm(s string) string { return decodeOnce(strings.ReplaceAll(s, "+", " ")) }

// readHeaders returns the header fields by their lower-case names, each with its values joined
// (RFC 9110 section 5.3, for Cookie RFC 9113 section 8.2.3).
func (ev *evaluation) readHeaders() map[string]string {
	if ev.headers == nil {
		ev.headers = make(map[string]string, len(ev.request.Header))
		for name, values := range ev.request.Header {
			name = strings.ToLower(name)
			separator := ", "
			if name == "cookie" {
				separator = "; "
			}
			ev.headers[name] = strings.Join(values, separator)
		}
	}
	return ev.headers
}

// params returns the decoded segments that the candidate's pattern names.
func (ev *evaluation) params() map[string]string {
	params := map[string]string{}
	pattern := strings.Split(ev.path, "/")
	segments := strings.Split(ev.request.Target.Path, "/")
	shift := 0
	for i, p := range pattern {
		if p == "**" {
			shift = len(segments) - len(pattern)
		} else if name := variable(p); name != "" {
			params[name] = decodeOnce(segments[i+shift])
		}
	}
	return params
}

// now returns the time of the request.
func (ev *evaluation) now() (time.Time, error) {
	if ev.request.Now.IsZero() {
		return time.Time{}, failed("the time is not known")
	}
	return ev.request.Now, nil
}

// conditioned reports whether r asks for more than host, path and method.
func (r *Route) conditioned() bool { return len(r.conditions) > 0 }

// Conditions returns what a request must meet beyond host, path and method, each in the words of
// the file with its key first, such as "when: size(request.json.body) < 65536". They are evaluated
// in this order. It is nil if there are none.
func (r *Route) Conditions() []string {
	var texts []string
	for _, c := range r.conditions {
		texts = append(texts, c.String())
	}
	return texts
}

// ReadsBody reports whether a condition of r reads the body. Without one, a decision never asks
// for it.
func (r *Route) ReadsBody() bool {
	return slices.ContainsFunc(r.conditions, func(c condition) bool {
		switch c := c.(type) {
		case *when:
			return c.needs["request.json"]
		case *GraphQL:
			return true
		}
		return false
	})
}
