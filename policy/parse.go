package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// Parse reads a policy file. filename is used in positions only. The error is a [Mistakes]
// that holds everything wrong in the file (errors.As finds it); there is no policy then. The
// file's own tests are read but not run: see [Policy.RunTests].
func Parse(filename string, src []byte) (*Policy, error) {
	doc, root := strictyaml.Parse(filename, src)
	sum := sha256.Sum256(src)
	d := decoder{policy: &Policy{sha256: hex.EncodeToString(sum[:])}, source: newSource(src)}
	d.decode(root)
	if err := doc.Err(); err != nil {
		var mistakes Mistakes
		if errors.As(err, &mistakes) {
			d.putInside(mistakes)
		}
		return nil, err
	}
	d.policy.warnings = doc.Warnings()
	d.policy.index = newIndex(d.policy.routes)
	return d.policy, nil
}

// A decoder fills a policy from a file. It goes on after a mistake, so that all are found; what
// it has filled in by then is of no use.
type decoder struct {
	policy *Policy

	credentials []declared
	routeNames  map[string]strictyaml.Value
	used        map[string]bool // credentials that a route names
	ties        map[tieKey][]claim
	hosts       map[Authority][]named

	source source             // the file
	inside map[Mistake]string // places of mistakes inside of texts
	cel    *cel.Env           // nil before the first condition
}

func (d *decoder) decode(root strictyaml.Value) {
	d.routeNames = map[string]strictyaml.Value{}
	d.used = map[string]bool{}
	d.ties = map[tieKey][]claim{}
	d.hosts = map[Authority][]named{}
	d.inside = map[Mistake]string{}
	m := root.Mapping("version", "role", "description", "mode", "credentials", "routes", "tests")

	version := m.Need("version", "write version: 1")
	if n, ok := version.Int(); ok && n != 1 {
		version.Wrong(fmt.Sprintf("version %d is not known", n), "write version: 1")
	}
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
	d.decodeCredentials(m.Get("credentials"))
	for _, v := range m.Need("routes", "write at least one route; without one everything is denied").List() {
		d.decodeRoute(v)
	}
	d.checkCredentials()
	d.checkTunnels()
	if m.Has("tests") {
		for _, v := range m.Get("tests").List() {
			d.decodeTest(v)
		}
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
