package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/policy"
)

func limitsOf(t testing.TB, text string) policy.Limits {
	t.Helper()
	return mustParse(t, "version: 1\nrole: limits\nroutes:\n- {name: r, host: a.test, access: read-only, paths: [/x], limits: {"+text+"}}\n").Routes()[0].Limits
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		text string
		want policy.Limits
	}{
		{"rate: 1/s", policy.Limits{Rate: policy.Rate{N: 1, Per: time.Second}}},
		{"rate: 1000000/m", policy.Limits{Rate: policy.Rate{N: 1_000_000, Per: time.Minute}}},
		{"rate: 3600/h", policy.Limits{Rate: policy.Rate{N: 3600, Per: time.Hour}}},
		{"body: 1B", policy.Limits{Body: 1}},
		{"body: 64KiB, response: 10MiB", policy.Limits{Body: 65536, Response: 10485760}},
		{"response: 1024GiB", policy.Limits{Response: 1 << 40}},
		{"concurrency: 10000, timeout: 24h", policy.Limits{Concurrency: 10_000, Timeout: 24 * time.Hour}},
		{"budget: {requests: 1}", policy.Limits{Budget: policy.Budget{Requests: 1}}},
		{"budget: {bytes: 2GiB}", policy.Limits{Budget: policy.Budget{Bytes: 2 << 30}}},
	} {
		if diff := cmp.Diff(limitsOf(t, tt.text), tt.want); diff != "" {
			t.Errorf("%s (-got +want)\n%s", tt.text, diff)
		}
	}
}

// TestLimitsTakeNoPartInMatching: a route with limits decides exactly what it would without.
func TestLimitsTakeNoPartInMatching(t *testing.T) {
	limited := strings.ReplaceAll(decideYAML, "}\n", ", limits: {rate: 1/h, body: 1B, response: 1B, concurrency: 1, timeout: 1s, budget: {requests: 1, bytes: 1B}}}\n")
	plain, bounded := mustParse(t, decideYAML), mustParse(t, limited)
	for _, s := range []string{"GET https://api.test/user", "POST https://api.test/repos/acme/app/issues/7", "POST https://api.test/user", "GET https://tie.test/x", "GET https://nowhere.test/"} {
		if got, want := outcome(bounded.Decide(request(t, s))), outcome(plain.Decide(request(t, s))); got != want {
			t.Errorf("%s: got %s, want %s", s, got, want)
		}
	}
}

func TestBurst(t *testing.T) {
	for _, tt := range []struct {
		rate     string
		burst    int
		interval time.Duration
	}{
		{"1/s", 1, time.Second}, {"1000/s", 1000, time.Millisecond}, {"30/m", 30, 2 * time.Second}, {"100/m", 100, 600 * time.Millisecond},
		{"101/m", 100, time.Minute / 101}, {"3600/h", 100, time.Second}, {"1/h", 1, time.Hour}, {"1000000/s", 1_000_000, time.Microsecond},
	} {
		r := limitsOf(t, "rate: "+tt.rate).Rate
		if r.Burst() != tt.burst || r.Interval() != tt.interval {
			t.Errorf("%s: got %d every %v, want %d every %v", tt.rate, r.Burst(), r.Interval(), tt.burst, tt.interval)
		}
	}
	if r := (policy.Rate{}); r.Burst() != 0 || r.Interval() != 0 {
		t.Errorf("zero Rate: %d every %v", r.Burst(), r.Interval())
	}
}

func TestBodyBound(t *testing.T) {
	const most = 1 << 20
	for _, tt := range []struct {
		routes []string // what two routes have besides
		want   int64
	}{
		{[]string{"", "limits: {body: 1KiB}"}, 0},
		{[]string{"when: request.json.x == 1", "limits: {body: 1KiB}"}, most},
		{[]string{"when: request.json.x == 1, limits: {body: 2KiB}", "when: request.json.x == 1, limits: {body: 1KiB}"}, 2048},
		{[]string{"when: request.json.x == 1, limits: {body: 2KiB}", "when: request.path == '/', limits: {body: 9KiB}"}, 2048},
		{[]string{"when: request.json.x == 1, limits: {body: 2KiB}", "when: request.json.x == 1"}, most},
		{[]string{"graphql: {type: query}, limits: {body: 2MiB}", ""}, 2 << 20},
		{[]string{"graphql: {type: query}, limits: {body: 3B}", "graphql: {type: query}, limits: {body: 2B}"}, 3},
	} {
		src := "version: 1\nrole: bounds\nroutes:\n"
		for i, more := range tt.routes {
			src += fmt.Sprintf("- {name: r%d, host: a%d.test, methods: [POST], paths: [/x], %s}\n", i, i, more)
		}
		if got := mustParse(t, src).BodyBound(); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.routes, got, tt.want)
		}
	}
}

// TestSizesReadAsTheyAreWritten: a size is its number times its unit.
func TestSizesReadAsTheyAreWritten(t *testing.T) {
	units := map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.Int64Range(1, 1024).Draw(r, "n")
		unit := rapid.SampledFrom([]string{"B", "KiB", "MiB", "GiB"}).Draw(r, "unit")
		text := fmt.Sprintf("%d%s", n, unit)
		if got := limitsOf(t, "body: "+text).Body; got != n*units[unit] {
			r.Fatalf("%s is %d, want %d", text, got, n*units[unit])
		}
	})
}
