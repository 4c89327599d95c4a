package strictyaml_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// first returns "value ok" as far as the reader ask got it from src's key v, or the mistakes.
func first(src string, ask func(strictyaml.Value) string) string {
	doc, root := strictyaml.Parse("f", []byte(src))
	got := ask(root.Mapping("v").Get("v"))
	if s := withoutHints(doc.Err()); s != "" {
		return s
	}
	return got
}

func pair(value any, ok bool) string { return fmt.Sprintf("%v %v", value, ok) }

func TestScalars(t *testing.T) {
	text := func(v strictyaml.Value) string { return pair(v.Text()) }
	boolean := func(v strictyaml.Value) string { return pair(v.Bool()) }
	integer := func(v strictyaml.Value) string { return pair(v.Int()) }
	duration := func(v strictyaml.Value) string { return pair(v.Duration()) }
	choice := func(v strictyaml.Value) string { return pair(v.Choice("enforce", "report")) }
	for _, tt := range []struct {
		src  string
		ask  func(strictyaml.Value) string
		want string
	}{
		{"v: x", text, "x true"},
		{"v: ''", text, " true"},
		{"v: '12'", text, "12 true"},
		{"v: no", text, "no true"},
		{"{}", text, " false"},
		{"v: 12", text, "f:1:4: v: must be text, not a number"},
		{"v: 1.5", text, "f:1:4: v: must be text, not a number"},
		{"v: true", text, "f:1:4: v: must be text, not true or false"},
		{"v: 2026-01-02", text, "f:1:4: v: must be text, not a date"},
		{"v:", text, "f:1:1: v: there is no value; it must be text"},
		{"v: ~", text, "f:1:1: v: there is no value; it must be text"},
		{"v: [x]", text, "f:1:4: v: must be text, not a list"},
		{"v: {x: y}", text, "f:1:4: v: must be text, not a mapping"},
		{"v: &a x", text, "f:1:4: v: anchor &a: anchors are not allowed"},
		{"v: !!int 'x'", text, "f:1:4: v: tag !!int: tags are not allowed"},

		{"v: true", boolean, "true true"},
		{"v: false", boolean, "false true"},
		{"v: True", boolean, "f:1:4: v: \"True\" is not in lower case"},
		{"v: yes", boolean, "f:1:4: v: must be true or false, not text"},
		{"v: 'true'", boolean, "f:1:4: v: must be true or false, not text"},
		{"{}", boolean, "false false"},

		{"v: 1", integer, "1 true"},
		{"v: -7", integer, "-7 true"},
		{"v: 0x10", integer, `f:1:4: v: "0x10" is not a whole number in plain digits`},
		{"v: 1_000", integer, `f:1:4: v: "1_000" is not a whole number in plain digits`},
		{"v: 010", integer, `f:1:4: v: "010" is not a whole number in plain digits`},
		{"v: 1.0", integer, `f:1:4: v: "1.0" is not a whole number in plain digits`},
		{"v: '1'", integer, "f:1:4: v: must be a whole number, not text"},

		{"v: 30s", duration, "30s true"},
		{"v: 1h30m", duration, "1h30m0s true"},
		{"v: 1.5h", duration, "1h30m0s true"},
		{"v: 250ms", duration, "250ms true"},
		{"v: 30", duration, "f:1:4: v: must be a time span, not a number"},
		{"v: 1d", duration, `f:1:4: v: "1d" is not a time span`},
		{"v: -1s", duration, `f:1:4: v: "-1s" is not a time span`},
		{"v: +1s", duration, `f:1:4: v: "+1s" is not a time span`},
		{"v: .5s", duration, `f:1:4: v: ".5s" is not a time span`},
		{"v: 9999999h", duration, `f:1:4: v: "9999999h" is not a time span`},
		{"v: ''", duration, `f:1:4: v: "" is not a time span`},
		{"v: 0s", duration, "f:1:4: v: the time span must be greater than zero"},

		{"v: report", choice, "report true"},
		{"v: reprot", choice, `f:1:4: v: "reprot" is not one of enforce, report`},
	} {
		if got := first(tt.src, tt.ask); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.src, got, tt.want)
		}
	}
}

func TestCollections(t *testing.T) {
	list := func(v strictyaml.Value) string { return fmt.Sprint(len(v.List())) }
	texts := func(v strictyaml.Value) string { return pair(v.Texts()) }
	textMap := func(v strictyaml.Value) string { return pair(v.TextMap()) }
	entries := func(v strictyaml.Value) string { return fmt.Sprint(len(v.Entries())) }
	for _, tt := range []struct {
		src  string
		ask  func(strictyaml.Value) string
		want string
	}{
		{"v: [a, b]", list, "2"},
		{"v: []", list, "f:1:4: v: the list is empty"},
		{"v: a", list, "f:1:4: v: must be a list, not text"},
		{"{}", list, "0"},
		{"v: [a, b]", texts, "[a b] true"},
		{"v: []", texts, "[] true"},
		{"v: [a, 1]", texts, "f:1:8: v[1]: must be text, not a number"},
		{"{}", texts, "[] false"},
		{"v: {a: x, b: y}", textMap, "map[a:x b:y] true"},
		{"v: {}", textMap, "map[] true"},
		{"v: {a: 1}", textMap, "f:1:8: v.a: must be text, not a number"},
		{"v: [a]", textMap, "f:1:4: v: must be a mapping, not a list"},
		{"v: {a: x}", entries, "1"},
		{"v: {}", entries, "f:1:4: v: the mapping is empty"},
		{"v: {a: x, a: y}", entries, "f:1:11: v.a: the key stands on line 1 already"},
	} {
		if got := first(tt.src, tt.ask); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.src, got, tt.want)
		}
	}
}

func TestMapping(t *testing.T) {
	src := `
name: a
timeuot: 1s
limits:
  timeout: 5s
  zzz: 1
either: {x: 1, y: 2}
neither: {}
shape: [1]
`
	doc, root := strictyaml.Parse("f", []byte(src))
	m := root.Mapping("name", "timeout", "limits", "either", "neither", "shape", "must")
	if s, ok := m.Get("name").Text(); s != "a" || !ok || !m.Has("name") || m.Has("timeout") {
		t.Errorf("name: got %q, %v", s, ok)
	}
	m.Need("must", "write must: 1")
	if d, ok := m.Get("limits").Mapping("timeout").Get("timeout").Duration(); d != 5*time.Second || !ok {
		t.Errorf("timeout: got %v, %v", d, ok)
	}
	m.Get("either").Mapping("x", "y").OneOf("x", "y")
	m.Get("neither").Mapping("x", "y").OneOf("x", "y")
	shape := m.Get("shape").Mapping("x")
	shape.Need("x", "")
	shape.OneOf("x", "y")
	m.Key("name").Wrong("the key is wrong", "")
	want := `f:2:1: key "must" is missing
	hint: write must: 1
f:2:1: name: the key is wrong
f:3:1: timeuot: unknown key
	hint: did you mean timeout?
f:6:3: limits.zzz: unknown key
	hint: known keys: timeout
f:7:9: either: only one of the keys x, y may be there
	hint: keep one
f:8:10: neither: one of the keys x, y is missing
f:9:8: shape: must be a mapping, not a list
	hint: write it with the keys x`
	if diff := cmp.Diff(doc.Err().Error(), want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"host", "paths", "methods", "credential", "github-read"}
	for word, want := range map[string]string{
		"hots": "host", "hosts": "host", "Host": "host", "path": "paths", "method": "methods",
		"credentails": "credential", "github_reed": "github-read",
		"x": "", "when": "", "limits": "", "": "",
	} {
		if got := strictyaml.Nearest(word, known); got != want {
			t.Errorf("Nearest(%q): got %q, want %q", word, got, want)
		}
	}
}

// A warning is kept apart from the mistakes, in file order, and makes no error.
func TestWarn(t *testing.T) {
	doc, root := strictyaml.Parse("f", []byte("a: 1\nb: 2\n"))
	if ms := doc.Warnings(); ms != nil {
		t.Errorf("got %v before any", ms)
	}
	m := root.Mapping("a", "b", "c")
	m.Get("b").Warn("second", "")
	m.Get("a").Warn("first", "write less")
	m.Get("c").Warn("of nothing", "")
	want := strictyaml.Mistakes{{Where: "f:1:4", Path: "a", Msg: "first", Hint: "write less"}, {Where: "f:2:4", Path: "b", Msg: "second"}}
	if diff := cmp.Diff(doc.Warnings(), want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if err := doc.Err(); err != nil {
		t.Errorf("a warning became %v", err)
	}
	m.Get("a").Wrong("mistake", "")
	if diff := cmp.Diff(doc.Warnings(), want); diff != "" || len(doc.Err().(strictyaml.Mistakes)) != 1 {
		t.Errorf("(-got +want)\n%s\nmistakes: %v", diff, doc.Err())
	}
}
