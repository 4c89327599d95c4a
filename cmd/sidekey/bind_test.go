package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/vault"
)

// parsePolicy parses a policy for the role tester; body is what follows the role.
func parsePolicy(t *testing.T, body string) *policy.Policy {
	t.Helper()
	pol, err := policy.Parse("policy.yaml", []byte("version: 1\nrole: tester"+body))
	if err != nil {
		t.Fatal(err)
	}
	return pol
}

func TestInjector(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   policy.Inject
		want inject.Injector
	}{
		{"none", policy.Inject{}, nil},
		{"bearer", policy.Inject{Bearer: &policy.BearerInject{}}, inject.Bearer()},
		{"basic", policy.Inject{Basic: &policy.BasicInject{}}, inject.Basic("")},
		{"basic with a user", policy.Inject{Basic: &policy.BasicInject{User: "bot"}}, inject.Basic("bot")},
		{"header", policy.Inject{Header: &policy.HeaderInject{Name: "x-api-key", Prefix: "Key "}}, inject.Header("X-Api-Key", "Key ")},
		{"query", policy.Inject{Query: &policy.QueryInject{Name: "key"}}, inject.Query("key")},
	} {
		if got := injector(tc.in); got != tc.want {
			t.Errorf("%s: %#v, want %#v", tc.name, got, tc.want)
		}
	}
}

const fourSources = `
credentials:
  a: {from: {vault: {path: secret/data/a, field: key, max_age: 1h}}, inject: {bearer: {}}}
  b: {from: {env: {name: B_KEY}}, inject: {query: {name: key}}}
  c: {from: {file: {path: /run/c}}, inject: {header: {name: x-c}}}
  d: {from: {exec: {command: [/bin/echo, d]}}, inject: {basic: {user: bot}}}
routes:
  - {name: a, host: a.example.com, access: read-only, paths: [/a], credential: a}
  - {name: b, host: b.example.com, access: read-only, paths: [/b], credential: b}
  - {name: c, host: c.example.com, access: read-only, paths: [/c], credential: c}
  - {name: d, host: d.example.com, access: read-only, paths: [/d], credential: d}
  - {name: e, host: e.example.com, access: read-only, paths: [/e]}
`

func TestBind(t *testing.T) {
	pol := parsePolicy(t, fourSources)
	b := &binder{vault: newVaultSession(t), lookup: environment{"B_KEY=x"}.lookup, recorder: &lateRecorder{}}
	got, err := b.bind(pol)
	if err != nil {
		t.Fatal(err)
	}
	if got.Policy != pol || got.Plain == nil {
		t.Error("the policy, or the transport of what carries no credential, is missing")
	}
	if len(got.Bindings) != 4 || len(got.credentials) != 4 || got.Number != 1 {
		t.Fatalf("%d bindings and %d caches of generation %d; want 4 and 4 of 1", len(got.Bindings), len(got.credentials), got.Number)
	}
	carriers := map[string]inject.Carrier{}
	transports := map[any]string{got.Plain: "those without a credential"}
	for name, binding := range got.Bindings {
		carriers[name] = binding.Injector.Carrier()
		if other, ok := transports[binding.Transport]; ok {
			t.Errorf("%s has the transport of %s: connections would be shared", name, other)
		}
		transports[binding.Transport] = name
	}
	want := map[string]inject.Carrier{"a": {Header: "Authorization"}, "b": {Query: "key"}, "c": {Header: "X-C"}, "d": {Header: "Authorization"}}
	if diff := cmp.Diff(want, carriers); diff != "" {
		t.Errorf("carriers (-want +got):\n%s", diff)
	}
}

// What does not change from one policy to the next is shared; what does is not.
func TestRebind(t *testing.T) {
	const policyText = "\ncredentials:\n  kept: {from: {env: {name: A}}, inject: {bearer: {}}}\n  %s\nroutes:\n" +
		"  - {name: kept, host: a.test, access: read-only, paths: [/**], credential: kept}\n" +
		"  - {name: other, host: b.test, access: read-only, paths: [/**], credential: other}\n"
	b := &binder{lookup: environment{"A=aaaaaaaa", "B=bbbbbbbb"}.lookup, recorder: &lateRecorder{}}
	first, err := b.bind(parsePolicy(t, fmt.Sprintf(policyText, "other: {from: {env: {name: B}}, inject: {bearer: {}}}")))
	if err != nil {
		t.Fatal(err)
	}
	for other, shared := range map[string]bool{
		"other: {from: {env: {name: B}}, inject: {bearer: {}}, prefetch: false}":     true,
		"other: {from: {env: {name: A}}, inject: {bearer: {}}}":                      false,
		"other: {from: {env: {name: B}}, inject: {header: {name: x-key}}}":           false,
		"other: {from: {exec: {command: [\"/bin/echo\", x]}}, inject: {bearer: {}}}": false,
	} {
		next, err := b.rebind(parsePolicy(t, fmt.Sprintf(policyText, other)), first)
		if err != nil {
			t.Fatal(err)
		}
		if next.Number != 2 || next.Plain != first.Plain || next.Bindings["kept"] != first.Bindings["kept"] || (next.Bindings["other"] == first.Bindings["other"]) != shared {
			t.Errorf("%s: generation %d, shared %v, want 2, %v", other, next.Number, next.Bindings["other"] == first.Bindings["other"], shared)
		}
		want := 1
		if shared {
			want = 0
		}
		if gone, fresh := first.without(next), next.without(first); len(gone) != want || len(fresh) != want {
			t.Errorf("%s: %d are gone and %d are new, want %d", other, len(gone), len(fresh), want)
		}
	}
}

func TestBindMistakes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		vault bool
		env   environment
		want  []string
	}{
		{"all there", true, environment{"B_KEY=x"}, nil},
		{"no Vault", false, environment{"B_KEY=x"}, []string{"policy.yaml:4:3: credentials.a.from: comes from Vault, and no vault.address is configured"}},
		{"not set", true, environment{"B_KEY_2=x"}, []string{"policy.yaml:5:3: credentials.b.from: environment variable B_KEY is not set"}},
		{"empty", true, environment{"B_KEY="}, []string{"policy.yaml:5:3: credentials.b.from: environment variable B_KEY is not set"}},
		{"all at once", false, nil, []string{
			"policy.yaml:4:3: credentials.a.from: comes from Vault, and no vault.address is configured",
			"policy.yaml:5:3: credentials.b.from: environment variable B_KEY is not set",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &binder{lookup: tc.env.lookup, recorder: &lateRecorder{}}
			if tc.vault {
				b.vault = newVaultSession(t)
			}
			got, err := b.bind(parsePolicy(t, fourSources))
			if (got == nil) != (tc.want != nil) {
				t.Errorf("bind returned %v with %v", got, err)
			}
			if diff := cmp.Diff(tc.want, mistakeLines(t, err)); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

// A source that policy.Parse would never let through is refused too.
func TestNoSource(t *testing.T) {
	b := &binder{lookup: environment{}.lookup}
	if _, src, err := b.source(policy.Credential{}); src != nil || err == nil {
		t.Errorf("source of nothing: %v, %v; want an error", src, err)
	}
}

// newVaultSession returns a session that has not logged in, and never does.
func newVaultSession(t *testing.T) *vault.Session {
	t.Helper()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := vault.New(vault.Config{
		Address: "http://127.0.0.1:8200", Auth: vault.Auth{Method: "token", TokenFile: tokenFile}, Log: zerolog.Nop(),
		Correlation: func(id string) string { return id },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mistakeLines returns the mistakes in err, without their hints. Any other error fails the test.
func mistakeLines(t *testing.T, err error) (lines []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	ms, ok := errors.AsType[policy.Mistakes](err)
	if !ok {
		t.Fatalf("%v is not a list of mistakes", err)
	}
	for _, m := range ms {
		m.Hint = ""
		lines = append(lines, m.String())
	}
	return lines
}
