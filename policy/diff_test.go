package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

// ofRoutes is the text of a policy with these routes, one a line.
func ofRoutes(routes ...string) string {
	credentials := ""
	for _, name := range []string{"a", "b"} {
		for _, r := range routes {
			if strings.Contains(r, "credential: "+name) {
				credentials += fmt.Sprintf("  %s: {from: {env: {name: %s}}, inject: {bearer: {}}}\n", name, strings.ToUpper(name))
				break
			}
		}
	}
	if credentials != "" {
		credentials = "credentials:\n" + credentials
	}
	text := "version: 1\nrole: r\n" + credentials + "routes:\n"
	for i, r := range routes {
		text += fmt.Sprintf("  - {name: r%d, %s}\n", i, r)
	}
	return text
}

// shown is a change in one line.
func shownChange(c policy.Change) string {
	words := []string{string(c.Kind)}
	if c.What != policy.ChangeAccess {
		words = append(words, c.What)
	}
	words = append(words, strings.Join(c.Methods, ","), c.Host+c.Path)
	if len(c.Except) > 0 {
		words = append(words, "but", strings.Join(c.Except, ","))
	}
	if len(c.Encoded) > 0 {
		words = append(words, fmt.Sprintf("encoded %v plain %v", c.Encoded, c.Plain))
	}
	if len(c.Before)+len(c.After) > 0 {
		words = append(words, fmt.Sprintf("%v -> %v", c.Before, c.After))
	}
	if c.What != policy.ChangeMode && c.What != policy.ChangeBudget {
		words = append(words, "eg", c.Witness.String())
	}
	for _, a := range c.Witness.Assume {
		words = append(words, fmt.Sprintf("if %s is %s", a.Condition, a.Value))
	}
	return strings.Join(words, " ")
}

func TestDiff(t *testing.T) {
	get := func(path string) string { return `host: h.test, methods: [GET], paths: [` + path + `]` }
	for _, tt := range []struct {
		name      string
		old, next string
		want      []string
	}{
		{"the same", ofRoutes(get(`/a`)), ofRoutes(get(`/a`)), nil},
		{"split in two routes", ofRoutes(`host: h.test, methods: [GET, POST], paths: [/a, /b]`), ofRoutes(get("/a"), get("/b"), `host: h.test, methods: [POST], paths: [/b, /a]`), nil},
		{"wider", ofRoutes(get(`"/r/*", /r/a/b`)), ofRoutes(get(`"/r/**"`)), []string{"gained GET h.test/r/** but /r/*,/r/a/b eg GET https://h.test/r"}},
		{"narrower", ofRoutes(get(`"/r/**"`)), ofRoutes(get(`"/r/*", /r/a/b`)), []string{"lost GET h.test/r/** but /r/*,/r/a/b eg GET https://h.test/r"}},
		{"covered", ofRoutes(get(`"/r/**"`)), ofRoutes(get(`"/r/**", "/r/*", "/r/a/**"`)), nil},
		{"one more method", ofRoutes(get(`/a`)), ofRoutes(`host: h.test, access: read-write, paths: [/a]`), []string{"gained DELETE,HEAD,OPTIONS,PATCH,POST,PUT h.test/a eg DELETE https://h.test/a"}},
		{"another host", ofRoutes(get(`/a`)), ofRoutes(`host: i.test, methods: [GET], paths: [/a]`), []string{"lost GET h.test/a eg GET https://h.test/a", "gained GET i.test/a eg GET https://i.test/a"}},
		{"a wildcard's host", ofRoutes(`host: "*.e.test", methods: [GET], paths: [/a]`), ofRoutes(`host: "a.e.test", methods: [GET], paths: [/a]`), []string{"lost GET *.e.test/a but a.e.test/a eg GET https://x.e.test/a"}},
		{"a wildcard beside names", ofRoutes(`host: "x.e.test", methods: [GET], paths: [/a]`), ofRoutes(`host: "x.e.test", methods: [GET], paths: [/a]`, `host: "*.e.test", methods: [GET], paths: [/a]`), []string{"gained GET *.e.test/a eg GET https://xx.e.test/a"}},
		{"a credential", ofRoutes(get(`/a`)), ofRoutes(get(`/a`) + ", credential: a"), []string{"gained credential GET h.test/a [] -> [a env A bearer] eg GET https://h.test/a"}},
		{"another credential", ofRoutes(get(`/a`) + ", credential: b"), ofRoutes(get(`/a`) + ", credential: a"), []string{"changed credential GET h.test/a [b env B bearer] -> [a env A bearer] eg GET https://h.test/a"}},
		{"a condition less", ofRoutes(get(`/a`) + ", headers: {X-A: [a, b]}"), ofRoutes(get(`/a`)), []string{"gained GET h.test/a [headers: {X-A: [a, b]}] -> [] eg GET https://h.test/a"}},
		{"a narrower condition", ofRoutes(get(`/a`) + ", headers: {X-A: [a, b]}"), ofRoutes(get(`/a`) + ", headers: {X-A: a}"), []string{"lost GET h.test/a [headers: {X-A: [a, b]}] -> [headers: {X-A: a}] eg GET https://h.test/a"}},
		{"the same in CEL", ofRoutes(get(`/a`) + `, when: 'request.host  ==  "a"'`), ofRoutes(get(`/a`) + `, when: 'request.host == "a"'`), nil},
		{"another in CEL", ofRoutes(get(`/a`) + `, when: 'request.host == "a b"'`), ofRoutes(get(`/a`) + `, when: 'request.host == "a  b"'`), []string{
			`gained GET h.test/a [when: request.host == "a b"] -> [when: request.host == "a b"] eg GET https://h.test/a if when: request.host == "a b" is false if when: request.host == "a b" is true`,
			`lost GET h.test/a [when: request.host == "a b"] -> [when: request.host == "a b"] eg GET https://h.test/a if when: request.host == "a b" is true if when: request.host == "a b" is false`,
		}},
		{"websocket", ofRoutes(get(`/a`)), ofRoutes(get(`/a`) + ", websocket: true"), []string{"gained websocket GET h.test/a eg GET https://h.test/a (WebSocket)"}},
		{"an encoding", ofRoutes(get(`"/a/*"`)), ofRoutes(get(`"/a/*"`) + ", allow_encoded_slash: true"), []string{"gained GET h.test/a/* encoded [%2F] plain false eg GET https://h.test/a/x%2Fx"}},
		{"tunnel", ofRoutes(get(`/a`)), ofRoutes(`host: h.test, tunnel: true`), []string{"gained tunnel  h.test eg CONNECT h.test:443", "lost GET h.test/a eg GET https://h.test/a"}},
		{"mode", ofRoutes(get(`/a`)), strings.Replace(ofRoutes(get(`/a`)), "role: r", "role: r\nmode: report", 1), []string{"gained mode   [enforce] -> [report]"}},
		{"a limit less", ofRoutes(get(`/a`) + ", limits: {rate: 30/m, body: 1KiB}"), ofRoutes(get(`/a`) + ", limits: {rate: 20/m}"), []string{
			"gained option GET h.test/a [limits: {body: 1KiB}] -> [] eg GET https://h.test/a",
			"lost option GET h.test/a [limits: {rate: 30/m}] -> [limits: {rate: 20/m}] eg GET https://h.test/a",
		}},
		{"a route reports", ofRoutes(get(`/a`) + ", headers: {X-A: a}"), ofRoutes(get(`/a`) + ", headers: {X-A: a}, mode: report"), []string{"gained GET h.test/a [headers: {X-A: a}] -> [] eg GET https://h.test/a"}},
		{"a budget", strings.Replace(ofRoutes(get(`/a`)), "role: r", "role: r\nbudget: {requests: 5}", 1), ofRoutes(get(`/a`)), []string{"gained budget   [requests: 5] -> []"}},
		{"correlate", ofRoutes(get(`/a`)), ofRoutes(get(`/a`) + ", correlate: true"), []string{"lost option GET h.test/a [] -> [correlate: true] eg GET https://h.test/a"}},
		{"log", ofRoutes(get(`/a`) + ", log: path"), ofRoutes(get(`/a`) + ", log: template"), []string{"gained option GET h.test/a [log: path] -> [] eg GET https://h.test/a"}},
		{"replay", ofRoutes(get(`/a`) + ", credential: a"), ofRoutes(get(`/a`) + ", credential: a, replay: safe"), []string{"gained option GET h.test/a [] -> [replay: safe] eg GET https://h.test/a"}},
	} {
		changes, err := policy.Diff(mustParse(t, tt.old), mustParse(t, tt.next))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, shownChange(c))
		}
		if diff := cmp.Diff(got, tt.want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", tt.name, diff)
		}
	}
}

// Patterns that tell too many kinds of paths apart are an error, not a wrong answer.
func TestDiffEnds(t *testing.T) {
	p := mustParse(t, ofRoutes(`host: h.test, methods: [GET], paths: ["/**/a`+strings.Repeat("/*", 24)+`"]`))
	if _, err := policy.Diff(p, mustParse(t, ofRoutes(`host: h.test, methods: [GET], paths: [/b]`))); err != policy.ErrTooComplex {
		t.Errorf("got %v, want ErrTooComplex", err)
	}
}
