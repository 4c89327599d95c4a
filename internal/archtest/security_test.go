package archtest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A testText is the source of a test or fuzz target, with what stands above it.
type testText map[string]map[string]string // by package and name

// TestSecurityNamesItsTests holds that docs/security.md has a row for each invariant of docs/design.md,
// that each test it names is there, and that one of each row says in its source which invariant it is
// for.
func TestSecurityNamesItsTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(moduleRoot, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	design, err := os.ReadFile(filepath.Join(moduleRoot, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := invariants(string(design))
	if len(want) < 15 {
		t.Fatalf("docs/design.md has %d invariants: that cannot be all", len(want))
	}
	files := func(pattern string) bool {
		found, err := filepath.Glob(filepath.Join(moduleRoot, filepath.FromSlash(pattern)))
		return err == nil && len(found) > 0
	}
	for _, f := range checkSecurity(string(text), want, readTests(t), files) {
		t.Error(f)
	}
}

var invariantRow = regexp.MustCompile(`(?m)^\| (I[0-9]+) `)

// invariants returns the invariants that text has table rows for, in order.
func invariants(text string) (names []string) {
	for _, m := range invariantRow.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*(?:/[\w-]+)?`)
	// "`proxy`: TestA, TestB; `policy`: TestC", the last column of the table
	inPackage = regexp.MustCompile("`([a-z0-9/]+)`: ([^`]*)")
)

// checkSecurity says what is wrong with doc, the text of docs/security.md. exists reports whether a
// file of the module matches a pattern.
func checkSecurity(doc string, want []string, have testText, exists func(pattern string) bool) (found []string) {
	bad := func(format string, args ...any) {
		found = append(found, "docs/security.md: "+fmt.Sprintf(format, args...))
	}
	if got := invariants(doc); fmt.Sprint(got) != fmt.Sprint(want) {
		bad("has rows for %v, want %v", got, want)
	}
	everywhere := map[string]bool{}
	for _, tests := range have {
		for name := range tests {
			everywhere[name] = true
		}
	}
	for line := range strings.Lines(doc) {
		for _, name := range testName.FindAllString(line, -1) {
			if base, _, _ := strings.Cut(name, "/"); !everywhere[base] {
				bad("%s is not there", name)
			}
		}
		row := invariantRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		named := false
		for _, m := range inPackage.FindAllStringSubmatch(line, -1) {
			for _, name := range testName.FindAllString(m[2], -1) {
				base, sub, _ := strings.Cut(name, "/")
				text, ok := have[m[1]][base]
				if !ok && everywhere[base] {
					bad("%s: %s is not in %s", row[1], base, m[1])
				}
				named = named || regexp.MustCompile(`\b`+row[1]+`\b`).MatchString(text)
				if pattern := caseFile(m[1], base, sub); pattern != "" && !exists(pattern) {
					bad("%s: there is no %s", row[1], pattern)
				}
			}
		}
		if !named {
			bad("%s: none of its tests says %s", row[1], row[1])
		}
	}
	return found
}

// caseFile is the file that holds the cases of a subtest, if it is one that has such a file.
func caseFile(pkg, test, sub string) string {
	switch {
	case sub == "":
		return ""
	case test == "TestAttack":
		return path.Join(pkg, "testdata", "attacks", sub+".txtar")
	case test == "TestScript":
		return path.Join(pkg, "testdata", "script", sub+".txtar")
	}
	return ""
}

// readTests returns all tests and fuzz targets of the module.
func readTests(t *testing.T) testText {
	t.Helper()
	tests := testText{}
	for _, f := range load(t) {
		if !f.test {
			continue
		}
		text, err := os.ReadFile(filepath.Join(moduleRoot, filepath.FromSlash(f.path)))
		if err != nil {
			t.Fatal(err)
		}
		if err := tests.add(f.pkg, string(text)); err != nil {
			t.Fatal(err)
		}
	}
	return tests
}

// add adds the tests of one file.
func (tests testText) add(pkg, text string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, pkg, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !testName.MatchString(fn.Name.Name) {
			continue
		}
		begin := fn.Pos()
		if fn.Doc != nil {
			begin = fn.Doc.Pos()
		}
		if tests[pkg] == nil {
			tests[pkg] = map[string]string{}
		}
		tests[pkg][fn.Name.Name] = text[fset.Position(begin).Offset:fset.Position(fn.End()).Offset]
	}
	return nil
}

func TestCheckSecurityFinds(t *testing.T) {
	have := testText{}
	for pkg, text := range map[string]string{
		"a": "package a\n\n// I1: it is so.\nfunc TestOne(t *testing.T) {}\n\nfunc TestTwo(t *testing.T) { t.Error(`I2`) }\n\nfunc TestAttack(t *testing.T) {}\n",
		"b": "package b\n\nfunc FuzzThree(f *testing.F) {}\n",
	} {
		if err := have.add(pkg, text); err != nil {
			t.Fatal(err)
		}
	}
	const good = "| # | held by | tests |\n|---|---|---|\n| I1 x | y | `a`: TestOne, TestAttack/01-x; `b`: FuzzThree |\n| I2 x | y | `a`: TestTwo. |\n"
	for _, tt := range []struct{ doc, want string }{
		{good, ""},
		{good + "TestTwo looks.\n", ""},
		{good + "TestGone looks.\n", "TestGone is not there"},
		{strings.Replace(good, "TestTwo", "TestTow", 1), "TestTow is not there"},
		{strings.Replace(good, "`a`: TestTwo", "`a`: TestOne", 1), "I2: none of its tests says I2"},
		{strings.Replace(good, "`b`: F", "`a`: F", 1), "I1: FuzzThree is not in a"},
		{strings.Replace(good, "| I2", "| I3", 1), "has rows for [I1 I3], want [I1 I2]"},
		{strings.Replace(good, "01-x", "02-x", 1), "there is no a/testdata/attacks/02-x.txtar"},
	} {
		exists := func(pattern string) bool { return pattern == "a/testdata/attacks/01-x.txtar" }
		got := strings.Join(checkSecurity(tt.doc, []string{"I1", "I2"}, have, exists), "\n")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
