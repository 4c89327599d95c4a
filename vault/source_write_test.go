package vault_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
)

func TestIssueByWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		var written []map[string]any
		srv.AddWrite("aws/sts/ci", 15*time.Minute, func(n int, data map[string]any) map[string]any {
			written = append(written, maps.Clone(data))
			return map[string]any{"access_key": "AKIA", "secret_key": canary, "security_token": canary + "-token", "n": n}
		})
		s := session(t, p)
		data := map[string]any{"ttl": "15m", "n": int64(7), "share": 0.5, "yes": true, "list": []string{"a", "b"}}
		src := s.Source(vault.SourceConfig{Path: "aws/sts/ci", Write: true, Data: data, Field: "secret_key", UserField: "access_key"})
		iss := issue(t, src)
		if v, u := string(iss.Value.Expose()), string(iss.User.Expose()); v != canary || u != "AKIA" || iss.Certificate != nil {
			t.Errorf("value of %d bytes, user %q, certificate %q", len(v), u, iss.Certificate)
		}
		if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != 15*time.Minute {
			t.Errorf("lives for %v", got)
		}
		issue(t, s.Source(vault.SourceConfig{Path: "aws/sts/ci", Write: true, Field: "secret_key"}))
		want := []map[string]any{{"ttl": "15m", "n": 7.0, "share": 0.5, "yes": true, "list": []any{"a", "b"}}, {}}
		if diff := cmp.Diff(want, written); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		revoke(t, src, iss)
		if live, revoked := srv.Leases(); len(live) != 1 || len(revoked) != 1 || revoked[0].ID != iss.Origin.LeaseID {
			t.Errorf("live %v, revoked %v", live, revoked)
		}
	})
}

// A write that Vault did, and that brought nothing, is not done again.
func TestWriteWithoutReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		srv.AddWrite("kv/x", 0, func(int, map[string]any) map[string]any { return nil })
		s := session(t, p)
		_, err := s.Source(vault.SourceConfig{Path: "kv/x", Write: true, Data: map[string]any{"a": "b"}, Field: "a"}).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "write kv/x: status 204 (the path gives nothing back)")
		if n := count(srv, "kv/x"); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
}

// A refusal names the path and what may be missing: for a 403 the line of the Vault policy.
func TestRefusalsHint(t *testing.T) {
	read := vault.SourceConfig{Path: "secret/data/x", Field: "f"}
	kv1 := vault.SourceConfig{Path: "secret/x", Field: "f"}
	write := vault.SourceConfig{Path: "aws/sts/x", Write: true, Field: "f"}
	jwt := vault.SourceConfig{Path: "transit/sign/x", JWT: &vault.JWTConfig{Algorithm: "RS256", TTL: time.Minute}}
	const gone = `{"data":{"data":null,"metadata":{"version":7,"destroyed":true}}}`
	for _, tt := range []struct {
		cfg    vault.SourceConfig
		status int
		body   string
		says   string
		silent string // what is not said
	}{
		{read, 403, "", `read secret/data/x: status 403: credential refused; hint: the session's Vault policy needs path "secret/data/x" { capabilities = ["read"] }`, ""},
		{write, 403, "", `path "aws/sts/x" { capabilities = ["update"] }`, ""},
		{jwt, 403, "", `path "transit/sign/x" { capabilities = ["update"] }`, ""},
		{read, 404, `{"errors":[]}`, "read secret/data/x: status 404: credential refused; hint: there is nothing at the path", "MOUNT/data"},
		{kv1, 404, `{"errors":[]}`, "KV version 2 is read at MOUNT/data/...", "deleted"},
		{write, 404, "", "there is nothing at the path", "MOUNT/data"},
		{read, 404, gone, "read secret/data/x: status 404: version 7 is deleted", "hint"},
		{read, 404, `{"data":{"data":{"f":"` + canary + `"},"metadata":{"version":7}}}`, "there is nothing at the path", "deleted"},
		{read, 404, "{" + canary, "there is nothing at the path", "malformed"},
		{read, 404, strings.Repeat(canary, 1<<17), "there is nothing at the path", "1 MiB"},
		{write, 400, "", "the role or key that the path ends in may not exist", ""},
		{kv1, 405, "", "it may want method: write", ""},
		{write, 405, "", "the path is not to be written", "method: write"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := s.Source(tt.cfg).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, tt.says)
			if err != nil && tt.silent != "" && strings.Contains(err.Error(), tt.silent) {
				t.Errorf("%q says %q", err, tt.silent)
			}
		})
	}
}

// A login that is refused in the course of a read gets no hint about the read.
func TestRefusedLoginIsNotExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.FailNext(403, 403) // the read, and the login after it
		_, err := kv(s).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "not logged in")
		if err != nil && strings.Contains(err.Error(), "capabilities") {
			t.Errorf("error %q", err)
		}
	})
}

// The values that come without a lease but say for how long they are good.
func TestIssueWithTTL(t *testing.T) {
	for _, tt := range []struct {
		path, data string
		lives      time.Duration
	}{
		{"identity/oidc/token/r", `{"v":"a","ttl":120}`, 2 * time.Minute},
		{"identity/oidc/token/r", `{"v":"a","ttl":86400}`, 24 * time.Hour},
		{"database/static-creds/r", `{"v":"a","ttl":3600}`, time.Hour},
		{"team/db/static-creds/r", `{"v":"a","ttl":0}`, time.Second}, // about to be rotated
		{"aws/static-creds/r", `{"v":"a"}`, 5 * time.Minute},
		{"kv/x", `{"v":"a","ttl":120}`, 5 * time.Minute}, // a field like any other
	} {
		synctest.Test(t, func(t *testing.T) {
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"data":`+tt.data+`}`) })
			iss := issue(t, s.Source(vault.SourceConfig{Path: tt.path, Field: "v"}))
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != tt.lives {
				t.Errorf("%s %s: lives for %v, want %v", tt.path, tt.data, got, tt.lives)
			}
			iss = issue(t, s.Source(vault.SourceConfig{Path: tt.path, Field: "v", MaxAge: time.Minute}))
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != min(tt.lives, time.Minute) {
				t.Errorf("%s %s: lives for %v with a maximum age of a minute", tt.path, tt.data, got)
			}
		})
	}
	for _, tt := range []struct {
		data string
		kind error
		says string
	}{
		{`{"v":"a"}`, credential.ErrUnavailable, "holds no TTL"},
		{`{"v":"a","ttl":"2m"}`, credential.ErrUnavailable, "holds no TTL"},
		{`{"v":"a","ttl":0}`, credential.ErrRefused, "expired already"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"data":`+tt.data+`}`) })
			_, err := s.Source(vault.SourceConfig{Path: "identity/oidc/token/r", Field: "v"}).Issue(t.Context(), "id")
			wantError(t, err, tt.kind, tt.says)
		})
	}
}

func TestIdentityToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		if err := srv.AddIdentityRole("reviewer", 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		iss := issue(t, session(t, p).Source(vault.SourceConfig{Path: "identity/oidc/token/reviewer", Field: "token"}))
		var claims struct{ Exp int64 }
		if err := json.Unmarshal(jwtPart(t, string(iss.Value.Expose()), 1), &claims); err != nil {
			t.Fatal(err)
		}
		if end := time.Unix(claims.Exp, 0); iss.ExpiresAt.After(end.Add(time.Second)) || end.Sub(iss.ExpiresAt) > time.Second {
			t.Errorf("expires %v, the token %v", iss.ExpiresAt, end)
		}
	})
}
