package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/sidekey/sidekey/policy"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(policy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// instance turns YAML into what a JSON Schema is applied to.
func instance(t *testing.T, src []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(src, &v); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSchemaAcceptsWhatParses(t *testing.T) {
	s := compileSchema(t)
	valid := files(t, "testdata/*.good.yaml")
	maps.Copy(valid, files(t, "../examples/policies/*.yaml"))
	maps.Copy(valid, files(t, "../examples/policies/library/*.yaml"))
	valid["decideYAML"], valid["explainYAML"] = []byte(decideYAML), []byte(explainYAML)
	for name, src := range valid {
		if _, err := policy.Parse(name, src); err != nil {
			t.Error(err)
		}
		if err := s.Validate(instance(t, src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	good := string(files(t, "testdata/full.good.yaml")["testdata/full.good.yaml"])
	for _, tt := range []struct{ old, new string }{
		{"role: full", "rolle: full"}, {"version: 1", "version: 2"}, {"mode: report", "mode: audit"},
		{"field: password", "feild: password"}, {"max_age: 1h}", "max_age: 1d}"}, {"{name: TOKEN}", "{name: 1T}"},
		{"host: api.example.com", "hots: api.example.com"}, {"host: api.example.com", "host: API.example.com"},
		{"access: read-only", "access: readonly"}, {"access: read-only", "access: read-only\n    methods: [GET]"},
		{"[GET, MKCOL, M-SEARCH]", "[TRACE]"}, {"[GET, MKCOL, M-SEARCH]", "[]"}, {"[GET, MKCOL, M-SEARCH]", "[get]"},
		{`paths: ["/**"], credential: oidc`, `paths: [x], credential: oidc`}, {"expect: allow", "expect: maybe"},
		{"port_not_allowed", "no_port"}, {"secret/data/x", "/secret/data/x"}, {"secret/data/x", "sys/x"},
		{"env:\n    from: {env:", "env:\n    from: {file: {path: x}, env:"},
		{"tunnel: true", "tunnel: false"}, {"tunnel: true", "tunnel: yes"}, {"tunnel: true", "tunnel: true, credential: env"},
		{"tunnel: true", `tunnel: true, paths: ["/**"]`}, {"tunnel: true", "tunnel: true, websocket: false"},
		{`"*.pinned.example:8443"`, `"http://pinned.example:8443"`}, {"allow_encoded_slash: true", "allow_encoded_slash: 1"},
		{"allow_minting: true", "allow_minting: maybe"}, {"replay: safe", "replay: true"}, {"credential: env, replay", "replay"},
		{"websocket: true, outlive", "outlive"}, {"websocket: true, outlive", "websocket: false, outlive"}, {"outlive: true", "outlive: 1"},
		{"tunnel: true", "tunnel: true, replay: safe"}, {"tunnel: true", "tunnel: true, outlive: true"}, {"websocket: true, expect", "websocket: 1, expect"},
		{"type: mutation", "type: mutate"}, {"type: mutation, ", ""}, {"operations: [addComment", "operations: [add-comment"}, {"operations: [addComment, addReaction]", "operations: []"},
		{"methods: [POST], graphql", "methods: [POST, PUT], graphql"}, {"methods: [POST], graphql", "access: read-write, graphql"}, {"service: acme.v1.Builds", "service: /acme.v1.Builds"},
		{"service: acme.v1.Builds", "servise: acme.v1.Builds"}, {"grpc: {", `paths: ["/**"], grpc: {`}, {"[GetBuild]", "[Builds/GetBuild]"}, {"grpc: {", "methods: [POST], grpc: {"},
		{"[application/xml]", "[application/XML]"}, {"[application/xml]", "[xml]"}, {"[application/xml]", `["application/xml; charset=utf-8"]`}, {"state: open", "state: 1"}, {"state: open", "state: []"},
		{"X-Run: [a, b]", "X-Run: [a, a]"}, {"X-Run: [a, b]", `"X Run": [a, b]`}, {"X-Run: [a, b]", "X-Run: {}"}, {`when: now < timestamp("2027-01-01T00:00:00Z")`, "when: 1"}, {`"2026-12-01T09:30:00Z"`, "tomorrow"},
		{"requested_by: ann", "requested-by: ann"},
		{"rate: 30/m", "rate: 30"}, {"rate: 30/m", "rate: 0/m"}, {"rate: 30/m", "rate: 30/d"}, {"rate: 30/m", "rate: 030/m"}, {"body: 64KiB", "body: 65536"}, {"body: 64KiB", "body: 64KB"},
		{"response: 10MiB", "response: 0MiB"}, {"concurrency: 4", "concurrency: 0"}, {"concurrency: 4", "concurrency: 20000"}, {"timeout: 30s", "timeout: 30"}, {"requests: 1000,", "requests: -1,"},
		{"requests: 5000,", "request: 5000,"}, {"budget: {requests: 5000, bytes: 1GiB}", "budget: {}"}, {"    mode: report", "    mode: off"}, {"tunnel: true", "tunnel: true, mode: report"},
		{"correlate: true", "correlate: yes please"}, {"log: path", "log: paths"}, {"log: path", "log: true"}, {"tunnel: true", "tunnel: true, correlate: true"}, {"tunnel: true", "tunnel: true, log: path"},
		{"CONNECT a.pinned.example:8443", "CONNECT a.pinned.example"}, {"expect: tunnel", "expect: tunnels"},
	} {
		changed := strings.Replace(good, tt.old, tt.new, 1)
		if changed == good {
			t.Errorf("%q is not in the file", tt.old)
		}
		if err := s.Validate(instance(t, []byte(changed))); err == nil {
			t.Errorf("%q instead of %q is valid", tt.new, tt.old)
		}
		if _, err := policy.Parse("p", []byte(changed)); err == nil {
			t.Errorf("%q instead of %q parses", tt.new, tt.old)
		}
	}
}

// TestSchemaOfFiles: the schema is that of an included file, too.
func TestSchemaOfFiles(t *testing.T) {
	s := compileSchema(t)
	for name, src := range shared {
		if err := s.Validate(instance(t, []byte(src))); err != nil && strings.HasSuffix(name, ".yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, src := range []string{
		"version: 1", "{version: 1, role: a}", "{version: 1, mode: report, include: [a.yaml]}", "{version: 1, description: x, include: [a.yaml]}",
		"{version: 1, prompt: {file: a.md}, include: [a.yaml]}", "{version: 1, budget: {requests: 1}, include: [a.yaml]}",
		"{version: 1, include: []}", "{version: 1, include: [/a.yaml]}", "{version: 1, include: [a/]}", "{version: 1, include: [a, a]}", `{version: 1, include: ['a\b']}`,
		"{version: 1, role: a, include: [a.yaml], prompt: {}}", "{version: 1, role: a, include: [a.yaml], prompt: a.md}", `{version: 1, role: a, include: [a.yaml], prompt: {file: /a.md}}`,
	} {
		if err := s.Validate(instance(t, []byte(src))); err == nil {
			t.Errorf("%s is valid", src)
		}
	}
}

// TestSchemaKeys: every mapping of a policy has the same keys in the schema and in the
// decoder, which tells its own when it meets one that it does not know.
func TestSchemaKeys(t *testing.T) {
	const source = `
version: 1
role: a
credentials:
  a: {from: {vault: {zzzzzzzz: 1}, file: {zzzzzzzz: 1}, exec: {zzzzzzzz: 1}, env: {zzzzzzzz: 1}, zzzzzzzz: 1}, inject: {zzzzzzzz: 1}, zzzzzzzz: 1}
  v: {from: {vault: {zzzzzzzz: 1}}, inject: {bearer: {zzzzzzzz: 1}}}
  f: {from: {file: {zzzzzzzz: 1}}, inject: {basic: {zzzzzzzz: 1}}}
  x: {from: {exec: {zzzzzzzz: 1}}, inject: {header: {zzzzzzzz: 1}}}
  e: {from: {env: {zzzzzzzz: 1}}, inject: {query: {zzzzzzzz: 1}}}
  j: {from: {vault: {jwt: {zzzzzzzz: 1}}}, inject: {client_certificate: {zzzzzzzz: 1}}}
routes: [{grpc: {zzzzzzzz: 1}, zzzzzzzz: 1}, {graphql: {zzzzzzzz: 1}, limits: {budget: {zzzzzzzz: 1}, zzzzzzzz: 1}}]
tests: [{session: {zzzzzzzz: 1}, zzzzzzzz: 1}]
prompt: {zzzzzzzz: 1}
zzzzzzzz: 1
`
	_, err := policy.Parse("p", []byte(source))
	var ms policy.Mistakes
	if !errors.As(err, &ms) {
		t.Fatal(err)
	}
	place := strings.NewReplacer(
		"credentials.a.", "", "credentials.v.", "", "credentials.f.", "", "credentials.x.", "", "credentials.e.", "", "credentials.j.", "",
		"routes[1].limits.budget", "budget", "credentials.a", "credential", "routes[0]", "route", "routes[1]", "route", "tests[0]", "test",
	)
	decoder := map[string][]string{}
	for _, m := range ms {
		if path, ok := strings.CutSuffix("."+m.Path, ".zzzzzzzz"); ok {
			keys, _ := strings.CutPrefix(m.Hint, "known keys: ")
			if m.Hint == "write {}" {
				keys = ""
			}
			decoder[place.Replace(strings.TrimPrefix(path, "."))] = sorted(strings.FieldsFunc(keys, func(r rune) bool { return r == ',' || r == ' ' }))
		}
	}
	var root map[string]any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	schema := map[string][]string{}
	collectKeys(root, "", schema)
	for name, def := range root["$defs"].(map[string]any) {
		collectKeys(def.(map[string]any), name, schema)
	}
	if diff := cmp.Diff(decoder, schema); diff != "" {
		t.Errorf("keys (-decoder +schema)\n%s", diff)
	}
}

// collectKeys finds the mappings of a schema, and wants a description on each key.
func collectKeys(s map[string]any, path string, keys map[string][]string) {
	properties, ok := s["properties"].(map[string]any)
	if !ok || s["additionalProperties"] != false {
		return
	}
	keys[path] = sorted(slices.Collect(maps.Keys(properties)))
	for name, p := range properties {
		collectKeys(p.(map[string]any), strings.TrimPrefix(path+"."+name, "."), keys)
	}
}

func sorted(keys []string) []string {
	slices.Sort(keys)
	return slices.Clip(append([]string{}, keys...))
}

func TestSchemaDescribesEveryKey(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	defs := root["$defs"].(map[string]any)
	var walk func(s map[string]any, path string)
	walk = func(s map[string]any, path string) {
		properties, _ := s["properties"].(map[string]any)
		for name, p := range properties {
			p := p.(map[string]any)
			described := p["description"] != nil
			if ref, ok := p["$ref"].(string); ok {
				described = described || defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)["description"] != nil
			}
			if !described {
				t.Errorf("%s.%s has no description", path, name)
			}
			walk(p, path+"."+name)
		}
	}
	walk(root, "")
	for name, def := range defs {
		walk(def.(map[string]any), name)
	}
}

// The reference for people names every key that the schema has.
func TestDocsNameEveryKey(t *testing.T) {
	docs := string(files(t, "../docs/policy.md")["../docs/policy.md"])
	var root map[string]any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	collectKeys(root, "", keys)
	for name, def := range root["$defs"].(map[string]any) {
		collectKeys(def.(map[string]any), name, keys)
	}
	for path, names := range keys {
		for _, name := range names {
			if !strings.Contains(docs, name+":") && !strings.Contains(docs, "`"+name+"`") {
				t.Errorf("docs/policy.md does not name the key %s of %s", name, path)
			}
		}
	}
	for _, r := range policy.Reasons()[1:] {
		if !strings.Contains(docs, "`"+string(r)+"`") {
			t.Errorf("docs/policy.md does not name the reason %s", r)
		}
	}
	if n := len(strings.Fields(docs)); n > 2900 {
		t.Errorf("docs/policy.md has %d words; it is to be read in one go", n)
	}
}
