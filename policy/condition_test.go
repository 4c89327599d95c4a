package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

// A body is a request's body that counts how often it is asked for.
type body struct {
	text  string
	err   error
	asked int
}

func (b *body) Bytes() ([]byte, error) {
	b.asked++
	return []byte(b.text), b.err
}

// conditionYAML returns a policy with one route that has a condition and one that has none, below
// the same path.
func conditionYAML(when string) string {
	return fmt.Sprintf(`
version: 1
role: reviewer
routes:
  - {name: narrow, host: api.test, methods: [GET, POST], paths: ["/r/{id}", "/d/{id}/**"], when: %s}
  - {name: wide, host: api.test, methods: [GET, POST], paths: ["/r/**"]}
`, quoteYAML(when))
}

func quoteYAML(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func outcome(d policy.Decision) string {
	if d.Allow {
		return d.Route.Name
	}
	return string(d.Reason)
}

// post makes a POST of JSON.
func post(t testing.TB, url, json string) policy.Request {
	r := request(t, "POST "+url)
	r.Header = map[string][]string{"Content-Type": {"application/json"}, "X-Run": {"a", "b"}, "Cookie": {"a=1", "b=2"}}
	r.Body = &body{text: json}
	r.Session = policy.Session{ID: "s1", Role: "reviewer", RequestedBy: "ann"}
	r.Now = time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)
	return r
}

func TestWhen(t *testing.T) {
	for _, tt := range []struct{ when, url, json, want string }{
		{`request.method == "POST"`, "/r/1", "", "narrow"},
		{`request.method == "GET"`, "/r/1", "", "wide"},
		{`request.host == "api.test" && request.path == "/r/1"`, "/r/1", "", "narrow"},
		{`request.params.id == "a b"`, "/r/a%20b", "", "narrow"},
		{`request.params["id"] == "1"`, "/d/1/x/y", "", "narrow"},
		{`request.params.id == "2"`, "/d/1/x/y", "", "condition_not_met"},
		{`request.query.state == ["open"]`, "/r/1?state=open", "", "narrow"},
		{`request.query.state == ["open"]`, "/r/1?state=open&state=all", "", "wide"},
		{`request.query["a b"] == ["c d", ""]`, "/r/1?a+b=c%20d&&a%20b", "", "narrow"},
		{`request.query.state == ["open"]`, "/r/1?", "", "condition_failed"},
		{`has(request.query.state)`, "/r/1?", "", "wide"},
		{`!has(request.query.x)`, "/r/1?x=%ff", "", "condition_failed"},
		{`request.path == "/r/1" || has(request.query.x)`, "/r/1?x=%ff", "", "condition_failed"},
		{`request.headers["x-run"] == "a, b" && request.headers.cookie == "a=1; b=2"`, "/r/1", "", "narrow"},
		{`"x-other" in request.headers`, "/r/1", "", "wide"},
		{`session.id == "s1" && session.role == "reviewer" && session.requested_by == "ann"`, "/r/1", "", "narrow"},
		{`now < timestamp("2027-01-01T00:00:00Z") && now.getHours() == 9`, "/r/1", "", "narrow"},
		{`size(request.json.body) < 5`, "/r/1", `{"body": "four"}`, "narrow"},
		{`size(request.json.body) < 5`, "/r/1", `{"body": "fives"}`, "wide"},
		{`size(request.json.body) < 5`, "/r/1", `{}`, "condition_failed"},
		{`size(request.json.body) < 5`, "/r/1", `{"body": 5}`, "condition_failed"},
		{`request.json.n < 5 && request.json.f > 0.5`, "/r/1", `{"n": 4, "f": 1}`, "narrow"},
		{`request.json.n == 9007199254740993`, "/r/1", `{"n": 9007199254740992}`, "wide"},
		{`request.json.n > 5`, "/r/1", `{"n": 18446744073709551615}`, "narrow"},
		{`request.json.all(i, i.to.exists(t, t == "a"))`, "/r/1", `[{"to": ["a"]}, {"to": ["b", "a"]}]`, "narrow"},
		{`request.json == null`, "/r/1", `null`, "narrow"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "x": 2}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "X": 2}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "y": {"\u017f": 1, "s": 1}}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1} {}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "y": "\ud800"}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "y": 1e999}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", "{\"x\": 1, \"y\": \"\xff\"}", "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", "\ufeff{\"x\": 1}", "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1, "y": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", `{"x": 1,}`, "body_not_acceptable"},
		{`request.json.x == 1`, "/r/1", ``, "body_not_acceptable"},
		{`request.path == "/r/1" || request.json.x == 1`, "/r/1", `x`, "body_not_acceptable"},
		{`request.json.a.all(x, request.json.a.all(y, x == y))`, "/r/1", `{"a": [` + strings.Repeat("1,", 3000) + `1]}`, "condition_failed"},
		{`1 / size(request.query) == 1`, "/r/1", "", "condition_failed"},
	} {
		p := mustParse(t, conditionYAML(tt.when))
		if got := outcome(p.Decide(post(t, "https://api.test"+tt.url, tt.json))); got != tt.want {
			t.Errorf("%s on %s %.60s: got %s, want %s", tt.when, tt.url, tt.json, got, tt.want)
		}
	}
}

// TestBodyMustBePlainJSON: what says that a body is something else than plain JSON denies.
func TestBodyMustBePlainJSON(t *testing.T) {
	p := mustParse(t, conditionYAML("request.json.x == 1"))
	for _, tt := range []struct {
		name   string
		change func(*policy.Request)
		want   string
	}{
		{"as it is", func(*policy.Request) {}, "narrow"},
		{"with a charset", func(r *policy.Request) { r.Header["Content-Type"] = []string{"Application/JSON; charset=UTF-8"} }, "narrow"},
		{"a +json type", func(r *policy.Request) { r.Header["Content-Type"] = []string{"application/merge-patch+json"} }, "narrow"},
		{"identity", func(r *policy.Request) { r.Header["Content-Encoding"] = []string{"Identity"} }, "narrow"},
		{"no content type", func(r *policy.Request) { delete(r.Header, "Content-Type") }, "body_not_acceptable"},
		{"no header", func(r *policy.Request) { r.Header = nil }, "body_not_acceptable"},
		{"text", func(r *policy.Request) { r.Header["Content-Type"] = []string{"text/plain"} }, "body_not_acceptable"},
		{"two types", func(r *policy.Request) { r.Header["Content-Type"] = []string{"application/json", "text/plain"} }, "body_not_acceptable"},
		{"two types in one", func(r *policy.Request) { r.Header["Content-Type"] = []string{"application/json, text/plain"} }, "body_not_acceptable"},
		{"UTF-16", func(r *policy.Request) { r.Header["Content-Type"] = []string{"application/json; charset=utf-16"} }, "body_not_acceptable"},
		{"gzip", func(r *policy.Request) { r.Header["Content-Encoding"] = []string{"gzip"} }, "body_not_acceptable"},
		{"gzip in a second field", func(r *policy.Request) { r.Header["Content-Encoding"] = []string{"identity", "gzip"} }, "body_not_acceptable"},
		{"no body", func(r *policy.Request) { r.Body = nil }, "body_not_acceptable"},
		{"too large", func(r *policy.Request) { r.Body = &body{err: errors.New("too large")} }, "body_not_acceptable"},
	} {
		r := post(t, "https://api.test/r/1", `{"x": 1}`)
		tt.change(&r)
		if got := outcome(p.Decide(r)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestBodyIsReadIfNeeded: the body is asked for when the search comes to a route that needs it, and
// once only.
func TestBodyIsReadIfNeeded(t *testing.T) {
	p := mustParse(t, `
version: 1
role: bodies
routes:
  - {name: exact, host: api.test, methods: [POST], paths: [/x], when: 'request.headers["x-run"] == "a"'}
  - {name: json-1, host: api.test, methods: [POST], paths: ["/{x}"], when: request.json.a == 1}
  - {name: json-2, host: api.test, methods: [POST], paths: ["/{x}"], when: request.json.a == 2}
  - {name: all, host: api.test, access: read-write, paths: ["/**"]}
`)
	for _, tt := range []struct {
		request, run, body, want string
		asked                    int
	}{
		{"POST https://api.test/x", "a", "?", "exact", 0},
		{"POST https://api.test/x", "b", "?", "body_not_acceptable", 1},
		{"POST https://api.test/x", "b", `{"a": 2}`, "json-2", 1},
		{"POST https://api.test/x", "b", `{"a": 3}`, "all", 1},
		{"POST https://api.test/x", "b", `{}`, "condition_failed", 1},
		{"POST https://api.test/x/y", "b", "?", "all", 0},
		{"PUT https://api.test/x", "b", "?", "all", 0},
		{"TRACE https://api.test/x", "b", "?", "method_not_allowed", 0},
		{"POST https://other.test/x", "b", "?", "host_not_allowed", 0},
	} {
		r := request(t, tt.request)
		b := &body{text: tt.body}
		r.Header, r.Body = map[string][]string{"Content-Type": {"application/json"}, "X-Run": {tt.run}}, b
		if got := outcome(p.Decide(r)); got != tt.want || b.asked != tt.asked {
			t.Errorf("%s, run %s, body %s: got %s, body asked for %d times; want %s, %d", tt.request, tt.run, tt.body, got, b.asked, tt.want, tt.asked)
		}
	}
	for name, want := range map[string]bool{"exact": false, "json-1": true, "all": false} {
		for _, r := range p.Routes() {
			if r.Name == name && r.ReadsBody() != want {
				t.Errorf("%s: reads body: %v", name, !want)
			}
		}
	}
}

// TestConditionsWithoutContext: a request without header, body, session and time fails closed.
func TestConditionsWithoutContext(t *testing.T) {
	for when, want := range map[string]string{
		"now > timestamp('2026-01-01T00:00:00Z')":              "condition_failed",
		"now < timestamp('2026-01-01T00:00:00Z') || true":      "condition_failed",
		"request.json == null":                                 "body_not_acceptable",
		"request.headers['x-run'] == 'a'":                      "condition_failed",
		"session.requested_by == 'ann'":                        "wide",
		"size(request.headers) == 0 && size(session.id) == 0":  "narrow",
		"size(request.query) == 0 && size(request.params) > 0": "narrow",
	} {
		p := mustParse(t, conditionYAML(when))
		if got := outcome(p.Decide(request(t, "GET https://api.test/r/1"))); got != want {
			t.Errorf("%s: got %s, want %s", when, got, want)
		}
	}
}

// TestDetailsHoldNothingOfTheRequest: what a decision says of a failed condition can be shown to
// anyone.
func TestDetailsHoldNothingOfTheRequest(t *testing.T) {
	for when, want := range map[string]string{
		`request.json.a.b.c == 1`:                    "route narrow: when: no such key",
		`request.json.z == 1`:                        "route narrow: when: no such key: z",
		`request.json.s < 1`:                         "route narrow: when: no such overload",
		`int(request.json.s) < 1`:                    "route narrow: when: type conversion error",
		`timestamp(request.json.s) < now`:            "route narrow: when: ",
		`request.json.m[request.json.s] == 1`:        "route narrow: when: no such key",
		`"x".matches(request.json.re)`:               "route narrow: when: ",
		`request.json.l[request.json.big] == "hush"`: "route narrow: when: ",
	} {
		p := mustParse(t, conditionYAML(when))
		r := post(t, "https://api.test/r/1", `{"s": "hush", "m": {"x": 1}, "a": {"b": {"hush": 1}}, "re": "hush(", "l": [], "big": 4711}`)
		e := p.Explain(r)
		if e.Reason != policy.ConditionFailed || !strings.HasPrefix(e.Detail, want) || p.Decide(r) != e.Decision {
			t.Errorf("%s: got %+v, want %s", when, e.Decision, want)
		}
		if all := fmt.Sprintf("%+v %+v", e.Decision, e.Misses); strings.Contains(strings.ReplaceAll(all, when, ""), "hush") || strings.Contains(all, "4711") {
			t.Errorf("%s: %s", when, all)
		}
	}
}

func TestExplainConditions(t *testing.T) {
	p := mustParse(t, conditionYAML("size(request.json.body) < 5")+`
  - {name: other, host: api.test, methods: [PUT], paths: ["/r/{id}"], when: request.path == "/x"}
`)
	const when = "when: size(request.json.body) < 5"
	for _, tt := range []struct {
		url, json  string
		decision   string
		conditions []string
		misses     []string
	}{
		{"/r/1", `{"body": "x"}`, "narrow", []string{"narrow: " + when + ": true"}, nil},
		{"/r/1", `{"body": "too long"}`, "wide", []string{"narrow: " + when + ": false"}, nil},
		{"/r/1", `{}`, "condition_failed", []string{"narrow: " + when + ": error: when: no such key: body"}, []string{
			"narrow: " + when + " is error: when: no such key: body",
			`other: when: request.path == "/x" is false; method: POST is not PUT`,
		}},
		{"/d/1", `{"body": "too long"}`, "condition_not_met", []string{"narrow: " + when + ": false"}, []string{"narrow: " + when + " is false"}},
		{"/r/1/2", `{}`, "wide", nil, nil},
	} {
		b := &body{text: tt.json}
		r := post(t, "https://api.test"+tt.url, "")
		r.Body = b
		e := p.Explain(r)
		var conditions, misses []string
		for _, c := range e.Conditions {
			conditions = append(conditions, c.Route.Name+": "+c.Condition+": "+c.Value)
		}
		for _, m := range e.Misses {
			if line := m.Route.Name + ": " + strings.Join(m.Differs, "; "); strings.Contains(line, "when") {
				misses = append(misses, line)
			}
		}
		if diff := cmp.Diff([]any{outcome(e.Decision), conditions, misses}, []any{tt.decision, tt.conditions, tt.misses}); diff != "" || b.asked > 1 {
			t.Errorf("%s %s: body asked for %d times (-got +want)\n%s", tt.url, tt.json, b.asked, diff)
		}
	}
}

// TestRunTestsWithConditions: a test in the file can say all that conditions look at.
func TestRunTestsWithConditions(t *testing.T) {
	p := mustParse(t, conditionYAML(`request.json.a == 1 && request.headers["x-run"] == "b, c" && session.requested_by == "ann" && session.role == "reviewer" && now > timestamp("2026-11-30T00:00:00Z")`)+`
tests:
  - request: POST https://api.test/r/1
    headers: {x-run: [b, c]}
    body: '{"a": 1}'
    session: {id: s1, requested_by: ann}
    now: "2026-12-01T09:30:00Z"
    expect: allow
    route: narrow
  - {request: POST https://api.test/r/1, body: '{"a": 2}', now: "2026-12-01T09:30:00Z", expect: allow, route: wide}
  - {request: POST https://api.test/r/1, body: '{"a": 2', now: "2026-12-01T09:30:00Z", expect: deny, reason: body_not_acceptable}
  - {request: POST https://api.test/r/1, body: '{"a": 1}', headers: {Content-Type: text/plain}, expect: deny, reason: body_not_acceptable}
  - {request: POST https://api.test/r/1, body: '{"a": 1}', expect: deny, reason: condition_failed}
  - {request: GET https://api.test/d/1, body: '{"a": 2}', now: "2026-12-01T09:30:00Z", expect: deny, reason: condition_not_met}
`)
	for _, r := range p.RunTests() {
		if !r.OK {
			t.Errorf("%s: got %s, want %s; %+v", r.Where, r.Got, r.Want, r.Explanation)
		}
	}
}

// BenchmarkDecideCondition is a condition on a body, with and without parsing that.
func BenchmarkDecideCondition(b *testing.B) {
	const when = `size(request.json.body) < 65536 && request.json.labels.all(l, l in ["bug", "docs"]) && request.params.id != "7"`
	p := mustParse(b, conditionYAML(when))
	json := `{"body": "` + strings.Repeat("x", 2000) + `", "labels": ["bug", "docs", "bug"], "draft": false}`
	r := post(b, "https://api.test/r/1", json)
	b.Run("parse and decide", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if p.Decide(r).Route.Name != "narrow" {
				b.Fatal("denied")
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			if _, err := policy.ParseJSON([]byte(json)); err != nil {
				b.Fatal("not JSON")
			}
		}
	})
}

// TestConditionsConcurrently: one policy decides for many at once.
func TestConditionsConcurrently(t *testing.T) {
	p := mustParse(t, conditionYAML(`request.json.all(i, i > 0) && request.query.x == ["1"]`))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				r := post(t, fmt.Sprintf("https://api.test/r/1?x=%d", i%2), fmt.Sprintf("[1, %d]", i%3))
				want := "narrow"
				if i%2 == 0 || i%3 == 0 {
					want = "wide"
				}
				if got := outcome(p.Decide(r)); got != want {
					t.Errorf("%d: got %s, want %s", i, got, want)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzJSON: what is accepted as a body is JSON to the standard library, too, and means the same.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, -2.5e3, true, null, "\u00e4"]}`, `{"a": 1, "A": 2}`, `[18446744073709551615]`, `"\ud800"`, `{} {}`, "\ufeff1", `{"a":{"a":1},"b":1e999}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		value, err := policy.ParseJSON([]byte(src))
		if err != nil {
			return
		}
		var want any
		if err := json.Unmarshal([]byte(src), &want); err != nil {
			t.Fatalf("%q is accepted: %v", src, err)
		}
		again, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(again, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q means %v, want %v: %v", src, got, want, err)
		}
	})
}

// BenchmarkParseConditions loads 1 000 routes, each with a condition.
func BenchmarkParseConditions(b *testing.B) {
	var src strings.Builder
	src.WriteString("version: 1\nrole: many\nroutes:\n")
	for i := range 1000 {
		fmt.Fprintf(&src, "- {name: r%d, host: h%d.test, methods: [POST], paths: ['/{x}'], when: 'size(request.json.body) < %d && request.params.x != \"a\"'}\n", i, i, i+1)
	}
	for b.Loop() {
		mustParse(b, src.String())
	}
}
