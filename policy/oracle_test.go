package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/internal/policytest"
	"github.com/sidekey/sidekey/policy"
)

// TestDecideAgreesWithOracle: the index decides and tunnels what a naive scan does, Explain
// decides what Decide does and gives a reason for each miss, tests of a policy file succeed if they
// expect just that, and Parse refuses exactly the ties and the routes on tunnelled hosts.
func TestDecideAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		routes := policytest.DrawRoutes(t)
		text := policytest.File(routes)
		p, err := policy.Parse("p", []byte(text))
		tied, tunnelled := policytest.Tied(routes), policytest.Tunnelled(routes)
		if err != nil || tied || tunnelled {
			var ms policy.Mistakes
			errors.As(err, &ms)
			has := func(words string) bool {
				return slices.ContainsFunc(ms, func(m policy.Mistake) bool { return strings.Contains(m.Msg, words) })
			}
			others := slices.ContainsFunc(ms, func(m policy.Mistake) bool {
				return !strings.HasPrefix(m.Msg, "matches the same requests") && !strings.HasPrefix(m.Msg, "the tunnel at")
			})
			if has("matches the same requests") != tied || has("the tunnel at") != tunnelled || others {
				t.Fatalf("tied: %v; tunnelled: %v; Parse: %v\n%s", tied, tunnelled, err, text)
			}
			return
		}
		agreement := policytest.NewAgreement(t, p, text)
		for range 40 {
			r := policytest.DrawRequest(t)
			if d := agreement.Request(r); r.Method != "" {
				agreement.Test(r, d)
			}
		}
		agreement.RunTests()
	})
}
