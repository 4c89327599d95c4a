package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLooksLikeCredential(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		want        bool
	}{
		// by a word of the name
		{"GITHUB_TOKEN", "x", true},
		{"GH_TOKEN", "x", true},
		{"github_token", "x", true},
		{"ACTIONS_ID_TOKEN_REQUEST_URL", "https://example.com/", true},
		{"AZURE_CLIENT_SECRET", "x", true},
		{"PASSWORD", "x", true},
		{"DB_PASSWD", "x", true},
		{"DB_PASS", "x", true},
		{"DB_PWD", "x", true},
		{"BORG_PASSPHRASE", "x", true},
		{"GOOGLE_APPLICATION_CREDENTIALS", "/home/a/key.json", true},
		{"OPENAI_APIKEY", "x", true},
		{"GITHUB_PAT", "x", true},
		{"DOCKER_AUTH_CONFIG", "{}", true},
		{"NPM_CONFIG__AUTH", "x", true},
		{"SENTRY_DSN", "x", true},
		{"KUBECONFIG", "/home/a/.kube/config", true},
		{"NETRC", "/home/a/.netrc", true},
		{"PGPASSWORD", "x", true},
		{"PGPASSFILE", "/home/a/.pgpass", true},
		{"SESSION_COOKIE", "x", true},

		// by two words
		{"OPENAI_API_KEY", "x", true},
		{"ANTHROPIC_API_KEY", "x", true},
		{"AWS_SECRET_ACCESS_KEY", "x", true},
		{"AWS_ACCESS_KEY_ID", "x", true},
		{"TLS_PRIVATE_KEY", "x", true},
		{"RAILS_MASTER_KEY", "x", true},
		{"AZURE_STORAGE_CONNECTION_STRING", "x", true},
		{"DATABASE_URL", "postgres://db.example/app", true},
		{"REDIS_URL", "redis://cache.example/0", true},

		// by how the name begins, or by the whole of it
		{"VAULT_ADDR", "https://vault.example:8200", true},
		{"BAO_NAMESPACE", "x", true},
		{"SIDEKEY_POLICY", "policy.yaml", true},
		{"AWS_SESSION_TOKEN", "x", true},
		{"AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/x", true},
		{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/", true},
		{"SSH_AUTH_SOCK", "/tmp/ssh/agent.7", true},
		{"SSH_AGENT_PID", "7", true},
		{"GPG_AGENT_INFO", "/run/user/1000/gnupg", true},
		{"MYSQL_PWD", "x", true},
		{"DOCKER_CONFIG", "/home/a/.docker", true},

		// by the value, whatever the name
		{"X", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", true},
		{"X", "gho_abcdefghijklmnopqrstuvwxyz0123456789", true},
		{"X", "github_pat_11AAAAAAA0abcdefghij_klmnopqrstuv", true},
		{"X", "glpat-abcdefghij0123456789", true},
		{"X", "sk-ant-api03-abcdefghijklmnop", true},
		{"X", "sk_live_abcdefghijklmnop", true},
		{"X", "xoxb-123456789012-abcdefghijkl", true},
		{"X", "AKIAIOSFODNN7EXAMPLE", true},
		{"X", "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234", true},
		{"X", "ya29.a0AfH6SMBabcdefghij", true},
		{"X", "hvs.CAESIJabcdefghijklmnop", true},
		{"X", "npm_abcdefghijklmnopqrstuvwxyz0123456789", true},
		{"X", "pypi-AgEIcHlwaS5vcmcabcdefghij", true},
		{"X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", true},
		{"X", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", true},
		{"X", "\n-----BEGIN PRIVATE KEY-----\nMIIE", true},
		{"X", "postgres://app:hunter2@db.example/app", true},
		{"X", "https://bot:hunter2@registry.example/simple", true},
		{"BACKEND", "redis://:hunter2@cache.example:6379/0", true},

		// not by a name that only sounds like it
		{"PWD", "/home/a", false},
		{"OLDPWD", "/home", false},
		{"XAUTHORITY", "/home/a/.Xauthority", false},
		{"COLORTERM", "truecolor", false},
		{"PATH", "/usr/bin:/bin", false},
		{"MONKEY", "banana", false},
		{"LESSKEY", "/home/a/.less", false},
		{"KEYBOARD_LAYOUT", "us", false},
		{"PUBLIC_KEY", "ssh-ed25519 AAAAC3Nza", false},
		{"TOKENIZERS_PARALLELISM", "false", false},
		{"PASSENGER_APP_ENV", "production", false},
		{"COMPASS", "north", false},
		{"GIT_AUTHOR_NAME", "Alice", false},
		{"SECRETARY", "Bob", false},
		{"AWS_REGION", "eu-central-1", false},
		{"AWS_PROFILE", "dev", false},
		{"SSH_CONNECTION", "192.0.2.1 5022 192.0.2.2 22", false},
		{"DATABASE_HOST", "db.example", false},
		{"HOME", "/home/a", false},
		{"", "", false},

		// nor by a value
		{"X", "", false},
		{"LANG", "sk_SK.UTF-8", false},
		{"TZ", "Asia/Tokyo", false},
		{"X", "https://example.com/a?b=c", false},
		{"X", "https://alice@example.com/", false},
		{"X", "a:b@c", false},
		{"X", "-----BEGIN CERTIFICATE-----\nMIIB", false},
		{"X", "eyJ", false},
		{"X", "%zz://", false},
	} {
		if got := looksLikeCredential(tc.name, tc.value); got != tc.want {
			t.Errorf("looksLikeCredential(%q, %q) = %t, want %t", tc.name, tc.value, got, tc.want)
		}
	}
}

func TestScrub(t *testing.T) {
	set := []variable{{"HTTP_PROXY", "http://127.0.0.1:1"}, {"EMPTY", ""}}
	for _, tc := range []struct {
		name                 string
		environ, keep        []string
		wantEnv, wantRemoved []string
	}{
		{"nothing there", nil, nil, nil, nil},
		{"order is kept", []string{"B=1", "A=2"}, nil, []string{"B=1", "A=2"}, nil},
		{"the removed are sorted", []string{"Z_TOKEN=1", "A=2", "B_TOKEN=3"}, nil, []string{"A=2"}, []string{"B_TOKEN", "Z_TOKEN"}},
		{"kept by name", []string{"A_TOKEN=1", "B_TOKEN=2"}, []string{"A_TOKEN"}, []string{"A_TOKEN=1"}, []string{"B_TOKEN"}},
		{"kept by the exact name", []string{"A_TOKEN=1"}, []string{"a_token", "A"}, nil, []string{"A_TOKEN"}},
		{"the rest of a value is its own", []string{"A=x=y=z", "B="}, nil, []string{"A=x=y=z", "B="}, nil},
		{"what is set replaces", []string{"HTTP_PROXY=http://a:b@old.example", "A=1"}, nil, []string{"A=1"}, nil},
		{"keep does not keep what is set", []string{"HTTP_PROXY=old"}, []string{"HTTP_PROXY"}, nil, nil},
		{"other case is another variable", []string{"Http_Proxy=old"}, nil, []string{"Http_Proxy=old"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := slices.Clone(tc.environ)
			env, removed := scrub(tc.environ, tc.keep, set)
			wantEnv := append(slices.Clone(tc.wantEnv), "HTTP_PROXY=http://127.0.0.1:1", "EMPTY=")
			if diff := cmp.Diff(wantEnv, env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantRemoved, removed); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.environ); diff != "" {
				t.Errorf("the argument changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestDropSources(t *testing.T) {
	pol := parsePolicy(t, `
credentials:
  a: {from: {env: {name: MINE}}, inject: {bearer: {}}}
  b: {from: {file: {path: /run/b}}, inject: {bearer: {}}}
  c: {from: {env: {name: GITHUB_TOKEN}}, inject: {bearer: {}}}
routes:
  - {name: a, host: a.example.com, access: read-only, paths: [/a], credential: a}
  - {name: b, host: b.example.com, access: read-only, paths: [/b], credential: b}
  - {name: c, host: c.example.com, access: read-only, paths: [/c], credential: c}
`)
	env, removed := dropSources([]string{"MINE=1", "MINER=2", "A=MINE=1"}, []string{"GITHUB_TOKEN", "Z_TOKEN"}, pol)
	if diff := cmp.Diff([]string{"MINER=2", "A=MINE=1"}, env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"GITHUB_TOKEN", "MINE", "Z_TOKEN"}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

// What a first user found to get through, or to be removed for nothing.
func TestLooksLikeCredentialFoundInUse(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"ORIGIN", "https://ghp_abcdefghijklmnop@github.com/a.git", true},
		{"GIT_CONFIG_VALUE_0", "AUTHORIZATION: basic eC1hY2Nlc3M6dG9r", true},
		{"ANY", "Bearer ghp_abcdefghijklmnop", true},
		{"ANY", `"ghp_abcdefghijklmnop"`, true},
		{"OTEL_EXPORTER_OTLP_HEADERS", "api-key=abc", true},
		{"PG", "host=db password=x", true},
		{"MYSQL", "app:pw@tcp(db:3306)/x", true},
		{"OPENAI_KEY", "x", true},
		{"STRIPE_KEY", "x", true},
		{"GITHUBTOKEN", "x", true},
		{"DBPASSWORD", "x", true},
		{"MY-API-KEY", "x", true},
		{"npm_config_//host/:_authToken", "x", true},
		{"GIT_ASKPASS", "/x", true},
		{"SSH_PUBLIC_KEY", "ssh-ed25519 AAAA", false},
		{"MAX_THINKING_TOKENS", "31999", false},
		{"CLAUDE_CODE_MAX_OUTPUT_TOKENS", "64000", false},
		{"NO_AUTH", "1", false},
		{"PASS_THROUGH", "1", false},
		{"LIB", "sk-learn", false},
		{"REGION", "ASIA-EAST1", false},
		{"URL", "https://user@host.example/x", false},
	} {
		if got := looksLikeCredential(tt.name, tt.value); got != tt.want {
			t.Errorf("looksLikeCredential(%q, %.12q) = %v", tt.name, tt.value, got)
		}
	}
}
