package policy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"keys in order, comments with them", `# yaml-language-server: $schema=x
role: a   # the role
version: 1



# the routes
routes:
    - host: a.example   # where
      # what it is called
      name: a
      paths:
        - /a
        # the second
        - /b
      access: read-only

    - {paths: [/c],  name: b, access: read-only, host: b.example}
# at the end
`, `# yaml-language-server: $schema=x
version: 1
role: a # the role

# the routes
routes:
  # what it is called
  - name: a
    host: a.example # where
    access: read-only
    paths:
      - /a
      # the second
      - /b

  - {name: b, host: b.example, access: read-only, paths: [/c]}
# at the end
`},
		{"too long for a line", "version: 1\nrole: a\nroutes:\n  - {name: a, host: a.example, access: read-only, paths: [/" + strings.Repeat("x", 80) + ", /b], reason: " + strings.Repeat("y", 40) + "}\n",
			"version: 1\nrole: a\n\nroutes:\n  - name: a\n    host: a.example\n    access: read-only\n    paths: [/" + strings.Repeat("x", 80) + ", /b]\n    reason: " + strings.Repeat("y", 40) + "\n"},
		{"texts of several lines", "version: 1\nrole: a\ndescription: |\n  one\n\n\n  two\nroutes:\n  - name: a\n    when: |-\n      a &&\n\n        b\n    host: a.example\n",
			"version: 1\nrole: a\ndescription: |\n  one\n\n\n  two\n\nroutes:\n  - name: a\n    host: a.example\n    when: |-\n      a &&\n\n        b\n"},
		{"a comment in a list", "include: [a.yaml, # first\n  b.yaml]\n", "include:\n  - a.yaml # first\n  - b.yaml\n"},
		{"tests", "tests:\n- expect: allow\n  request: GET https://a.example/\npolicy: a.yaml\n", "policy: a.yaml\n\ntests:\n  - request: GET https://a.example/\n    expect: allow\n"},
	} {
		got, err := policy.Format("p.yaml", []byte(tt.src))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(string(got), tt.want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", tt.name, diff)
		}
	}
}

func TestFormatRefuses(t *testing.T) {
	for _, src := range []string{"", "a: [", "a: &x 1\nb: *x\n", "a: 1\na: 2\n"} {
		_, err := policy.Format("p.yaml", []byte(src))
		if ms := (policy.Mistakes)(nil); !errors.As(err, &ms) {
			t.Errorf("%q: %v", src, err)
		}
	}
}

// TestFormatKeepsPolicies: formatting each policy in the tree changes no access and no warning's
// number, and once is enough.
func TestFormatKeepsPolicies(t *testing.T) {
	formatted := 0
	err := filepath.WalkDir("..", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(name) != ".yaml" {
			return err
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		before, err := policy.Parse(name, src)
		if err != nil {
			return nil // it has mistakes, on purpose, or is something else
		}
		checkFormat(t, name, src, before)
		formatted++
		return nil
	})
	if err != nil || formatted < 8 {
		t.Errorf("%d policies; %v", formatted, err)
	}
}

func checkFormat(t *testing.T, name string, src []byte, before *policy.Policy) {
	t.Helper()
	once, err := policy.Format(name, src)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	twice, err := policy.Format(name, once)
	if err != nil || string(once) != string(twice) {
		t.Errorf("%s: formatted twice (%v)\n%s", name, err, cmp.Diff(string(once), string(twice)))
	}
	after, err := policy.Parse(name, once)
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, once)
		return
	}
	changes, err := policy.Diff(before, after)
	if err != nil || len(changes) > 0 || len(before.RunTests()) != len(after.RunTests()) || len(before.Warnings()) != len(after.Warnings()) {
		t.Errorf("%s: %d changes (%v)", name, len(changes), err)
	}
}

// FuzzFormat: a text is formatted to one that says the same, and stays as it is from then on.
func FuzzFormat(f *testing.F) {
	for _, src := range files(f, "testdata/*.yaml") {
		f.Add(string(src))
	}
	f.Fuzz(func(t *testing.T, src string) {
		once, err := policy.Format("p", []byte(src))
		if err != nil {
			return
		}
		if twice, err := policy.Format("p", once); err != nil || string(twice) != string(once) {
			t.Fatalf("%q becomes %q and then %q (%v)", src, once, twice, err)
		}
		before, err := policy.Parse("p", []byte(src))
		if err != nil {
			return
		}
		after, err := policy.Parse("p", once)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", src, once, err)
		}
		if changes, err := policy.Diff(before, after); err == nil && len(changes) > 0 {
			t.Fatalf("%q becomes %q, with %d changes", src, once, len(changes))
		}
	})
}
