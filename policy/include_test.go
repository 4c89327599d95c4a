package policy_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/internal/policytest"
	"github.com/sidekey/sidekey/policy"
)

// reader reads from a map of names to texts.
func reader(texts map[string]string) func(string) ([]byte, error) {
	dir := fstest.MapFS{}
	for name, text := range texts {
		dir[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return func(name string) ([]byte, error) { return fs.ReadFile(dir, name) }
}

// TestFilesMistakes: each directory below testdata/files is a policy of several files with mistakes,
// which its want.txt has as they are shown. With -update it is rewritten.
func TestFilesMistakes(t *testing.T) {
	dirs, err := filepath.Glob("testdata/files/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no policies: %v", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			p, err := policy.ParseFiles("/policy/policy.yaml", func(name string) ([]byte, error) { return fs.ReadFile(os.DirFS(dir), name) })
			if ms := (policy.Mistakes{}); !errors.As(err, &ms) || p != nil {
				t.Fatalf("policy %v, error %v", p, err)
			}
			file := filepath.Join(dir, "want.txt")
			if *update {
				if err := os.WriteFile(file, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(file)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if diff := cmp.Diff(strings.Split(err.Error()+"\n", "\n"), strings.Split(string(want), "\n")); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// shared is a policy of five files, of which two are included by one more than once.
var shared = map[string]string{
	"pr.yaml": `
version: 1
role: pr
include: [sets/github.yaml, llm.yaml]
prompt: {file: prompts/pr.md}
credentials:
  own: {from: {env: {name: A}}, inject: {bearer: {}}}
routes:
  - {name: own, host: own.test, access: read-only, paths: [/x], credential: own}
  - {name: comment, host: github.test, methods: [POST], paths: [/comment], credential: github}
tests:
  - {request: GET https://own.test/x, expect: allow, route: own}
  - {request: GET https://github.test/read, expect: allow, route: read}
`,
	"sets/github.yaml": `
version: 1
include: [common.yaml, ../llm.yaml]
routes:
  - {name: read, host: github.test, access: read-only, paths: [/read], credential: github}
tests:
  - {request: GET https://github.test/other, expect: deny, reason: path_not_allowed}
`,
	"sets/common.yaml": `
version: 1
credentials:
  github: {from: {env: {name: A}}, inject: {bearer: {}}}
`,
	"llm.yaml": `
version: 1
routes:
  - {name: llm, host: llm.test, access: read-only, paths: [/x]}
`,
	"prompts/pr.md": "---\nauthorizes: [own, read, comment, llm, later]\n---\nYou review.\n",
}

func TestParseFiles(t *testing.T) {
	p, err := policy.ParseFiles("/etc/policy/pr.yaml", reader(shared))
	if err != nil {
		t.Fatal(err)
	}
	var routes, credentials []string
	for _, r := range p.Routes() {
		routes = append(routes, r.Name+" "+r.Where)
	}
	for _, c := range p.Credentials() {
		credentials = append(credentials, c.Name+" "+c.Where)
	}
	wantRoutes := []string{"llm /etc/policy/llm.yaml:4:5", "read /etc/policy/sets/github.yaml:5:5", "own /etc/policy/pr.yaml:9:5", "comment /etc/policy/pr.yaml:10:5"}
	wantCredentials := []string{"github /etc/policy/sets/common.yaml:4:3", "own /etc/policy/pr.yaml:7:3"}
	if diff := cmp.Diff([][]string{routes, credentials}, [][]string{wantRoutes, wantCredentials}); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	files := []string{"pr.yaml", "sets/github.yaml", "sets/common.yaml", "llm.yaml", "prompts/pr.md"}
	if diff := cmp.Diff(p.Files(), files); diff != "" {
		t.Errorf("files (-got +want)\n%s", diff)
	}
	lines := ""
	for _, name := range files {
		lines += fmt.Sprintf("%s\x00%x\n", name, sha256.Sum256([]byte(shared[name])))
	}
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(lines))); p.SHA256() != want {
		t.Errorf("SHA-256: got %s, want %s", p.SHA256(), want)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(shared["prompts/pr.md"]))); p.PromptSHA256() != want || p.PromptFile() != "prompts/pr.md" {
		t.Errorf("prompt %s: got %s, want %s", p.PromptFile(), p.PromptSHA256(), want)
	}
	results := p.RunTests()
	if len(results) != 3 || results[0].Where != "/etc/policy/sets/github.yaml:7:5" {
		t.Errorf("got %d tests, the first %+v", len(results), results[0])
	}
	for _, r := range results {
		if !r.OK {
			t.Errorf("%s: want %s, got %s", r.Where, r.Want, r.Got)
		}
	}
	want := []policy.Mistake{{Where: "/etc/policy/prompts/pr.md:2:39", Path: "authorizes[4]", Msg: `the prompt authorises "later", and there is no such route`, Hint: "remove it, or write the route"}}
	if diff := cmp.Diff(p.Warnings(), want); diff != "" {
		t.Errorf("warnings (-got +want)\n%s", diff)
	}
}

// TestEveryFileCounts: a change of any file changes the policy's SHA-256, and each is read once.
func TestEveryFileCounts(t *testing.T) {
	base, err := policy.ParseFiles("pr.yaml", reader(shared))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{base.SHA256(): "nothing"}
	for _, name := range base.Files() {
		changed := map[string]string{}
		for n, text := range shared {
			changed[n] = text
		}
		changed[name] += "\n# more\n"
		var read []string
		p, err := policy.ParseFiles("pr.yaml", func(n string) ([]byte, error) { read = append(read, n); return reader(changed)(n) })
		if err != nil {
			t.Fatal(err)
		}
		if other := seen[p.SHA256()]; other != "" {
			t.Errorf("a change of %s has the SHA-256 of a change of %s", name, other)
		}
		seen[p.SHA256()] = name
		if !slices.Equal(read, p.Files()) {
			t.Errorf("read %v, files %v", read, p.Files())
		}
	}
}

func TestParseFilesOfOneFile(t *testing.T) {
	alone, err := policy.Parse("dir/p.yaml", []byte(decideYAML))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.ParseFiles("dir/p.yaml", reader(map[string]string{"p.yaml": decideYAML}))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(decideYAML))); p.SHA256() != want || alone.SHA256() != want {
		t.Errorf("SHA-256: got %s and %s, want %s", p.SHA256(), alone.SHA256(), want)
	}
	if diff := cmp.Diff([][]string{p.Files(), alone.Files()}, [][]string{{"p.yaml"}, {"p.yaml"}}); diff != "" {
		t.Errorf("files (-got +want)\n%s", diff)
	}
	if p.PromptFile() != "" || p.PromptSHA256() != "" {
		t.Errorf("prompt %q, %q", p.PromptFile(), p.PromptSHA256())
	}
}

func TestParseFilesWithoutTheFirst(t *testing.T) {
	_, err := policy.ParseFiles("p.yaml", reader(nil))
	var ms policy.Mistakes
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &ms) {
		t.Errorf("got %v, want the error of the read", err)
	}
}

// TestParseAlone: a policy that needs other files says so, at each place that does.
func TestParseAlone(t *testing.T) {
	_, err := policy.Parse("stdin", []byte(shared["pr.yaml"]))
	want := []string{"stdin:4:11", "stdin:4:29", "stdin:5:16"}
	var ms policy.Mistakes
	errors.As(err, &ms)
	var got []string
	for _, m := range ms {
		if m.Msg == "the policy was handed over without its other files" {
			got = append(got, m.Where)
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s\n%v", diff, err)
	}
}

// TestParseConfigMap: a mounted ConfigMap is read through the directory that its ..data link leads
// to, so that all files are of one version.
func TestParseConfigMap(t *testing.T) {
	mount := t.TempDir()
	version := filepath.Join(mount, "..2026_11_23")
	if err := errors.Join(os.Mkdir(version, 0o755), os.Symlink("..2026_11_23", filepath.Join(mount, "..data"))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"pr.yaml":     "version: 1\nrole: pr\ninclude: [github.yaml]\nprompt: {file: pr.md}\n",
		"github.yaml": "version: 1\nroutes: [{name: r, host: github.test, access: read-only, paths: [/x]}]\n",
		"pr.md":       "---\nauthorizes: [r]\n---\n",
	} {
		if err := errors.Join(os.WriteFile(filepath.Join(version, name), []byte(text), 0o644), os.Symlink("..data/"+name, filepath.Join(mount, name))); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(mount, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.ParseFiles(filepath.Join(mount, "pr.yaml"), func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Routes()[0].Where, filepath.Join(mount, "github.yaml")+":2:10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestIncludesDecideAsOneFile: routes decide the same however they are spread over files.
func TestIncludesDecideAsOneFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var routes []*policy.Route
		for i := range rapid.IntRange(2, 8).Draw(t, "routes") {
			routes = append(routes, policytest.DrawRoute(t, i))
		}
		cut := rapid.IntRange(1, len(routes)-1).Draw(t, "cut")
		one, errOne := policy.Parse("p", []byte(policytest.File(routes)))
		included := strings.Replace(policytest.File(routes[:cut]), "role: random\n", "", 1)
		two, errTwo := policy.ParseFiles("p", reader(map[string]string{"p": "include: [a.yaml]\n" + policytest.File(routes[cut:]), "a.yaml": included}))
		if (errOne == nil) != (errTwo == nil) {
			t.Fatalf("one file: %v\ntwo: %v", errOne, errTwo)
		}
		if errOne != nil {
			return
		}
		for range 20 {
			r := policytest.DrawRequest(t)
			got, want := two.Decide(r), one.Decide(r)
			if outcome(got) != outcome(want) || got.Reported != want.Reported || got.Path != want.Path {
				t.Fatalf("%s %s: got %+v, want %+v", r.Method, r.Target, got, want)
			}
		}
	})
}

// FuzzFiles: whatever the files hold, ParseFiles ends, reads no file twice and none outside, and
// each mistake has its place in one of them.
func FuzzFiles(f *testing.F) {
	f.Add(shared["pr.yaml"], shared["sets/github.yaml"], shared["prompts/pr.md"])
	f.Add("include: [a.yaml, ../p, /x, ..]\nprompt: {file: p.md}", "include: [p, a.yaml, .]", "---\nauthorizes: [x]\n---")
	f.Add("include: [a.yaml]\nprompt: {file: a.yaml}", "", "\ufeff---\r\nauthorizes: []\r\n---\r\n")
	f.Fuzz(func(t *testing.T, policyText, included, prompt string) {
		texts := map[string]string{"p": policyText, "a.yaml": included, "p.md": prompt, "sets/github.yaml": included, "prompts/pr.md": prompt}
		read := map[string]bool{}
		p, err := policy.ParseFiles("d/p", func(name string) ([]byte, error) {
			if read[name] || !fs.ValidPath(name) {
				t.Fatalf("%q is read", name)
			}
			read[name] = true
			return reader(texts)(name)
		})
		if err == nil {
			p.RunTests()
			return
		}
		var ms policy.Mistakes
		if !errors.As(err, &ms) || len(ms) == 0 {
			t.Fatalf("error is %T: %v", err, err)
		}
		for _, m := range ms {
			name, place, _ := strings.Cut(strings.TrimPrefix(m.Where, "d/"), ":")
			var line, column int
			if _, err := fmt.Sscanf(place, "%d:%d", &line, &column); err != nil || !read[name] || line < 1 || line > strings.Count(texts[name], "\n")+1 {
				t.Fatalf("%q is no place: %v", m.Where, err)
			}
		}
	})
}
