package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/policy"
)

const libraryDir = "../../examples/policies/library"

// dangerous are requests at hosts that the library names, to which it must not say yes. A body
// stands behind the URL; those that begin with { are JSON.
var dangerous = []string{
	"DELETE https://api.github.com/repos/acme/app",
	"PATCH https://api.github.com/repos/acme/app",
	"PUT https://api.github.com/repos/acme/app/pulls/7/merge",
	"PUT https://api.github.com/repos/acme/app/contents/.github/workflows/ci.yaml",
	"PUT https://api.github.com/repos/acme/app/collaborators/eve",
	"POST https://api.github.com/repos/acme/app/keys",
	"POST https://api.github.com/repos/acme/app/hooks",
	"GET https://api.github.com/repos/acme/app/actions/secrets",
	"POST https://api.github.com/repos/acme/app/actions/runners/registration-token",
	"POST https://api.github.com/app/installations/1/access_tokens",
	"POST https://api.github.com/applications/1/token/scoped",
	`POST https://api.github.com/repos/acme/app/pulls/7/reviews {"event": "APPROVE"}`,
	"POST https://api.github.com/repos/acme/app/pulls/7/reviews event=APPROVE",
	`POST https://api.github.com/graphql {"query": "mutation { mergePullRequest(input: {}) { clientMutationId } }"}`,
	`POST https://api.github.com/graphql {"query": "mutation { resolveReviewThread(input: {}) { clientMutationId } deleteRef(input: {}) { clientMutationId } }"}`,
	"POST https://github.com/login/oauth/access_token",
	"POST https://github.com/acme/other.git/git-receive-pack",
	"GET https://github.com/acme/other.git/info/refs?service=git-receive-pack",
	"GET https://github.com/settings/tokens",
	"POST https://github.com/acme/app.git/info/lfs/objects/batch",
	"PUT https://gitlab.example.com/api/v4/projects/acme%2Fapp/merge_requests/7/merge",
	"POST https://gitlab.example.com/api/v4/projects/acme%2Fapp/access_tokens",
	"GET https://gitlab.example.com/api/v4/projects/42/variables",
	"DELETE https://gitlab.example.com/api/v4/projects/42",
	"POST https://gitlab.example.com/api/v4/users/1/personal_access_tokens",
	`POST https://gitlab.example.com/api/v4/projects/42/merge_requests/7/notes {"body": "/approve"}`,
	"POST https://gitlab.example.com/oauth/token",
	"GET https://api.openai.com/v1/organization/users",
	"POST https://api.openai.com/v1/organization/admin_api_keys",
	"POST https://api.openai.com/v1/organization/projects/p/service_accounts",
	"POST https://api.openai.com/v1/realtime/client_secrets",
	"GET https://api.openai.com/v1/files/f/content",
	"POST https://api.openai.com/v1/batches",
	"POST https://api.openai.com/v1/fine_tuning/jobs",
	"DELETE https://api.openai.com/v1/models/ft:x",
	"GET https://api.anthropic.com/v1/organizations/api_keys",
	"POST https://api.anthropic.com/v1/organizations/invites",
	"POST https://api.anthropic.com/v1/messages/batches",
	"POST https://slack.com/api/admin.users.invite",
	"GET https://slack.com/api/admin.teams.list",
	"POST https://slack.com/api/oauth.v2.access",
	"POST https://slack.com/api/auth.revoke",
	"POST https://slack.com/api/files.getUploadURLExternal",
	`POST https://slack.com/api/chat.postMessage {"channel": "C9999999999", "text": "hi"}`,
	"POST https://api.stripe.com/v1/payouts",
	"POST https://api.stripe.com/v1/transfers",
	"POST https://api.stripe.com/v1/accounts",
	"POST https://api.stripe.com/v1/ephemeral_keys",
	"DELETE https://api.stripe.com/v1/customers/cus_1",
	"POST https://api.stripe.com/v1/refunds charge=ch_1",
	"DELETE https://acme.atlassian.net/rest/api/3/issue/APP-7",
	"DELETE https://acme.atlassian.net/rest/api/3/project/APP",
	"POST https://acme.atlassian.net/rest/api/3/webhook",
	"PUT https://acme.atlassian.net/rest/api/3/permissionscheme/1",
	"POST https://pypi.org/_/oidc/mint-token",
	"POST https://pypi.org/manage/project/app/delete_project/",
	"POST https://registry.npmjs.org/-/npm/v1/tokens",
	"GET https://registry.npmjs.org/-/npm/v1/tokens",
	"POST https://registry.npmjs.org/-/npm/v1/oidc/token/exchange/package/@acme%2fui",
	"PUT https://registry.npmjs.org/-/user/org.couchdb.user:eve",
	"PUT https://registry.npmjs.org/@acme%2fui",
	"PUT https://registry.npmjs.org/-/package/@acme%2fui/dist-tags/latest",
	"PUT https://bedrock.us-east-1.amazonaws.com/logging/modelinvocations",
	"POST https://bedrock.us-east-1.amazonaws.com/model-customization-jobs",
	"GET https://acme-reports.s3.us-east-1.amazonaws.com/public/x",
	"DELETE https://acme-reports.s3.us-east-1.amazonaws.com/public/x?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=9&X-Amz-Signature=00",
	"PUT https://storage.googleapis.com/storage/v1/b/acme-data/iam",
	"DELETE https://storage.googleapis.com/storage/v1/b/acme-data",
	"POST https://storage.googleapis.com/storage/v1/projects/acme-prod/hmacKeys",
	"POST https://storage.googleapis.com/batch/storage/v1",
	`POST https://logging.googleapis.com/v2/entries:list {"resourceNames": ["organizations/1"]}`,
	"DELETE https://db.example.com/orders",
	`PATCH https://db.example.com/tickets {"status": "closed"}`,
	"GET https://db.example.com/orders?select=*,users(*)",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/secrets",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/secrets/db",
	"GET https://kubernetes.default.svc/api/v1/secrets",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/pods/web/exec?command=sh",
	"POST https://kubernetes.default.svc/api/v1/namespaces/agents/pods/web/exec?command=sh",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/pods/web/attach",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/pods/web/portforward",
	"GET https://kubernetes.default.svc/api/v1/namespaces/agents/pods/web/proxy/",
	"POST https://kubernetes.default.svc/api/v1/namespaces/agents/serviceaccounts/default/token",
	"POST https://kubernetes.default.svc/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"POST https://kubernetes.default.svc/api/v1/namespaces/agents/pods",
	"POST https://api.example.com/oauth2/token",
	"POST https://api.example.com/oauth/token",
}

// foreign are requests at hosts that no policy of the library may name at all.
var foreign = []string{
	"GET https://vault.example.com/v1/secret/data/agents/openai",
	"POST https://vault.example.com/v1/auth/token/create",
	"POST https://vault.vault.svc:8200/v1/sys/wrapping/unwrap",
	"GET https://sts.amazonaws.com/?Action=GetSessionToken",
	"POST https://sts.us-east-1.amazonaws.com/",
	"POST https://iam.amazonaws.com/",
	"POST https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a:generateAccessToken",
	"POST https://iam.googleapis.com/v1/projects/p/serviceAccounts/a/keys",
	"POST https://oauth2.googleapis.com/token",
	"GET https://secretmanager.googleapis.com/v1/projects/p/secrets/s/versions/latest:access",
	"GET https://uploads.github.com/",
	"GET https://webhook.site/",
}

type library map[string]*policy.Policy

// readLibrary returns the policies of the library by their files' names.
func readLibrary(t *testing.T) library {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(libraryDir, "*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no policies in %s: %v", libraryDir, err)
	}
	lib := library{}
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(name, src)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		lib[filepath.Base(name)] = p
	}
	return lib
}

func TestLibraryHasTests(t *testing.T) {
	for name, p := range readLibrary(t) {
		if want := strings.TrimSuffix(name, ".yaml"); p.Role() != want {
			t.Errorf("%s: role %s, want %s: they are unique if they are the files' names", name, p.Role(), want)
		}
		if p.Description() == "" || p.Mode() != policy.Enforce {
			t.Errorf("%s: no description, or mode %s", name, p.Mode())
		}
		for _, w := range p.Warnings() {
			t.Errorf("%s", w)
		}
		results := p.RunTests()
		allows, denies, routes := 0, 0, map[string]bool{}
		for _, r := range results {
			if !r.OK {
				t.Errorf("%s: %s: want %s, got %s", r.Where, r.Request, r.Want, r.Got)
			}
			if d := r.Explanation.Decision; d.Allow {
				allows++
				routes[d.Route.Name] = true
			} else {
				denies++
			}
		}
		if len(results) < 6 || allows < 1 || denies < 2 {
			t.Errorf("%s: %d tests, of which %d allow and %d deny; want 6, 1 and 2", name, len(results), allows, denies)
		}
		for _, r := range p.Routes() {
			if !routes[r.Name] {
				t.Errorf("%s: no test is allowed by route %s", name, r.Name)
			}
			if r.Reason == "" {
				t.Errorf("%s: route %s has no reason", name, r.Name)
			}
		}
	}
}

func TestLibraryDeniesWhatIsDangerous(t *testing.T) {
	lib := readLibrary(t)
	for _, s := range slices.Concat(dangerous, foreign) {
		r := libraryRequest(t, s)
		known := false
		for name, p := range lib {
			known = known || p.KnowsAuthority(r.Target.Scheme, r.Target.Authority)
			if p.Tunnel(r.Target.Authority) != nil {
				t.Errorf("%s: tunnels %s", name, r.Target.Authority)
			}
			for _, r.WebSocket = range []bool{false, true} {
				if d := p.Decide(r); d.Allow {
					t.Errorf("%s: route %s allows %s", name, d.Route.Name, s)
				}
			}
		}
		if known == slices.Contains(foreign, s) {
			t.Errorf("%s: that a policy knows the host is %t", s, known)
		}
	}
}

// libraryRequest reads "METHOD URL" or "METHOD URL BODY".
func libraryRequest(t *testing.T, s string) policy.Request {
	t.Helper()
	method, rest, _ := strings.Cut(s, " ")
	url, body, _ := strings.Cut(rest, " ")
	target, err := policy.ParseURL(url)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	r := policy.Request{Method: method, Target: target, Header: map[string][]string{}}
	switch {
	case strings.HasPrefix(body, "{"):
		r.Header["Content-Type"] = []string{"application/json"}
	case body != "":
		r.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
	case strings.HasSuffix(target.Path, "/git-receive-pack"):
		r.Header["Content-Type"] = []string{"application/x-git-receive-pack-request"}
	}
	if body != "" {
		r.Body = libraryBody(body)
	}
	return r
}

type libraryBody string

func (b libraryBody) Bytes() ([]byte, error) { return []byte(b), nil }

// tableRow finds the file of a row in the README's table.
var tableRow = regexp.MustCompile(`(?m)^\| \[([^\]]+)\]\(([^)]+)\) \|`)

func TestLibraryReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(libraryDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range tableRow.FindAllStringSubmatch(string(readme), -1) {
		if m[1] != m[2] {
			t.Errorf("the row of %s leads to %s", m[1], m[2])
		}
		rows = append(rows, m[1])
	}
	var files []string
	for name := range readLibrary(t) {
		files = append(files, name)
		src, err := os.ReadFile(filepath.Join(libraryDir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"# Allows: ", "# CHANGE: ", "# Vault: "} {
			if !strings.Contains(string(src), "\n"+line) {
				t.Errorf("%s: no line begins with %q", name, line)
			}
		}
	}
	slices.Sort(rows)
	slices.Sort(files)
	if !slices.Equal(rows, files) {
		t.Errorf("the README's table has %v, the library %v", rows, files)
	}
}
