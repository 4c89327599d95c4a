package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/policy"
)

// manyConditions is the text of a policy of n routes, all of them with a condition: of different
// ones as many as kinds says.
func manyConditions(n, kinds int) []byte {
	var b strings.Builder
	b.WriteString("version: 1\nrole: many\nroutes:\n")
	for i := range n {
		fmt.Fprintf(&b, "- {name: r%d, host: h%d.t, methods: [GET], paths: [\"/{x}/%d\"], when: 'request.params.x != \"%d\"'}\n", i, i/100, i, i%kinds)
	}
	return []byte(b.String())
}

// TestConditionsAreCompiledForEach: routes that share the text of a condition, or are many, each have
// their own mistakes and their own outcome.
func TestConditionsAreCompiledForEach(t *testing.T) {
	for _, kinds := range []int{3, 200} {
		p := mustParse(t, string(manyConditions(200, kinds)))
		for i := range 200 {
			for x, want := range map[string]string{"a": fmt.Sprint("r", i), fmt.Sprint(i % kinds): "condition_not_met"} {
				if got := outcome(p.Decide(request(t, fmt.Sprintf("GET https://h%d.t/%s/%d", i/100, x, i)))); got != want {
					t.Errorf("%d conditions, route %d, %s: got %s, want %s", kinds, i, x, got, want)
				}
			}
		}
		_, err := policy.Parse("p.yaml", []byte(strings.ReplaceAll(string(manyConditions(200, kinds)), "params.x", "params.y")))
		var ms policy.Mistakes
		if !errors.As(err, &ms) || len(ms) != 200 {
			t.Errorf("%d conditions: %d mistakes", kinds, len(ms))
		}
		for i, m := range ms {
			if want := fmt.Sprintf("p.yaml:%d:", i+4); !strings.HasPrefix(m.Where, want) {
				t.Errorf("%d conditions: mistake %d is at %s", kinds, i, m.Where)
			}
		}
	}
}

// BenchmarkParse is how long a policy of many routes takes to load.
func BenchmarkParse(b *testing.B) {
	for _, bb := range []struct {
		name     string
		n, kinds int
	}{{"1000 conditions", 1_000, 1_000}, {"10000 conditions", 10_000, 10_000}, {"10000 routes of 20 conditions", 10_000, 20}} {
		src := manyConditions(bb.n, bb.kinds)
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := policy.Parse("p.yaml", src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
