package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

func TestParseVault(t *testing.T) {
	p := mustParse(t, string(files(t, "testdata/vault.good.yaml")["testdata/vault.good.yaml"]))
	got := map[string]policy.VaultFrom{}
	for _, c := range p.Credentials() {
		got[c.Name] = *c.From.Vault
		if certificate := slices.Contains([]string{"pki", "stored"}, c.Name); certificate != (c.Inject.ClientCertificate != nil) {
			t.Errorf("%s: inject %+v", c.Name, c.Inject)
		}
		if c.Prefetch != (c.Name != "kv1") {
			t.Errorf("%s: prefetch %v", c.Name, c.Prefetch)
		}
	}
	want := map[string]policy.VaultFrom{
		"kv1": {Path: "kv/x", Field: "token"},
		"kv2": {Path: "team/kv/data/a/b", Field: "token", MaxAge: 10 * time.Minute},
		"written": {Path: "aws/sts/deploy", Write: true, Field: "security_token", Data: map[string]any{
			"ttl": "15m", "role_session_name": "{session}", "note": "{{session}} {x y} {} {", "tags": []string{"role", "{role}.{requested_by}"}, "tries": int64(3), "share": 0.5, "wrapped": false, "list": []string{"a", "b"},
		}},
		"pki":    {Path: "pki/issue/agent", Write: true, Data: map[string]any{"common_name": "agent.example.com"}},
		"stored": {Path: "secret/data/certificate", MaxAge: time.Hour},
		"jwt": {Path: "transit/sign/app", JWT: &policy.VaultJWT{
			Algorithm: "PS256", KeyID: "k1", TTL: 10 * time.Minute,
			Claims: map[string]any{"iss": int64(12345), "aud": []string{"a", "b"}},
		}},
		"short-jwt": {Path: "team/data/sign/app", MaxAge: time.Minute, JWT: &policy.VaultJWT{Algorithm: "EdDSA", TTL: 5 * time.Minute}},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

// What few routes carry is obtained at the start; what many carry, when it is needed.
func TestPrefetchByDefault(t *testing.T) {
	for _, tt := range []struct {
		routes int
		says   string
		want   bool
	}{
		{1, "", true}, {20, "", true}, {21, "", false},
		{1, ", prefetch: false", false}, {20, ", prefetch: false", false}, {21, ", prefetch: true", true},
	} {
		var b strings.Builder
		fmt.Fprintf(&b, "version: 1\nrole: a\ncredentials: {c: {from: {env: {name: A}}, inject: {bearer: {}}%s}}\nroutes:\n", tt.says)
		for i := range tt.routes {
			fmt.Fprintf(&b, "  - {name: r%d, host: a.example.com, access: read-only, paths: [/%d], credential: c}\n", i, i)
		}
		b.WriteString("  - {name: other, host: b.example.com, access: read-only, paths: [/]}\n")
		if got := mustParse(t, b.String()).Credentials()[0].Prefetch; got != tt.want {
			t.Errorf("%d routes%s: prefetch %v", tt.routes, tt.says, got)
		}
	}
}

// What the schema says of Vault, the parser says too.
func TestSchemaRefusesOfVault(t *testing.T) {
	s := compileSchema(t)
	good := string(files(t, "testdata/vault.good.yaml")["testdata/vault.good.yaml"])
	for _, tt := range []struct{ old, new string }{
		{", max_age: 10m", ""}, {"team/kv/data/a/b, field: token, max_age: 10m", "team/kv/data/a/b, field: token, method: read"},
		{"kv/x, field: token, method: read", "kv/x, method: read"}, {"method: read", "method: update"},
		{"        method: write\n", ""}, {"        method: write\n", "        method: read\n"}, {"tries: 3", "tries: {a: 1}"}, {"list: [a, b]", "list: []"},
		{"list: [a, b]", "list: [1]"}, {"tries: 3", "tries: "}, {", data: {common_name: agent.example.com}", ", data: {}"},
		{"data: {common_name: agent.example.com}", "field: x"}, {"data: {common_name: agent.example.com}", "user_field: x"},
		{"secret/data/certificate, max_age: 1h", "secret/data/certificate"}, {"path: transit/sign/app", "path: transit/sign/app/sha2-256"},
		{"algorithm: PS256", "algorithm: none"}, {"algorithm: PS256, ", ""}, {"key_id: k1", "kid: k1"}, {"{iss: 12345,", "{exp: 1,"},
		{"ttl: 10m", "ttl: 10"}, {"path: transit/sign/app\n", "path: transit/sign/app\n        field: x\n"},
		{"client_certificate: {}", "client_certificate: {a: 1}"}, {"{client_certificate: {}}", "{client_certificate: {}, bearer: {}}"},
		{"{vault: {path: secret/data/certificate, max_age: 1h}}", "{file: {path: /x}}"}, {"prefetch: false", "prefetch: 1"},
	} {
		changed := strings.Replace(good, tt.old, tt.new, 1)
		if changed == good {
			t.Errorf("%q is not in the file", tt.old)
		}
		if err := s.Validate(instance(t, []byte(changed))); err == nil {
			t.Errorf("%q instead of %q is valid", tt.new, tt.old)
		}
		if _, err := policy.Parse("p", []byte(changed)); err == nil {
			t.Errorf("%q instead of %q parses", tt.new, tt.old)
		}
	}
}
