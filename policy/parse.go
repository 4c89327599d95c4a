package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// Parse reads a policy that is one file. filename is used in positions, and its last segment is
// the file's name in [Policy.Files]. The error is a [Mistakes] that holds everything wrong in the
// file (errors.As finds it); there is no policy then. A file that includes others or names a prompt
// is a mistake: see [ParseFiles]. The file's own tests are read but not run: see [Policy.RunTests].
func Parse(filename string, src []byte) (*Policy, error) {
	dir, name := path.Split(filename)
	return parse(dir, name, src, nil)
}

// ParseFiles reads a policy with the files that it includes and its prompt. read returns the
// content of a file by its name: relative to the directory of filename, with slashes, and never
// out of it. It is called once per file, first with the last segment of filename, and must return
// all of them as they are at one time, which in a mounted ConfigMap means: through one resolution
// of its ..data link. If the first call fails, the error wraps that of read; any other error is a
// [Mistakes], as of [Parse], in which each mistake has the place in its own file, below the
// directory of filename.
func ParseFiles(filename string, read func(name string) ([]byte, error)) (*Policy, error) {
	dir, name := path.Split(filename)
	src, err := read(name)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	return parse(dir, name, src, read)
}

// parse is [ParseFiles] for the file name below dir; read may be nil.
func parse(dir, name string, src []byte, read func(string) ([]byte, error)) (*Policy, error) {
	d := decoder{
		policy: &Policy{}, dir: dir, read: read,
		unread:     map[string]error{},
		routeNames: map[string]strictyaml.Value{},
		used:       map[string]bool{},
		ties:       map[tieKey][]claim{},
		hosts:      map[Authority][]named{},
		inside:     map[Mistake]string{},
	}
	d.load(name, src, nil)
	d.decode()
	if mistakes := d.mistakes(); mistakes != nil {
		return nil, mistakes
	}
	d.policy.files, d.policy.sha256 = d.sum()
	d.policy.warnings = d.warnings()
	d.policy.index = newIndex(d.policy.routes)
	d.policy.lookalikes = lookalikesOf(d.policy.routes)
	return d.policy, nil
}

// A decoder fills a policy from its files. It goes on after a mistake, so that all are found; what
// it has filled in by then is of no use.
type decoder struct {
	policy *Policy

	dir    string // what positions have before the names of files; empty, or with a slash at the end
	read   func(name string) ([]byte, error)
	unread map[string]error // why files could not be read, by name
	files  []*file          // as they were read, the policy's own first
	order  []*file          // as they are decoded, what a file includes before it

	credentials []declared
	routeNames  map[string]strictyaml.Value
	used        map[string]bool // credentials that a route names
	ties        map[tieKey][]claim
	hosts       map[Authority][]named

	whens  []uncompiled       // the conditions in CEL
	bodies []bounded          // the limits on bodies
	inside map[Mistake]string // places of mistakes inside of texts
}

func (d *decoder) decode() {
	d.decodeRole(d.files[0].root)
	authorized := d.decodePrompt(d.files[0].root.Get("prompt"))
	for _, f := range d.order {
		d.decodeCredentials(f.root.Get("credentials"))
	}
	for _, f := range d.order {
		for _, v := range f.root.Get("routes").List() {
			d.decodeRoute(v)
		}
	}
	d.compileWhens()
	d.checkHeldBodies()
	d.checkCredentials()
	d.checkTunnels()
	d.checkAuthorized(authorized)
	for _, f := range d.order {
		for _, v := range f.root.Get("tests").List() {
			d.decodeTest(v)
		}
	}
}

// decodeRole decodes what a policy says once: of the role as a whole.
func (d *decoder) decodeRole(m strictyaml.Mapping) {
	role := m.Need("role", "write the agent's role, such as role: pr-reviewer")
	if s, ok := role.Text(); ok {
		d.policy.role = s
		if !isRole(s) {
			role.Wrong(fmt.Sprintf("%s is not a role", strictyaml.Quote(s)),
				"write at most 63 lower-case letters, digits and -, with no - at either end")
		}
	}
	d.policy.description = prose(m.Get("description"))
	d.policy.mode = Enforce
	if s, ok := m.Get("mode").Choice("enforce", "report"); ok && s == "report" {
		d.policy.mode = Report
	}
	d.policy.budget = decodeBudget(m.Get("budget"))
	routed := slices.ContainsFunc(d.files, func(f *file) bool { return f.root.Has("routes") })
	switch {
	case !m.Has("include"):
		m.Need("routes", "write at least one route; without one everything is denied")
	case !routed && d.mistakes() == nil:
		m.Key("include").Wrong("none of the files has a route, and so everything is denied", "write at least one")
	}
}

// prose returns a text for people, of any length.
func prose(v strictyaml.Value) string {
	s, _ := v.Text()
	for _, r := range s {
		if r < ' ' && r != '\n' || r == 0x7f {
			v.Wrong(fmt.Sprintf("the text has the control character U+%04X", r), "remove it")
			break
		}
	}
	return s
}

// nonEmpty returns a text of at least one character, none of them a control character.
func nonEmpty(v strictyaml.Value) (string, bool) {
	s, ok := v.Text()
	switch {
	case !ok:
		return "", false
	case s == "":
		v.Wrong("the text is empty", "")
		return "", false
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.Wrong("the text has a control character", "remove it")
		return "", false
	}
	return s, true
}

// isRole reports whether s is a DNS label (RFC 1123 section 2.1): it becomes part of the names
// of Vault policies, roles and service accounts.
func isRole(s string) bool {
	return s != "" && len(s) <= 63 && isLabel(s) && !strings.Contains(s, "_")
}

// checkRef records a mistake if s cannot name a route or a credential.
func checkRef(v strictyaml.Value, s string) {
	bad := s == "" || len(s) > 63 || !isAlphanumeric(s[0])
	for i := range len(s) {
		bad = bad || !isAlphanumeric(s[i]) && strings.IndexByte("-_.", s[i]) < 0
	}
	if bad {
		v.Wrong(fmt.Sprintf("%s is not a name", strictyaml.Quote(s)),
			"write at most 63 letters, digits, -, _ and ., and begin with a letter or digit")
	}
}
