package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/policy"
)

// matchYAML has one route with the given keys before one that takes the rest.
func matchYAML(keys string) string {
	return fmt.Sprintf(`
version: 1
role: matches
routes:
  - {name: narrow, host: api.test, %s}
  - {name: wide, host: api.test, methods: [GET, POST], paths: ["/**"]}
`, keys)
}

func TestQueryMatch(t *testing.T) {
	p := mustParse(t, matchYAML(`methods: [GET], paths: ["/**"], query: {state: open, "a b": [c, "d+"]}`))
	for query, want := range map[string]string{
		"?state=open&a+b=c":            "narrow",
		"?a%20b=c&state=open&x=y":      "narrow",
		"?state=o%70en&a+b=d%2B":       "narrow",
		"?state=open&a+b=c&a%20b=d%2b": "narrow",
		"?state=open&a+b=d+":           "wide",
		"?state=open&a+b=c&a+b=e":      "wide",
		"?state=open&state=all&a+b=c":  "wide",
		"?state=all&state=open&a+b=c":  "wide",
		"?state=&a+b=c":                "wide",
		"?state&a+b=c":                 "wide",
		"?State=open&a+b=c":            "condition_failed",
		"?state=open&a+b=c&state[]=x":  "condition_failed",
		"?state=open&a+b=c&STATE=x":    "condition_failed",
		"?state=open&a+b=c&a_b=x":      "condition_failed",
		"?state=open&a+b=c&states=x":   "narrow",
		"?state=open":                  "wide",
		"?":                            "wide",
		"":                             "wide",
		"?state=open&a+b=c&x=%ff":      "condition_failed",
		"?state=open&a+b=c&x=%00":      "condition_failed",
	} {
		if got := outcome(p.Decide(request(t, "GET https://api.test/x"+query))); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
}

func TestHeaderAndContentTypeMatch(t *testing.T) {
	p := mustParse(t, matchYAML(`methods: [POST], paths: ["/**"], headers: {x-run: [a, b]}, content_type: [application/json, text/plain]`))
	for _, tt := range []struct {
		run, types []string
		want       string
	}{
		{[]string{"a"}, []string{"application/json"}, "narrow"},
		{[]string{"b", "a"}, []string{"Text/Plain; charset=utf-8"}, "narrow"},
		{[]string{"a", "c"}, []string{"application/json"}, "wide"},
		{[]string{"a, b"}, []string{"application/json"}, "wide"},
		{[]string{"A"}, []string{"application/json"}, "wide"},
		{nil, []string{"application/json"}, "wide"},
		{[]string{"a"}, nil, "wide"},
		{[]string{"a"}, []string{"application/json", "application/json"}, "wide"},
		{[]string{"a"}, []string{"application/json, text/plain"}, "wide"},
		{[]string{"a"}, []string{"application/xml"}, "wide"},
		{[]string{"a"}, []string{""}, "wide"},
	} {
		r := request(t, "POST https://api.test/x")
		r.Header = map[string][]string{"X-Run": tt.run, "Content-Type": tt.types}
		if got := outcome(p.Decide(r)); got != tt.want {
			t.Errorf("X-Run %q, Content-Type %q: got %s, want %s", tt.run, tt.types, got, tt.want)
		}
	}
}

func TestGRPC(t *testing.T) {
	p := mustParse(t, `
version: 1
role: grpc
routes:
  - {name: some, host: api.test, grpc: {service: acme.v1.Builds, methods: [Get, List]}}
  - {name: all, host: api.test, grpc: {service: acme.v1.Logs}}
`)
	for _, tt := range []struct{ request, contentType, want string }{
		{"POST https://api.test/acme.v1.Builds/Get", "application/grpc", "some"},
		{"POST https://api.test/acme.v1.Builds/List", "application/grpc+proto; x=y", "some"},
		{"POST https://api.test/acme.v1.Logs/Tail", "application/grpc+json", "all"},
		{"POST https://api.test/acme.v1.Builds/Get", "application/json", "condition_not_met"},
		{"POST https://api.test/acme.v1.Builds/Get", "application/grpc-web", "condition_not_met"},
		{"POST https://api.test/acme.v1.Builds/Get", "", "condition_not_met"},
		{"POST https://api.test/acme.v1.Builds/Delete", "application/grpc", "path_not_allowed"},
		{"POST https://api.test/acme.v1.Logs/Tail/x", "application/grpc", "path_not_allowed"},
		{"GET https://api.test/acme.v1.Logs/Tail", "application/grpc", "method_not_allowed"},
	} {
		r := request(t, tt.request)
		r.Header = map[string][]string{"Content-Type": {tt.contentType}}
		if got := outcome(p.Decide(r)); got != tt.want {
			t.Errorf("%s, %s: got %s, want %s", tt.request, tt.contentType, got, tt.want)
		}
	}
}

const graphQLYAML = `
version: 1
role: graphql
credentials:
  read: {from: {env: {name: A}}, inject: {bearer: {}}}
  write: {from: {env: {name: B}}, inject: {bearer: {}}}
routes:
  - {name: read, host: api.test, methods: [POST], paths: [/graphql], graphql: {type: query}, credential: read}
  - {name: write, host: api.test, methods: [POST], paths: [/graphql], graphql: {type: mutation, operations: [addComment, addReaction]}, credential: write}
`

func TestGraphQL(t *testing.T) {
	p := mustParse(t, graphQLYAML)
	if len(p.Warnings()) > 0 {
		t.Errorf("warnings: %v", p.Warnings())
	}
	doc := func(s string) string { return fmt.Sprintf(`{"query": %q}`, s) }
	for _, tt := range []struct{ json, want string }{
		{doc(`{viewer {login}}`), "read"},
		{doc(`query Q {viewer {login} anything}`), "read"},
		{doc(`mutation {addComment(input: {body: "x"}) {id}}`), "write"},
		{doc(`mutation M {a: addComment {id} b: addReaction {id} __typename}`), "write"},
		{doc(`mutation M {... on Mutation {addComment {id} ...F}} fragment F on Mutation {addReaction {id} ...F}`), "write"},
		{`{"query": "mutation M($a: X!) {addComment(input: $a) {id}}", "operationName": "M", "variables": {"a": 1}, "extensions": {}}`, "write"},
		{`{"query": "{viewer {login}}", "operationName": null, "extensions": null}`, "read"},
		{doc(`{viewer {login}} # mutation {deleteRepo}`), "read"},

		{doc(`mutation {deleteRepo {id}}`), "condition_not_met"},
		{doc(`mutation addComment {deleteRepo {id}}`), "condition_not_met"},
		{doc(`mutation {addComment: deleteRepo {id}}`), "condition_not_met"},
		{doc(`mutation {addComment {id} deleteRepo {id}}`), "condition_not_met"},
		{doc(`mutation {addComment {id} ... {deleteRepo {id}}}`), "condition_not_met"},
		{doc(`mutation {addComment {id} ...F} fragment F on Mutation {... on Mutation {...G}} fragment G on Mutation {deleteRepo {id}}`), "condition_not_met"},
		{doc(`mutation {addComment {id} deleteRepo @skip(if: true) {id}}`), "condition_not_met"},
		{doc(`subscription {x}`), "condition_not_met"},

		{doc(`query A {viewer} mutation B {deleteRepo}`), "body_not_acceptable"},
		{doc(`query A {viewer} query B {viewer}`), "body_not_acceptable"},
		{doc(`{viewer`), "body_not_acceptable"},
		{doc(``), "body_not_acceptable"},
		{doc(`fragment F on Q {x}`), "body_not_acceptable"},
		{doc(`{...F}`), "body_not_acceptable"},
		{doc(`{...F} fragment F on Q {x} fragment F on Q {y}`), "body_not_acceptable"},
		{doc(`{...F} fragment F on Q {...F}`), "body_not_acceptable"},
		{doc(`type X {a: Int}`), "body_not_acceptable"},
		{doc(strings.Repeat("{a", 9000) + strings.Repeat("}", 9000)), "body_not_acceptable"},
		{`[{"query": "{viewer}"}]`, "body_not_acceptable"},
		{`{"query": "{viewer}", "query": "mutation {deleteRepo}"}`, "body_not_acceptable"},
		{`{"query": "{viewer}", "Query": "mutation {deleteRepo}"}`, "body_not_acceptable"},
		{`{"query": "{viewer}", "id": "abc"}`, "body_not_acceptable"},
		{`{"query": "{viewer}", "extensions": {"persistedQuery": {"sha256Hash": "x"}}}`, "body_not_acceptable"},
		{`{"query": "query A {viewer}", "operationName": "B"}`, "body_not_acceptable"},
		{`{"query": "query A {viewer}", "operationName": 1}`, "body_not_acceptable"},
		{`{"query": ["{viewer}"]}`, "body_not_acceptable"},
		{`{"extensions": {}}`, "body_not_acceptable"},
		{`null`, "body_not_acceptable"},
		{`mutation {addComment}`, "body_not_acceptable"},
	} {
		if got := outcome(p.Decide(post(t, "https://api.test/graphql", tt.json))); got != tt.want {
			t.Errorf("%.150s: got %s, want %s", tt.json, got, tt.want)
		}
	}
	for query, want := range map[string]string{"?x=y": "read", "?query={viewer}": "body_not_acceptable", "?Query=": "condition_failed", "?query[]=x": "condition_failed", "?operationName=x": "body_not_acceptable", "?x=%ff": "condition_failed"} {
		if got := outcome(p.Decide(post(t, "https://api.test/graphql"+strings.NewReplacer("{", "%7B", "}", "%7D").Replace(query), doc("{viewer}")))); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
}

// TestConditions: routes tell what they ask for, in the order in which it is looked at.
func TestConditions(t *testing.T) {
	p := mustParse(t, matchYAML(`methods: [POST], paths: ["/**"], when: request.path != "/x", query: {b: "1", a: [x, y]}, headers: {x-run: a}, graphql: {type: query, operations: [viewer]}`))
	want := "headers: {X-Run: a}; query: {a: [x, y]}; query: {b: 1}; graphql: {type: query, operations: [viewer]}; when: request.path != \"/x\""
	if got := strings.Join(p.Routes()[0].Conditions(), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := p.AllowedOn(policy.Authority{Host: "api.test", Port: 443}); !slices.Equal(got, []string{"GET, POST /**", "POST /** (with conditions)"}) {
		t.Errorf("allowed: %q", got)
	}
	if p.Routes()[1].Conditions() != nil || !p.Routes()[0].ReadsBody() {
		t.Error("the second route has conditions, or the first reads no body")
	}
}

// TestExclusiveConditions: two routes that differ in effect may stand on the same path if no request
// can match both.
func TestExclusiveConditions(t *testing.T) {
	const routes = `
version: 1
role: exclusive
credentials:
  one: {from: {env: {name: A}}, inject: {bearer: {}}}
routes:
  - {name: a, host: api.test, methods: [POST], paths: [/x], credential: one, %s}
  - {name: b, host: api.test, methods: [POST], paths: [/x], %s}
`
	for _, tt := range []struct {
		a, b string
		ties bool
	}{
		{"query: {x: a}", "query: {x: b}", false},
		{"query: {x: [a, b]}", "query: {x: [b, c]}", true},
		{"query: {x: a}", "query: {y: b}", true},
		{"headers: {x-a: a}", "headers: {X-A: b}", false},
		{"content_type: [a/a]", "content_type: [a/b, b/a]", false},
		{"content_type: [a/a]", "content_type: [a/b, a/a]", true},
		{"graphql: {type: query}", "graphql: {type: mutation}", false},
		{"graphql: {type: query, operations: [a]}", "graphql: {type: query, operations: [b]}", true},
		{"when: request.method == 'POST'", "when: request.method != 'POST'", true},
		{"when: request.method == 'POST', query: {x: a}", "when: request.method != 'POST', query: {x: b}", false},
		{"query: {x: a}", "reason: x", false},
	} {
		_, err := policy.Parse("p", fmt.Appendf(nil, routes, tt.a, tt.b))
		if ties := err != nil && strings.Contains(err.Error(), "let their conditions exclude each other"); ties != tt.ties || err != nil && !ties {
			t.Errorf("%s and %s: %v", tt.a, tt.b, err)
		}
	}
}

func TestPointlessConditions(t *testing.T) {
	p := mustParse(t, `
version: 1
role: pointless
routes:
  - {name: a, host: api.test, methods: [GET], paths: ["/{x}"], query: {x: a}}
  - {name: b, host: api.test, methods: [GET, PUT], paths: ["/*"]}
  - {name: c, host: api.test, methods: [GET, POST], paths: ["/*"], query: {x: b}}
`)
	if got := fmt.Sprint(p.Warnings()); got != `[p.yaml:5:55: routes[0].paths[0]: the conditions change nothing here: route b, at p.yaml:6:60, allows the same without them
	hint: remove one of the two, or narrow the other]` {
		t.Error(got)
	}
}

func BenchmarkDecideGraphQL(b *testing.B) {
	p := mustParse(b, graphQLYAML)
	r := post(b, "https://api.test/graphql", `{"query": "mutation M($input: AddCommentInput!) { addComment(input: $input) { commentEdge { node { id body author { login } } } } }", "variables": {"input": {"body": "x"}}}`)
	for b.Loop() {
		if !p.Decide(r).Allow {
			b.Fatal("denied")
		}
	}
}
