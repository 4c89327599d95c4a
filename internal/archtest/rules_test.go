package archtest_test

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// The sizes past which a file or a function has a second noun in it.
const (
	maxFileLines = 400
	maxFuncLines = 80
)

// bannedNames say where a thing was put, not what it is.
var bannedNames = []string{"util", "utils", "common", "types", "manager", "helper", "helpers", "core"}

// mayExpose lists the packages that may take a secret out of its Secret: to put
// it on a request, to look for it in one, to log in with it, and to make one
// issuance from another. "/*" is each package below.
var mayExpose = []string{"inject", "redact", "vault", "credential", "credential/*"}

func TestPackageNames(t *testing.T) { report(t, load(t), checkPackageName) }
func TestNoInit(t *testing.T)       { report(t, load(t), checkNoInit) }
func TestSizes(t *testing.T)        { report(t, load(t), checkSizes) }

// I1: an upstream's certificate is always verified.
func TestVerificationStaysOn(t *testing.T) { report(t, load(t), checkVerifies) }

// I10: a secret leaves its Secret in few places.
func TestExposeCallers(t *testing.T) { report(t, load(t), checkExpose) }

func checkPackageName(f *source) []finding {
	if slices.Contains(bannedNames, strings.TrimSuffix(f.ast.Name.Name, "_test")) {
		return []finding{f.at(f.ast.Package, "package %s: name it after what it holds", f.ast.Name.Name)}
	}
	return nil
}

func checkNoInit(f *source) []finding {
	var found []finding
	for _, decl := range f.ast.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			found = append(found, f.at(fn.Pos(), "func init: give it to a constructor, or make it a table"))
		}
	}
	return found
}

func checkSizes(f *source) []finding {
	if f.test {
		return nil
	}
	var found []finding
	if last := f.line(f.ast.FileEnd - 1); last > maxFileLines {
		found = append(found, f.at(f.ast.Package, "file of %d lines, at most %d", last, maxFileLines))
	}
	for _, decl := range f.ast.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := f.line(fn.End()) - f.line(fn.Type.Func) + 1; n > maxFuncLines {
			found = append(found, f.at(fn.Type.Func, "func %s of %d lines, at most %d", fn.Name.Name, n, maxFuncLines))
		}
	}
	return found
}

// checkVerifies holds that no product code can switch off the check of an
// upstream's certificate: the option's name may not appear at all.
func checkVerifies(f *source) []finding {
	if f.test {
		return nil
	}
	return mentions(f, "InsecureSkipVerify", "stands in test files only")
}

// checkExpose holds on test files too: a test outside these packages has no
// need of a secret that it did not make itself.
func checkExpose(f *source) []finding {
	for _, allowed := range mayExpose {
		parent, below := strings.CutSuffix(allowed, "/*")
		if f.pkg == allowed || below && strings.HasPrefix(f.pkg, parent+"/") {
			return nil
		}
	}
	return mentions(f, "Expose", "is only for "+strings.Join(mayExpose, ", "))
}

// mentions finds each use of an identifier, called or not.
func mentions(f *source, name, msg string) []finding {
	var found []finding
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && id.Name == name {
			found = append(found, f.at(id.Pos(), "%s %s", name, msg))
		}
		return true
	})
	return found
}

func TestRulesFind(t *testing.T) {
	long := strings.Repeat("\n", maxFuncLines)
	for _, tt := range []struct {
		name  string
		check func(*source) []finding
		path  string
		text  string
		want  string
	}{
		{"banned package", checkPackageName, "a/a.go", "package util", "package util"},
		{"banned test package", checkPackageName, "a/a_test.go", "package helper_test", "package helper_test"},
		{"good package", checkPackageName, "a/a.go", "package audit", ""},
		{"init", checkNoInit, "a/a.go", "package a\nfunc init() {}", "a/a.go:2: func init"},
		{"method named init", checkNoInit, "a/a.go", "package a\ntype t int\nfunc (t) init() {}", ""},
		{"longest function", checkSizes, "a/a.go", "package a\nfunc f() {" + long[:maxFuncLines-1] + "}", ""},
		{"long function", checkSizes, "a/a.go", "package a\nfunc f() {" + long + "}", "a/a.go:2: func f of 81 lines"},
		{"long function in a test", checkSizes, "a/a_test.go", "package a\nfunc f() {" + long + "}", ""},
		{"longest file", checkSizes, "a/a.go", "package a" + strings.Repeat("\n", maxFileLines), ""},
		{"long file", checkSizes, "a/a.go", "package a" + strings.Repeat("\n", maxFileLines+1), "file of 401 lines"},
		{"verification off", checkVerifies, "a/a.go", "package a\nvar c = tls.Config{InsecureSkipVerify: true}", "a/a.go:2: InsecureSkipVerify"},
		{"verification off by field", checkVerifies, "a/a.go", "package a\nfunc f() { c.InsecureSkipVerify = true }", "InsecureSkipVerify"},
		{"verification off in a test", checkVerifies, "a/a_test.go", "package a\nvar c = tls.Config{InsecureSkipVerify: true}", ""},
		{"verification in a comment", checkVerifies, "a/a.go", "package a // InsecureSkipVerify is never set", ""},
		{"exposed in proxy", checkExpose, "proxy/a.go", "package proxy\nvar v = s.Expose()", "proxy/a.go:2: Expose"},
		{"exposed as a value", checkExpose, "audit/a.go", "package audit\nvar v = s.Expose", "Expose is only for"},
		{"exposed in a test of proxy", checkExpose, "proxy/a_test.go", "package proxy\nvar v = s.Expose()", "Expose is only for"},
		{"exposed in inject", checkExpose, "inject/a.go", "package inject\nvar v = s.Expose()", ""},
		{"exposed in an exchange", checkExpose, "credential/githubapp/a.go", "package githubapp\nvar v = s.Expose()", ""},
	} {
		expect(t, tt.name, tt.check(parse(t, tt.path, tt.text)), tt.want)
	}
}
