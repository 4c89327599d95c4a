package archtest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const (
	modulePath = "github.com/sidekey/sidekey"
	moduleRoot = "../.."
)

// A source is one parsed Go file of the module.
type source struct {
	path string // from the module's root, with slashes: "proxy/connect.go"
	pkg  string // its directory: "proxy"; "." for the root
	test bool   // whether its name ends in _test.go
	ast  *ast.File
	fset *token.FileSet
}

// A finding is one thing that must change, with its place.
type finding struct{ where, msg string }

func (f finding) String() string { return f.where + ": " + f.msg }

func (f *source) at(pos token.Pos, format string, args ...any) finding {
	return finding{fmt.Sprintf("%s:%d", f.path, f.line(pos)), fmt.Sprintf(format, args...)}
}

func (f *source) line(pos token.Pos) int { return f.fset.Position(pos).Line }

// load parses each Go file of the module. It leaves out what the go command
// leaves out (testdata, names with a leading dot or underscore) and the modules
// below this one, such as those in tools/.
func load(t *testing.T) []*source {
	t.Helper()
	var files []*source
	root, err := filepath.Abs(moduleRoot)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		if entry.IsDir() {
			if skipped(name) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, parse(t, filepath.ToSlash(rel), string(text)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d Go files below %s: that cannot be the module", len(files), root)
	}
	return files
}

func skipped(dir string) bool {
	base := filepath.Base(dir)
	if base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_' {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func parse(t *testing.T, name, text string) *source {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return &source{path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: file, fset: fset}
}

// report runs a check on every file and reports each finding.
func report(t *testing.T, files []*source, check func(*source) []finding) {
	t.Helper()
	for _, f := range files {
		for _, found := range check(f) {
			t.Error(found)
		}
	}
}

// expect holds that a check found one thing that says want, or nothing if want is "".
func expect(t *testing.T, name string, got []finding, want string) {
	t.Helper()
	switch {
	case want == "" && len(got) == 0:
	case want != "" && len(got) == 1 && strings.Contains(got[0].String(), want):
	default:
		t.Errorf("%s: found %q, want %q", name, got, want)
	}
}
