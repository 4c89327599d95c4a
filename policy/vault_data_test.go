package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

func TestDataFor(t *testing.T) {
	s := policy.Session{ID: "run-7.0a1b2c3d", Role: "deploy", RequestedBy: "Ann <ann@example.com>"}
	long := policy.Session{ID: strings.Repeat("x", 100)}
	for _, tt := range []struct {
		session policy.Session
		text    string
		want    string
	}{
		{s, "{session}", "run-7.0a1b2c3d"},
		{s, "sidekey-{role}-{session}", "sidekey-deploy-run-7.0a1b2c3d"},
		{s, "{requested_by}", "Ann__ann@example.com_"},
		{s, "a b {role}", "a b deploy"}, // what the file says itself is its own
		{s, "no word, however long: " + strings.Repeat("y", 100), "no word, however long: " + strings.Repeat("y", 100)},
		{s, "{{session}} {Session} {} {", "{{session}} {Session} {} {"},
		{s, "{{{session}}}", "{{{session}}}"},
		{s, "{ {role}}", "{ {role}}"},
		{s, "{x {role}", "{x deploy"},
		{policy.Session{}, "{session}{role}{requested_by}", ""},
		{policy.Session{ID: "\u00e4\x00\n\xff{role}", Role: "r"}, "{session}", "____" + "_role_"},
		{long, "{session}", strings.Repeat("x", 64)},
		{long, "id-{session}", "id-" + strings.Repeat("x", 61)},
		{long, strings.Repeat("\u00e4", 31) + "{session}", strings.Repeat("\u00e4", 31) + "xx"},
		{long, strings.Repeat("\u00e4", 40) + "{session}", strings.Repeat("\u00e4", 32)},
		{long, "y" + strings.Repeat("\u00e4", 40) + "{session}", "y" + strings.Repeat("\u00e4", 31)},
	} {
		f := policy.VaultFrom{Data: map[string]any{"a": tt.text, "b": []string{"x", tt.text}, "c": int64(1)}}
		want := map[string]any{"a": tt.want, "b": []string{"x", tt.want}, "c": int64(1)}
		if diff := cmp.Diff(f.DataFor(tt.session), want); diff != "" {
			t.Errorf("%q (-got +want)\n%s", tt.text, diff)
		}
		if f.Data["a"] != tt.text || f.Data["b"].([]string)[1] != tt.text {
			t.Errorf("%q: the policy was changed", tt.text)
		}
	}
	if got := (&policy.VaultFrom{}).DataFor(s); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}
