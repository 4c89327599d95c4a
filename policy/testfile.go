package policy

import (
	"path"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// testFileSuffix ends the names of files of tests.
const testFileSuffix = "_test"

// IsTestFile reports whether a file of that name holds tests of a policy and no policy: its name
// without .yaml or .yml ends in _test.
func IsTestFile(filename string) bool {
	name := path.Base(filename)
	stem := strings.TrimSuffix(strings.TrimSuffix(name, ".yaml"), ".yml")
	return stem != name && strings.HasSuffix(stem, testFileSuffix) && stem != testFileSuffix
}

// TestedBy returns the name of the policy file that a file of tests is about, relative to the
// directory of that file: what its key policy says, or else its own name without _test.
func TestedBy(filename string, src []byte) string {
	_, root := strictyaml.Parse(filename, src)
	if s, ok := root.Mapping("version", "policy", "tests").Get("policy").Text(); ok && s != "" {
		return s
	}
	name := path.Base(filename)
	ext := path.Ext(name)
	return strings.TrimSuffix(strings.TrimSuffix(name, ext), testFileSuffix) + ext
}

// RunTestFile runs the tests in a file beside the policy, in file order: a mapping with the key
// tests, whose entries are those of a policy file, and if it likes policy. filename is used in
// positions only. The error is a [Mistakes].
func (p *Policy) RunTestFile(filename string, src []byte) ([]TestResult, error) {
	// The tests see the policy; it does not get them.
	tested := *p
	tested.tests = nil
	dir, name := path.Split(filename)
	f := &file{name: name, src: src}
	d := decoder{
		policy: &tested, dir: dir, files: []*file{f},
		routeNames: map[string]strictyaml.Value{}, inside: map[Mistake]string{},
	}
	for _, r := range p.routes {
		d.routeNames[r.Name] = strictyaml.Value{}
	}
	var root strictyaml.Value
	f.doc, root = strictyaml.Parse(filename, src)
	f.root = root.Mapping("version", "policy", "tests")
	if n, ok := f.root.Get("version").Int(); ok && n != 1 {
		f.root.Get("version").Wrong("this version is not known", "write version: 1, or remove it")
	}
	if f.root.Has("policy") {
		nonEmpty(f.root.Get("policy"))
	}
	for _, v := range f.root.Need("tests", "write a list of tests").List() {
		d.decodeTest(v)
	}
	if err := d.mistakes(); err != nil {
		return nil, err
	}
	return tested.RunTests(), nil
}
