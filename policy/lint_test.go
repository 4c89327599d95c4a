package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/policy"
)

// credentialed is a policy with one route that carries a credential.
func credentialed(host, methods, path, more string) string {
	return fmt.Sprintf(`
version: 1
role: lint
credentials:
  c: {from: {env: {name: A}}, inject: {bearer: {}}}
routes:
  - {name: r, host: %q, %s, paths: [%q], credential: c%s}
`, host, methods, path, more)
}

// TestMinting: a route with a credential that can reach an endpoint known to return new ones
// does not load, and the mistake names the endpoint.
func TestMinting(t *testing.T) {
	const (
		post, write, read = "methods: [POST]", "access: read-write", "access: read-only"
		app               = "POST /app/installations/*/access_tokens"
	)
	for _, tt := range []struct{ host, methods, path, want string }{
		{"api.github.com", post, "/app/installations/7/access_tokens", app},
		{"api.github.com", post, "/app/installations/{id}/access_tokens", app},
		{"api.github.com", post, "/app/installations/{id}/{what}", app},
		{"api.github.com", post, "/app/**", app},
		{"api.github.com", post, "/**", app},
		{"api.github.com", write, "/**", app},
		{"api.github.com", post, "/**/access_tokens", app},
		{"api.github.com", post, "/{a}/**/{b}", app},
		{"api.github.com", post, "/app/installations/**/access_tokens", app},
		{"api.github.com:8443", post, "/**", app},
		{"*.github.com", post, "/**", app},
		{"api.github.com", "methods: [PATCH]", "/applications/{id}/token", "PATCH /applications/*/token"},
		{"api.github.com", post, "/applications/{id}/token/{x}", "POST /applications/*/token/scoped"},
		{"api.github.com", read, "/**", ""},
		{"api.github.com", "methods: [PUT]", "/app/**", ""},
		{"api.github.com", post, "/app/installations/7/access_tokens/", ""},
		{"api.github.com", post, "/app/installations/access_tokens", ""},
		{"api.github.com", post, "/app/installations/7", ""},
		{"api.github.com", post, "/repos/**", ""},
		{"api.github.com", post, "/**/comments", ""},
		{"api.github.example", post, "/**", ""},

		{"sts.amazonaws.com", post, "/", "POST /**"},
		{"sts.eu-central-1.amazonaws.com", post, "/x", "POST /**"},
		{"sts.eu-central-1.amazonaws.com", read, "/", "GET /**"},
		{"*.eu-central-1.amazonaws.com", post, "/x", "POST /**"},
		{"s3.eu-central-1.amazonaws.com", post, "/x", ""},
		{"api.ecr.eu-central-1.amazonaws.com", post, "/", "POST /"},
		{"api.ecr.eu-central-1.amazonaws.com", post, "/**", "POST /"},
		{"api.ecr.eu-central-1.amazonaws.com", post, "/x", ""},
		{"api.ecr.eu-central-1.amazonaws.com", post, "/*", ""},

		{"iamcredentials.googleapis.com", post, "/v1/projects/-/serviceAccounts/*", "POST /**/*:generateAccessToken"},
		{"iamcredentials.googleapis.com", post, "/v1/projects/-/serviceAccounts/a@b.example:generateIdToken", "POST /**/*:generateIdToken"},
		{"iamcredentials.googleapis.com", post, "/v1/projects/-/serviceAccounts/a@b.example:signJwt", "POST /**/*:signJwt"},
		{"iamcredentials.googleapis.com", post, "/**/a:signBlob", "POST /**/*:signBlob"},
		{"iamcredentials.googleapis.com", post, "/v1/x:other", ""},
		{"iamcredentials.googleapis.com", post, "/:signBlob", ""},

		{"api.openai.com", post, "/v1/**", "POST /v1/realtime/sessions"},
		{"api.openai.com", post, "/v1/realtime/client_secrets", "POST /v1/realtime/client_secrets"},
		{"api.openai.com", post, "/v1/responses", ""},

		{"api.github.com", post, "/repos/acme/app/actions/runners/*", "POST /**/actions/runners/registration-token"},
		{"git.example.com", post, "/api/v4/projects/*/access_tokens", "POST /api/v4/**/access_tokens"},
		{"git.example.com", post, "/api/v4/projects/1/notes", ""},
		{"gitlab.com", post, "/api/v4/projects/*/**", "POST /api/v4/**/access_tokens"},
		{"registry.npmjs.org", post, "/-/npm/v1/*", "POST /-/npm/v1/tokens"},
		{"api.stripe.com", post, "/v1/*", "POST /v1/ephemeral_keys"},
		{"slack.com", post, "/api/*", "POST /api/oauth.access"},
		{"slack.com", post, "/api/chat.postMessage", ""},
		{"iam.googleapis.com", post, "/v1/projects/p/serviceAccounts/s/keys", "POST /v1/projects/*/serviceAccounts/*/keys"},
		{"api.openai.com", post, "/v1/organization/admin_api_keys", "POST /v1/organization/admin_api_keys"},

		{"k8s.example.com", post, "/api/v1/namespaces/dev/serviceaccounts/bot/token", "POST /api/v1/namespaces/*/serviceaccounts/*/token"},
		{"k8s.example.com", post, "/api/v1/namespaces/dev/**", "POST /api/v1/namespaces/*/serviceaccounts/*/token"},
		{"k8s.example.com", post, "/api/v1/namespaces/dev/pods", ""},
		{"k8s.example.com", read, "/api/v1/namespaces/dev/**", ""},
		{"kubernetes.default.svc", post, "/api/**", "POST /api/v1/namespaces/*/serviceaccounts/*/token"},

		{"vault.example.com:8200", read, "/v1/auth/token/lookup-self", "GET /v1/auth/**"},
		{"vault.example.com:8200", read, "/v1/**", "GET /v1/auth/**"},
		{"a.openbao.svc", "methods: [PUT]", "/v1/sys/wrapping/unwrap", "PUT /v1/sys/**"},
		{"vault.example.com", read, "/v1/secret/**", ""},
		{"vaults.example.com", read, "/v1/auth/**", ""},

		{"id.example.com", post, "/oauth/token", "POST /**/oauth/token"},
		{"id.example.com", post, "/a/b/oauth/token", "POST /**/oauth/token"},
		{"id.example.com", post, "/oauth/*", "POST /**/oauth/token"},
		{"id.example.com", post, "/oauth2/**", "POST /**/oauth2/token"},
		{"id.example.com", post, "/{tenant}/oauth2/v2.0/token", "POST /**/oauth2/v2.0/token"},
		{"id.example.com", post, "/login/oauth/access_token", "POST /**/login/oauth/access_token"},
		{"id.example.com", read, "/oauth/token", ""},
		{"id.example.com", post, "/oauth/token/x", ""},
		{"id.example.com", post, "/oauth/apps", ""},
		// What could be any upstream's is no one's: a warning says that it is wide.
		{"id.example.com", write, "/**", ""},
	} {
		src := credentialed(tt.host, tt.methods, tt.path, "")
		_, err := policy.Parse("p.yaml", []byte(src))
		var ms policy.Mistakes
		errors.As(err, &ms)
		got := ""
		if len(ms) == 1 {
			got = ms[0].Path + ": " + ms[0].Msg + "; " + ms[0].Hint
		}
		want := ""
		if tt.want != "" {
			want = "routes[0].paths[0]: matches " + tt.want + ", which returns a new credential to the agent; narrow the paths or the methods, or write allow_minting: true"
		}
		if got != want || len(ms) > 1 {
			t.Errorf("%s, %s, %s (-got +want)\n%s", tt.host, tt.methods, tt.path, cmp.Diff(got, want))
		}
		if _, err := policy.Parse("p.yaml", []byte(strings.Replace(src, "credential: c", "credential: c, allow_minting: true", 1))); err != nil {
			t.Errorf("%s, %s, %s with allow_minting: %v", tt.host, tt.methods, tt.path, err)
		}
	}
}

func TestMintingNeedsACredential(t *testing.T) {
	mustParse(t, `
version: 1
role: lint
routes:
  - {name: r, host: api.github.com, access: read-write, paths: ["/**"]}
`)
}

func TestWarnings(t *testing.T) {
	const (
		wide    = "the credential may do anything on the host that it can do at all; write the paths and methods that the role needs"
		graphql = "one path of GraphQL reads and writes everything: paths and methods say little here; write graphql, or give the credential itself fewer rights"
		batch   = "a batch carries requests to other paths, which are not decided: paths and methods say little here; remove the path if the role can do without it"
		under   = "the credential goes to every name under example.com; write the hosts that need it"
	)
	for _, tt := range []struct{ host, methods, path, want string }{
		{"a.example.com", "access: read-write", "/**", "paths[0]: " + wide},
		{"a.example.com", "methods: [MKCOL]", "/**", "paths[0]: " + wide},
		{"a.example.com", "methods: [GET, POST]", "/**", "paths[0]: " + wide},
		{"a.example.com", "access: read-only", "/**", ""},
		{"a.example.com", "methods: [GET, HEAD]", "/**", ""},
		{"a.example.com", "access: read-write", "/x/**", ""},
		{"a.example.com", "methods: [POST]", "/api/graphql", "paths[0]: " + graphql},
		{"a.example.com", "methods: [POST]", "/graphql", "paths[0]: " + graphql},
		{"a.example.com", "methods: [GET]", "/graphql", ""},
		{"a.example.com", "methods: [POST]", "/graphql/x", ""},
		{"a.example.com", "methods: [POST]", "/v1/batch", "paths[0]: " + batch},
		{"a.example.com", "methods: [POST]", "/v1.0/$batch", "paths[0]: " + batch},
		{"a.example.com", "methods: [POST]", "/batch/v1", "paths[0]: " + batch},
		{"a.example.com", "methods: [POST]", "/batch/drive/**", "paths[0]: " + batch},
		{"a.example.com", "methods: [GET]", "/v1/batch", ""},
		{"a.example.com", "methods: [POST]", "/apis/batch/v1/jobs", ""},
		{"*.example.com", "access: read-only", "/x", "host: " + under},
	} {
		var got []string
		for _, m := range mustParse(t, credentialed(tt.host, tt.methods, tt.path, "")).Warnings() {
			got = append(got, strings.TrimPrefix(m.Path, "routes[0].")+": "+m.Msg+"; "+m.Hint)
		}
		if diff := cmp.Diff(strings.Join(got, "\n"), tt.want); diff != "" {
			t.Errorf("%s, %s, %s (-got +want)\n%s", tt.host, tt.methods, tt.path, diff)
		}
		bare := strings.Replace(credentialed(tt.host, tt.methods, tt.path, ""), ", credential: c", "", 1)
		bare = strings.Replace(bare, "credentials:\n  c: {from: {env: {name: A}}, inject: {bearer: {}}}\n", "", 1)
		if ms := mustParse(t, bare).Warnings(); ms != nil {
			t.Errorf("%s, %s, %s without a credential: %v", tt.host, tt.methods, tt.path, ms)
		}
	}
}

func TestWarningsAreInFileOrder(t *testing.T) {
	p := mustParse(t, `
version: 1
role: lint
routes:
  - {name: a, host: "*.example.com", credential: q, access: read-write, paths: [/x, "/**"]}
  - {name: b, host: b.example.com, access: read-only, paths: ["/**"]}
credentials:
  q: {from: {env: {name: A}}, inject: {query: {name: key}}}
`)
	var got []string
	for _, m := range p.Warnings() {
		got = append(got, m.Where+" "+m.Path)
	}
	want := []string{"p.yaml:5:21 routes[0].host", "p.yaml:5:85 routes[0].paths[1]", "p.yaml:8:47 credentials.q.inject.query"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	p.Warnings()[0].Msg = "changed"
	if p.Warnings()[0].Msg == "changed" {
		t.Error("the caller changed the policy")
	}
	if ms := new(policy.Policy).Warnings(); ms != nil {
		t.Errorf("zero Policy: %v", ms)
	}
}
