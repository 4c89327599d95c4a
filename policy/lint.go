package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// lintPath records what is wrong, or wide, about one path of a route with a credential.
func lintPath(r *Route, p pattern, path strictyaml.Value) {
	if r.Credential == "" || r.Host == "" {
		return
	}
	if e, what := mintedBy(r, p); e != nil && !r.AllowMinting {
		path.Wrong(fmt.Sprintf("matches %s, which returns a new credential to the agent", what),
			"narrow the paths or the methods, or write allow_minting: true")
		return
	}
	writes := slices.ContainsFunc(r.Methods, func(m string) bool { return !slices.Contains(accessMethods["read-only"], m) })
	switch {
	case writes && p.shape() == "/**":
		path.Warn("the credential may do anything on the host that it can do at all", "write the paths and methods that the role needs")
	case slices.Contains(r.Methods, "POST") && p.last() == "graphql" && r.GraphQL == nil:
		path.Warn("one path of GraphQL reads and writes everything: paths and methods say little here", "write graphql, or give the credential itself fewer rights")
	case slices.Contains(r.Methods, "POST") && p.batches():
		path.Warn("a batch carries requests to other paths, which are not decided: paths and methods say little here", "remove the path if the role can do without it")
	}
}

// last returns the exact segment that p ends in, and "" if it ends in another.
func (p pattern) last() string { return p[len(p)-1].text }

// batches reports whether p names an endpoint that takes many requests at once: /v1/batch,
// /v1.0/$batch, or Google's /batch/v1 and /batch/drive/v3.
func (p pattern) batches() bool {
	return p.last() == "batch" || p.last() == "$batch" || p[0].text == "batch"
}

// An endpoint is a place known to return new credentials to whoever has one.
type endpoint struct {
	// hosts are the hosts it is found at; a * stands for one label. Without hosts, it may be
	// found at any.
	hosts []string

	// labels are labels of which a host has one. They count as hosts do.
	labels []string

	// words are segments that a path must spell out to be taken for it where the host says
	// nothing; a wildcard would make an endpoint of every upstream.
	words []string

	// methods it answers to; nil means any.
	methods []string

	// paths it is found at: * is one segment, ** any number, *:x one that ends in :x.
	paths []string
}

var mint = []endpoint{
	{hosts: []string{"api.github.com"}, methods: []string{"POST"},
		paths: []string{"/app/installations/*/access_tokens"}},
	{hosts: []string{"api.github.com"}, methods: []string{"PATCH", "POST"},
		paths: []string{"/applications/*/token", "/applications/*/token/scoped"}},
	// Spelled out only: whoever may write to a repository as a whole has more than this.
	{hosts: []string{"api.github.com"}, words: []string{"runners"}, methods: []string{"POST"},
		paths: []string{"/**/actions/runners/registration-token", "/**/actions/runners/remove-token", "/**/actions/runners/generate-jitconfig"}},
	// GitLab is found at any host; its API's own words tell it.
	{words: []string{"api", "v4", "access_tokens"}, methods: []string{"POST"}, paths: []string{"/api/v4/**/access_tokens", "/api/v4/**/access_tokens/**"}},
	{words: []string{"api", "v4", "personal_access_tokens"}, methods: []string{"POST"}, paths: []string{"/api/v4/**/personal_access_tokens", "/api/v4/**/personal_access_tokens/**"}},
	{hosts: []string{"gitlab.com"}, methods: []string{"POST"},
		paths: []string{"/api/v4/**/access_tokens", "/api/v4/**/personal_access_tokens", "/api/v4/**/deploy_tokens"}},
	{hosts: []string{"registry.npmjs.org"}, methods: []string{"POST"}, paths: []string{"/-/npm/v1/tokens"}},
	{hosts: []string{"registry.npmjs.org"}, methods: []string{"PUT"}, paths: []string{"/-/user/*"}},
	{hosts: []string{"pypi.org", "upload.pypi.org"}, methods: []string{"POST"}, paths: []string{"/_/oidc/mint-token"}},
	{hosts: []string{"api.stripe.com"}, methods: []string{"POST"}, paths: []string{"/v1/ephemeral_keys"}},
	{hosts: []string{"slack.com"}, methods: []string{"GET", "POST"},
		paths: []string{"/api/oauth.access", "/api/oauth.v2.access", "/api/oauth.v2.exchange", "/api/openid.connect.token", "/api/tooling.tokens.rotate"}},
	{hosts: []string{"iam.googleapis.com"}, methods: []string{"POST"}, paths: []string{"/v1/projects/*/serviceAccounts/*/keys"}},
	// The Query API of AWS takes its action from the query of a GET, too.
	{hosts: []string{"sts.amazonaws.com", "sts.*.amazonaws.com", "sts-fips.*.amazonaws.com", "sts.*.amazonaws.com.cn"},
		methods: []string{"GET", "POST"}, paths: []string{"/**"}},
	{hosts: []string{"api.ecr.*.amazonaws.com", "api.ecr-public.*.amazonaws.com", "api.ecr.*.amazonaws.com.cn"},
		methods: []string{"POST"}, paths: []string{"/"}},
	{hosts: []string{"iamcredentials.googleapis.com"}, methods: []string{"POST"},
		paths: []string{"/**/*:generateAccessToken", "/**/*:generateIdToken", "/**/*:signJwt", "/**/*:signBlob"}},
	{hosts: []string{"api.openai.com"}, methods: []string{"POST"},
		paths: []string{"/v1/realtime/sessions", "/v1/realtime/client_secrets", "/v1/realtime/transcription_sessions"}},
	{hosts: []string{"api.openai.com"}, methods: []string{"POST"},
		paths: []string{"/v1/organization/admin_api_keys", "/v1/organization/projects/*/service_accounts"}},
	{labels: []string{"kubernetes"}, methods: []string{"POST"},
		paths: []string{"/api/v1/namespaces/*/serviceaccounts/*/token"}},
	{words: []string{"namespaces"}, methods: []string{"POST"},
		paths: []string{"/api/v1/namespaces/*/serviceaccounts/*/token"}},
	{labels: []string{"vault", "openbao"},
		paths: []string{"/v1/auth/**", "/v1/sys/**"}},
	{words: []string{"oauth"}, methods: []string{"POST"},
		paths: []string{"/**/oauth/token", "/**/login/oauth/access_token"}},
	{words: []string{"oauth2"}, methods: []string{"POST"},
		paths: []string{"/**/oauth2/token", "/**/oauth2/v2.0/token"}},
}

// mintedBy returns the first endpoint that r reaches by p, and words for it; nil if none.
func mintedBy(r *Route, p pattern) (e *endpoint, what string) {
	for i := range mint {
		e := &mint[i]
		if !e.coversHost(r.Host) || !p.spells(e) {
			continue
		}
		for _, method := range r.Methods {
			if e.methods != nil && !slices.Contains(e.methods, method) {
				continue
			}
			for _, path := range e.paths {
				if p.meets(strings.Split(path[1:], "/")) {
					return e, fmt.Sprintf("%s %s", method, path)
				}
			}
		}
	}
	return nil, ""
}

// coversHost reports whether e may be found at host, which may be a route's wildcard.
func (e *endpoint) coversHost(host string) bool {
	labels := strings.Split(host, ".")
	if slices.ContainsFunc(e.labels, func(l string) bool { return slices.Contains(labels, l) }) {
		return true
	}
	if slices.ContainsFunc(e.hosts, func(h string) bool { return labelsMeet(strings.Split(h, "."), labels) }) {
		return true
	}
	return e.labels == nil && e.hosts == nil
}

// labelsMeet reports whether two hosts with a * for some labels have a host in common.
func labelsMeet(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && a[i] != "*" && b[i] != "*" {
			return false
		}
	}
	return true
}

// spells reports whether p has every word of e as an exact segment.
func (p pattern) spells(e *endpoint) bool {
	return !slices.ContainsFunc(e.words, func(w string) bool { return !slices.Contains(p, element{exactSegment, w}) })
}

// meets reports whether there is a path that p and the path of an endpoint both match.
func (p pattern) meets(path []string) bool {
	switch {
	case len(p) == 0:
		return !slices.ContainsFunc(path, func(s string) bool { return s != "**" })
	case p[0].kind == anySegments:
		return p[1:].meets(path) || len(path) > 0 && p.meets(path[1:])
	case len(path) == 0:
		return false
	case path[0] == "**":
		return p.meets(path[1:]) || p[1:].meets(path)
	}
	return p[0].meetsSegment(path[0]) && p[1:].meets(path[1:])
}

// meetsSegment reports whether there is a segment that e and a segment of an endpoint, which is
// not **, both match.
func (e element) meetsSegment(s string) bool {
	if e.kind == anySegment {
		return s != ""
	}
	if suffix, ok := strings.CutPrefix(s, "*"); ok {
		return len(e.text) > len(suffix) && strings.HasSuffix(e.text, suffix)
	}
	return e.text == s
}
