package policytest

import (
	"slices"
	"strings"

	"github.com/sidekey/sidekey/policy"
)

// applyConditions returns the most specific candidate whose condition holds, or whether one that
// comes before it fails; and the most specific one in mode report up to there whose condition does
// not hold.
func applyConditions(matching []*candidate, r policy.Request) (best, reported *candidate, failed bool) {
	slices.SortFunc(matching, func(a, b *candidate) int {
		switch {
		case a.beats(b):
			return -1
		case b.beats(a):
			return 1
		}
		return 0
	})
	for _, c := range matching {
		holds, ok := conditions[c.route.When](r)
		if ok && holds {
			return c, reported, false
		}
		if reported == nil && c.route.Mode == policy.Report {
			reported = c
		}
		if !ok {
			return nil, reported, true
		}
	}
	return nil, reported, false
}

// conditions are what the oracle knows of some conditions: whether they hold, and whether they can
// be evaluated.
var conditions = map[string]func(policy.Request) (holds, ok bool){
	"":                           func(policy.Request) (bool, bool) { return true, true },
	`request.path.contains("b")`: func(r policy.Request) (bool, bool) { return strings.Contains(r.Target.Path, "b"), true },
	`request.headers["x-a"] == "1"`: func(r policy.Request) (bool, bool) {
		return slices.Equal(r.Header["X-A"], []string{"1"}), r.Header["X-A"] != nil
	},
	`request.json == 1`: func(r policy.Request) (bool, bool) { return r.Body == text("1"), r.Body != nil && r.Body != text("?") },
}

// A text is a body.
type text string

func (s text) Bytes() ([]byte, error) { return []byte(s), nil }
