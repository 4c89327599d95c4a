package strictyaml_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// report returns what Parse alone finds in src, one line for each mistake, without hints.
func report(src string) string {
	doc, _ := strictyaml.Parse("f", []byte(src))
	return withoutHints(doc.Err())
}

func withoutHints(err error) string {
	var ms strictyaml.Mistakes
	if !errors.As(err, &ms) {
		return ""
	}
	var lines []string
	for _, m := range ms {
		m.Hint = ""
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "\n")
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"plain", "a: 1\nb: [x, y]\n", ""},
		{"byte order mark at the start", "\ufeffa: 1\n", ""},
		{"CRLF", "a: 1\r\nb: 2\r\n", ""},
		{"non-ASCII text", "a: naïve ☃\n", ""},
		{"one document with both markers", "---\na: 1\n...\n", ""},

		{"empty", "", "f:1:1: the file is empty"},
		{"comments only", "# a\n\n", "f:1:1: the file is empty"},
		{"two documents", "a: 1\n---\nb: 2\n", "f:2:1: a second document begins here"},
		{"UTF-16", "\xff\xfea\x00", "f:1:1: byte 0xff is not UTF-8"},
		{"broken UTF-8", "a: 1\nb: x\xc3\n", "f:2:5: byte 0xc3 is not UTF-8"},
		{"overlong UTF-8", "a: \xc0\xae\n", "f:1:4: byte 0xc0 is not UTF-8"},
		{"NUL", "a: 1\x00\n", "f:1:5: character U+0000 is not allowed in the file"},
		{"carriage return ends a comment", "# safe\ra: 1\n", "f:1:7: a carriage return without a line feed"},
		{"NEL ends a comment", "# safe\u0085a: 1\n", "f:1:7: character U+0085 is not allowed in the file"},
		{"line separator ends a comment", "# safe\u2028a: 1\n", "f:1:7: character U+2028 is not allowed in the file"},
		{"bidirectional override", "a: \"\u202eb\"\n", "f:1:5: character U+202E is not allowed in the file"},
		{"byte order mark inside", "a: \ufeffb\n", "f:1:4: character U+FEFF is not allowed in the file"},

		{"duplicate", "a: 1\nb: {c: 1, c: 2}\na: 3\n", "f:2:11: b.c: the key stands on line 2 already\nf:3:1: a: the key stands on line 1 already"},
		{"anchor and alias", "a: &x 1\nb: *x\n", "f:1:4: a: anchor &x: anchors are not allowed\nf:2:4: b: alias *x: aliases are not allowed"},
		{"anchored key", "&x a: 1\n", "f:1:1: anchor &x: anchors are not allowed"},
		{"alias as key", "a: &x b\n*x : 1\n", "f:1:4: a: anchor &x: anchors are not allowed\nf:2:1: alias *x: aliases are not allowed"},
		{"merge", "a: {b: 1}\nc:\n  <<: {d: 1}\n", "f:3:3: c: merge keys (<<) are not allowed"},
		{"tag", "a: !x 1\nb: !!str 2\n", "f:1:4: a: tag !x: tags are not allowed\nf:2:4: b: tag !!str: tags are not allowed"},
		{"number as key", "1: a\n", "f:1:1: a key must be text, not a number"},
		{"list as key", "[a]: b\n", "f:1:1: a key must be text, not a list"},
		{"in a list", "a:\n  - {b: 1}\n  - {b: 1, b: 2}\n", "f:3:12: a[1].b: the key stands on line 3 already"},
		{"odd key in a path", "a.b: {\"c\\n\": &x 1}\n", `f:1:14: ["a.b"]["c\n"]: anchor &x: anchors are not allowed`},
		{"second document left out at the end", "a: 1\n---", "f:2:1: a second document begins here"},
		{"deep", "a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "f:1:36: a" + strings.Repeat("[0]", 32) + ": nested more than 32 levels deep"},

		{"outdented key", "a:\n  - b: 1\n   c: 2\n", "f:3:4: not YAML: did not find expected '-' indicator"},
		{"unquoted wildcard", "a: 1\nb: *.x.com\nc: 1\n", "f:2:1: not YAML: did not find expected alphabetic or numeric character"},
		{"alias of nothing", "a: 1\nb: *x\n", "f:2:1: not YAML: unknown anchor 'x' referenced"},
		{"tab", "a:\n\tb: 1\n", "f:2:2: not YAML: found character that cannot start any token"},
		{"open quote", "a: 1\nb: \"x\nc: 1\n", "f:2:1: not YAML: found unexpected end of stream"},
		{"broken second document", "a: 1\n---\nb: [\n", "f:3:1: not YAML: did not find expected node content"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := report(tt.src); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestParseSize(t *testing.T) {
	fits := "a: 1\n#" + strings.Repeat("x", strictyaml.MaxSize-7) + "\n"
	if got := report(fits); got != "" {
		t.Errorf("%d bytes: %s", len(fits), got)
	}
	if got, want := report(fits+"\n"), "f:1:1: the file is larger than 1048576 bytes"; got != want {
		t.Errorf("%d bytes: got %q, want %q", len(fits)+1, got, want)
	}
}

func TestSyntaxErrorLeavesNoRoot(t *testing.T) {
	doc, root := strictyaml.Parse("f", []byte("a: ["))
	root.Mapping("b").Need("b", "").Text()
	root.Wrong("x", "")
	var ms strictyaml.Mistakes
	if !errors.As(doc.Err(), &ms) || len(ms) != 1 || root.Present() {
		t.Errorf("got %v, root present: %v; want one mistake and no root", doc.Err(), root.Present())
	}
}

func TestManyMistakesAreCut(t *testing.T) {
	doc, root := strictyaml.Parse("f", []byte("a: ["+strings.Repeat("1,\n", 300)+"]"))
	root.Mapping("a").Get("a").Texts()
	var ms strictyaml.Mistakes
	if !errors.As(doc.Err(), &ms) || len(ms) != 201 {
		t.Fatalf("got %d mistakes, want 201", len(ms))
	}
	if got, want := ms[200].String(), "f:201:1: 100 more mistakes from here on"; got != want {
		t.Errorf("last: got %q, want %q", got, want)
	}
}

func TestMistakeString(t *testing.T) {
	m := strictyaml.Mistake{Where: "p.yaml:14:12", Path: "routes[2].host", Msg: "bad", Hint: "write good"}
	if got, want := m.String(), "p.yaml:14:12: routes[2].host: bad\n\thint: write good"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ms := strictyaml.Mistakes{m, {Where: "p.yaml:15:1", Msg: "worse"}}
	if got, want := ms.Error(), m.String()+"\np.yaml:15:1: worse"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzParse: whatever the file holds, Parse ends, and a file without mistakes has a root.
func FuzzParse(f *testing.F) {
	f.Add("a: {b: [1, x]}\n")
	f.Add("a: &x 1\nb: *x\n<<: *x")
	f.Add("? [a]\n: !!binary x\n--- |\n  a")
	f.Fuzz(func(t *testing.T, src string) {
		doc, root := strictyaml.Parse("f", []byte(src))
		if doc.Err() == nil && !root.Present() {
			t.Errorf("no root and no mistake for %q", src)
		}
	})
}
