package archtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	zerolog = "github.com/rs/zerolog"
	goproxy = "github.com/elazarl/goproxy"
	viper   = "github.com/spf13/viper"
)

// everything, as the only entry of a row, allows each package of ours.
const everything = "everything"

// ours is the import table of docs/design.md section 3: for a package of this
// module, what of this module its non-test files may import. A key that ends in
// "/*" stands for each package below that has no row of its own.
var ours = map[string][]string{
	"internal/strictyaml": nil,
	"policy":              {"internal/strictyaml"},
	"credential":          nil,
	"credential/*":        {"credential"},
	"vault":               {"credential"},
	"vault/vaulttest":     nil,
	"inject":              {"credential"},
	"redact":              nil,
	"audit":               nil,
	"audit/custody":       {"audit"},
	"internal/mitmca":     nil,
	"internal/config":     {"internal/strictyaml", "policy"},
	"internal/archtest":   nil,
	"internal/realvault":  nil,
	"internal/policytest": {"policy"},
	"proxy":               {"policy", "credential", "inject", "redact", "audit", "internal/mitmca"},
	"bench":               {"policy", "credential", "inject", "audit", "internal/mitmca", "proxy"},
	"cmd/sidekey":         {everything},
}

// never lists what else a package must not import, by prefix of the import path.
var never = map[string][]string{
	"policy":          {"net/http", zerolog},
	"credential":      {zerolog},
	"credential/*":    {zerolog},
	"inject":          {zerolog, "log"},
	"audit":           {zerolog},
	"audit/custody":   {zerolog},
	"redact":          {zerolog},
	"internal/mitmca": {zerolog},
}

// confined lists what may be imported only by the named package or file.
var confined = map[string]string{
	goproxy: "proxy/connect.go",
	viper:   "internal/config",
}

func TestImports(t *testing.T) {
	report(t, load(t), checkImports)
}

// checkImports holds the three tables above on one file.
func checkImports(f *source) []finding {
	var found []finding
	row, known := rowOf(ours, f.pkg)
	if !known {
		return []finding{f.at(f.ast.Package, "package %s is unknown: add a row in docs/design.md section 3 and in internal/archtest", f.pkg)}
	}
	banned, _ := rowOf(never, f.pkg)
	for _, spec := range f.ast.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		if path == "math/rand" {
			found = append(found, f.at(spec.Pos(), "math/rand: use math/rand/v2, or crypto/rand for anything that must not be guessed"))
		}
		if f.test {
			continue
		}
		if dir, ok := strings.CutPrefix(path, modulePath+"/"); ok && !slices.Contains(row, dir) && !slices.Contains(row, everything) {
			found = append(found, f.at(spec.Pos(), "%s must not import %s (docs/design.md section 3)", f.pkg, dir))
		}
		for _, prefix := range banned {
			if within(path, prefix) {
				found = append(found, f.at(spec.Pos(), "%s must never import %s", f.pkg, path))
			}
		}
		for prefix, home := range confined {
			if within(path, prefix) && f.pkg != home && f.path != home {
				found = append(found, f.at(spec.Pos(), "%s is imported only in %s", path, home))
			}
		}
	}
	return found
}

// rowOf finds the row of a package: its own, else that of "parent/*".
func rowOf(table map[string][]string, pkg string) ([]string, bool) {
	if row, ok := table[pkg]; ok {
		return row, true
	}
	row, ok := table[filepath.Dir(pkg)+"/*"]
	return row, ok
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestCheckImports(t *testing.T) {
	for _, tt := range []struct{ path, imports, want string }{
		{"policy/parse.go", modulePath + "/internal/strictyaml", ""},
		{"policy/parse.go", modulePath + "/vault", "policy must not import vault"},
		{"policy/parse.go", "net/http", "policy must never import net/http"},
		{"policy/parse.go", "net/http/httptest", "policy must never import"},
		{"policy/parse_test.go", "net/http", ""},
		{"credential/filesource/file.go", modulePath + "/credential", ""},
		{"credential/filesource/file.go", modulePath + "/policy", "credential/filesource must not import policy"},
		{"vault/vaulttest/server.go", modulePath + "/credential", "vault/vaulttest must not import credential"},
		{"inject/inject.go", "log/slog", "inject must never import log/slog"},
		{"proxy/connect.go", goproxy, ""},
		{"proxy/server.go", goproxy, "only in proxy/connect.go"},
		{"cmd/sidekey/serve.go", modulePath + "/proxy", ""},
		{"cmd/sidekey/serve.go", viper, "only in internal/config"},
		{"internal/config/config.go", viper, ""},
		{"proxy/retry_test.go", "math/rand", "use math/rand/v2"},
		{"proxy/retry.go", "math/rand/v2", ""},
		{"newthing/new.go", "fmt", "package newthing is unknown"},
		{"internal/newthing/new.go", "fmt", "package internal/newthing is unknown"},
	} {
		f := parse(t, tt.path, fmt.Sprintf("package p\nimport _ %q\n", tt.imports))
		expect(t, tt.path+" importing "+tt.imports, checkImports(f), tt.want)
	}
}

// TestDesignTable holds the table that people read to the one that is tested.
func TestDesignTable(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(moduleRoot, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for pkg, allowed := range ours {
		want[pkg] = strings.Join(slices.Sorted(slices.Values(allowed)), ", ")
	}
	if diff := cmp.Diff(want, designTable(string(doc))); diff != "" {
		t.Errorf("docs/design.md section 3 and internal/archtest differ (-archtest +design):\n%s", diff)
	}
}

var remark = regexp.MustCompile(` \([^)]*\)`)

// designTable reads the rows below "| package | of ours it may import |", with
// what stands in parentheses left out; a row may name several packages.
func designTable(doc string) map[string]string {
	_, table, _ := strings.Cut(doc, "| package | of ours it may import |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := make(map[string]string)
	for _, line := range strings.Split(table, "\n") {
		cells := strings.Split(remark.ReplaceAllString(line, ""), "|")
		if len(cells) < 4 || strings.Contains(cells[1], "---") {
			continue
		}
		allowed := strings.Split(strings.TrimSpace(cells[2]), ", ")
		slices.Sort(allowed)
		for _, pkg := range strings.Split(strings.TrimSpace(cells[1]), ", ") {
			rows[pkg] = strings.TrimPrefix(strings.Join(allowed, ", "), "-")
		}
	}
	return rows
}
