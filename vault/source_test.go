package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

func TestIssueFromKV2(t *testing.T) {
	srv := vaulttest.Start(t)
	srv.AddAppRole("approle", "reviewer", canary+"-secret-id", time.Hour)
	srv.PutKV(kvPath, map[string]any{"api_key": "old"})
	srv.PutKV(kvPath, map[string]any{"api_key": canary, "user": "u1", "pin": 12345678901234567})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg := appRole(t, srv.URL())
	cfg.Now = func() time.Time { return now }
	calls := 0
	cfg.Correlation = func(id string) string { calls++; return fmt.Sprintf("sk1.%s.%d", id, calls) }
	s := open(t, cfg)
	login(t, s)
	iss := issue(t, s.Source(vault.SourceConfig{Path: kvPath, Field: "api_key", UserField: "user"}))
	record := srv.Requests()[len(srv.Requests())-1]

	if v, u := string(iss.Value.Expose()), string(iss.User.Expose()); v != canary || u != "u1" {
		t.Errorf("value %q, user %q", v, u)
	}
	want := credential.Origin{
		Kind: "vault", Path: kvPath, RequestID: record.ID, CorrelationID: record.CorrelationID, Version: 2,
	}
	if d := cmp.Diff(want, iss.Origin); d != "" || !strings.HasPrefix(record.CorrelationID, "sk1.id.") {
		t.Errorf("origin differs from Vault's record (-want +got):\n%s", d)
	}
	if !iss.IssuedAt.Equal(now) || !iss.ExpiresAt.Equal(now.Add(5*time.Minute)) {
		t.Errorf("issued %v, expires %v", iss.IssuedAt, iss.ExpiresAt)
	}
	pin := issue(t, s.Source(vault.SourceConfig{Path: kvPath, Field: "pin", MaxAge: time.Hour}))
	if got := string(pin.Value.Expose()); got != "12345678901234567" || !pin.ExpiresAt.Equal(now.Add(time.Hour)) {
		t.Errorf("value %q, expires %v", got, pin.ExpiresAt)
	}
	before := len(srv.Requests())
	revoke(t, kv(s), iss) // there is no lease
	if n := len(srv.Requests()); n != before {
		t.Errorf("revoking made %d calls", n-before)
	}
	printed := fmt.Sprintf("%v %+v %#v %+v %#v", iss, iss, iss, s, s)
	if strings.Contains(printed, canary) || strings.Contains(printed, "hvs.") {
		t.Errorf("printed: %s", printed)
	}
}

func TestIssueWithLease(t *testing.T) {
	srv := vaulttest.Start(t)
	srv.AddAppRole("approle", "reviewer", canary+"-secret-id", time.Hour)
	srv.AddDynamic(dynPath, 10*time.Minute, func(n int) map[string]string {
		return map[string]string{"token": fmt.Sprint(canary, n)}
	})
	s := open(t, appRole(t, srv.URL()))
	login(t, s)
	src := dynamic(s)
	first, second := issue(t, src), issue(t, src)
	if a, b := string(first.Value.Expose()), string(second.Value.Expose()); a != canary+"1" || b != canary+"2" {
		t.Errorf("values %q, %q", a, b)
	}
	if got := first.ExpiresAt.Sub(first.IssuedAt); got != 10*time.Minute {
		t.Errorf("lives for %v", got)
	}
	revoke(t, src, first)
	revoke(t, src, first)
	live, revoked := srv.Leases()
	if len(live) != 1 || live[0].ID != second.Origin.LeaseID || len(revoked) != 1 || revoked[0].ID != first.Origin.LeaseID {
		t.Errorf("live %v, revoked %v", live, revoked)
	}
	path := "sys/leases/revoke/" + first.Origin.LeaseID
	if got := count(srv, path); got != 1 {
		t.Errorf("%d calls of %s, want 1", got, path)
	}
}

// One row is a reply to a read, and what becomes of it. The token lives for an hour.
func TestIssueReplies(t *testing.T) {
	src := vault.SourceConfig{Path: "a/b", Field: "f"}
	aged := vault.SourceConfig{Path: "a/b", Field: "f", MaxAge: 2 * time.Minute}
	user := vault.SourceConfig{Path: "a/b", Field: "f", UserField: "u"}
	for _, tt := range []struct {
		cfg   vault.SourceConfig
		body  string
		value string
		age   time.Duration
	}{
		{src, `{"data":{"f":"v"}}`, "v", 5 * time.Minute},
		{aged, `{"data":{"f":"v"}}`, "v", 2 * time.Minute},
		{src, `{"data":{"f":"v\n"}}`, "v", 5 * time.Minute},
		{src, `{"data":{"f":"v\r\n"}}`, "v", 5 * time.Minute},
		{src, `{"data":{"f":1.50}}`, "1.50", 5 * time.Minute},
		{src, `{"data":{"f":"v"},"lease_duration":2764800}`, "v", 5 * time.Minute}, // KV v1's advice
		{src, `{"data":{"f":"v"},"lease_duration":60}`, "v", time.Minute},
		{src, `{"data":{"f":"v"},"lease_id":"l/1","lease_duration":900}`, "v", 15 * time.Minute},
		{aged, `{"data":{"f":"v"},"lease_id":"l/1","lease_duration":900}`, "v", 2 * time.Minute},
		{src, `{"data":{"f":"v"},"lease_id":"l/1","lease_duration":7200}`, "v", time.Hour}, // dies with the token
		{src, `{"data":{"f":"v"},"lease_id":"l/1","lease_duration":99999999999999}`, "v", time.Hour},
		{src, `{"data":{"data":{"f":"v"},"metadata":{"version":3}}}`, "v", 5 * time.Minute},
		{src, `{"data":{"data":{"f":"w"},"metadata":{},"f":"v"}}`, "v", 5 * time.Minute}, // KV v1 that looks alike
		{src, `{"data":{"data":"w","metadata":{"version":3},"f":"v"}}`, "v", 5 * time.Minute},
		{user, `{"data":{"f":"v","u":"w"}}`, "v", 5 * time.Minute},
		{src, `{"data":{"f":"é ß\u00fc€😀"}}`, "é ßü€😀", 5 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(tt.body)) })
			iss := issue(t, s.Source(tt.cfg))
			if got := string(iss.Value.Expose()); got != tt.value {
				t.Errorf("%s: value %q, want %q", tt.body, got, tt.value)
			}
			if got := iss.ExpiresAt.Sub(iss.IssuedAt); got != tt.age {
				t.Errorf("%s: lives for %v, want %v", tt.body, got, tt.age)
			}
		})
	}
}

func TestIssueRefusedReplies(t *testing.T) {
	src := vault.SourceConfig{Path: "a/b", Field: "f"}
	user := vault.SourceConfig{Path: "a/b", Field: "f", UserField: "u"}
	refused, unavailable := credential.ErrRefused, credential.ErrUnavailable
	for _, tt := range []struct {
		cfg   vault.SourceConfig
		body  string
		kind  error
		says  string
		calls int32
	}{
		{src, `{"data":{"g":"canary-7f2a","h":1}}`, refused, `read a/b: there is no field "f", only "g", "h"`, 1},
		{src, `{"data":{"data":{"g":"canary-7f2a"},"metadata":{"version":1}}}`, refused, `only "g"`, 1},
		{src, `{"data":{}}`, refused, "an empty object", 1},
		{src, `{"data":{"data":null,"metadata":{"version":7}}}`, refused, "version 7 is deleted", 1},
		{src, `{"data":{"f":""}}`, refused, `field "f" is empty`, 1},
		{src, `{"data":{"f":"\n"}}`, refused, `field "f" is empty`, 1},
		{src, `{"data":{"f":null}}`, refused, "neither a string nor a number", 1},
		{src, `{"data":{"f":true}}`, refused, "neither a string nor a number", 1},
		{src, `{"data":{"f":{"canary-7f2a":1}}}`, refused, "neither a string nor a number", 1},
		{src, `{"data":{"f":"canary-7f2a\r\nX: y"}}`, refused, "control characters", 1},
		{src, `{"data":{"f":"canary-7f2a\u0000"}}`, refused, "control characters", 1},
		{src, `{"data":{"f":"canary-7f2a\n\n"}}`, refused, "control characters", 1},
		{src, `{"data":{"f":"canary-7f2a\r"}}`, refused, "control characters", 1},
		{src, `{"data":{"f":"\ufeffcanary-7f2a"}}`, refused, "not printable", 1},
		{src, `{"data":{"f":"canary-7f2a\u0085"}}`, refused, "not printable", 1},
		{src, `{"data":{"f":"canary-7f2a\ud800"}}`, refused, "not printable", 1},
		{src, "{\"data\":{\"f\":\"canary-7f2a\xff\"}}", refused, "not printable", 1},
		{user, `{"data":{"f":"canary-7f2a"}}`, refused, `no field "u"`, 1},
		{user, `{"data":{"f":"canary-7f2a","u":"a\u007f"}}`, refused, "control characters", 1},
		{src, `{"data":null}`, unavailable, "holds no data", 1},
		{src, `{}`, unavailable, "holds no data", 1},
		{src, ``, unavailable, "empty or malformed", 2},
		{src, `{"data":{"f":"canary-7f2a"}`, unavailable, "empty or malformed", 2},
		{src, `{"data":{"f":"canary-7f2a"}} x`, unavailable, "empty or malformed", 2},
		{src, `{"data":["canary-7f2a"]}`, unavailable, "empty or malformed", 2},
		{src, `{"data":{"f":"v"},"lease_duration":"60"}`, unavailable, "empty or malformed", 2},
		{src, `{"data":{"f":"v"},"lease_duration":-60}`, unavailable, "empty or malformed", 2},
		{src, `{"data":{"f":"` + strings.Repeat("x", 1<<20) + `"}}`, unavailable, "over 1 MiB", 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int32
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); _, _ = w.Write([]byte(tt.body)) })
			_, err := s.Source(tt.cfg).Issue(t.Context(), "id")
			wantError(t, err, tt.kind, tt.says)
			if got := calls.Load(); got != tt.calls {
				t.Errorf("%.80s: %d calls, want %d", tt.body, got, tt.calls)
			}
		})
	}
}

func TestIssueStatuses(t *testing.T) {
	for _, tt := range []struct {
		status int
		kind   error
		reads  int32
	}{
		{204, credential.ErrUnavailable, 2},
		{301, credential.ErrRefused, 1},
		{307, credential.ErrRefused, 1},
		{400, credential.ErrRefused, 1},
		{403, credential.ErrRefused, 2}, // the second after a login
		{404, credential.ErrRefused, 1},
		{405, credential.ErrRefused, 1},
		{412, credential.ErrUnavailable, 2},
		{429, credential.ErrUnavailable, 2},
		{472, credential.ErrUnavailable, 2},
		{473, credential.ErrUnavailable, 2},
		{500, credential.ErrUnavailable, 2},
		{503, credential.ErrUnavailable, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var reads atomic.Int32
			s := odd(t, func(w http.ResponseWriter, r *http.Request) {
				reads.Add(1)
				w.Header().Set("Location", "http://127.0.0.1:8200/v1/elsewhere")
				w.WriteHeader(tt.status)
				if tt.status != 204 {
					_, _ = w.Write([]byte(`{"errors":["` + canary + `"]}`))
				}
				if r.URL.Path != "/v1/"+kvPath {
					t.Errorf("%d: the redirect was followed to %s", tt.status, r.URL.Path)
				}
			})
			_, err := kv(s).Issue(t.Context(), "id")
			wantError(t, err, tt.kind, fmt.Sprintf("read %s: status %d", kvPath, tt.status))
			if tt.status/100 == 3 && !strings.Contains(err.Error(), "active node") {
				t.Errorf("error %q does not say what to do", err)
			}
			if got := reads.Load(); got != tt.reads {
				t.Errorf("%d: %d reads, want %d", tt.status, got, tt.reads)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		header  string
		timeout time.Duration // 0: none
		reads   int
		min     time.Duration
		max     time.Duration
	}{
		{"3", 0, 2, 3 * time.Second, 3 * time.Second},
		{"5", 0, 2, 5 * time.Second, 5 * time.Second},
		{"6", 0, 1, 0, 0},                     // too long
		{"3", 2 * time.Second, 1, 0, 0},       // it would be in vain
		{"", 0, 2, 0, time.Second},            // a pause of our own
		{"-1", 0, 2, 0, time.Second},          // malformed
		{"99999999999", 0, 2, 0, time.Second}, // malformed
	} {
		synctest.Test(t, func(t *testing.T) {
			reads := 0
			s := odd(t, func(w http.ResponseWriter, _ *http.Request) {
				reads++
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				w.WriteHeader(429)
			})
			ctx := t.Context()
			if tt.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			begin := time.Now()
			_, err := kv(s).Issue(ctx, "id")
			wantError(t, err, credential.ErrUnavailable, "status 429")
			if took := time.Since(begin); reads != tt.reads || took < tt.min || took > tt.max {
				t.Errorf("Retry-After %q: %d reads in %v, want %d", tt.header, reads, took, tt.reads)
			}
		})
	}
}

func TestIssueTriesASecondTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.FailNext(503)
		iss := issue(t, kv(s))
		reads := slices.DeleteFunc(srv.Requests(), func(r vaulttest.Request) bool { return r.Path != kvPath })
		if len(reads) != 2 || reads[0].CorrelationID != "id" || reads[1].ID != iss.Origin.RequestID {
			t.Errorf("reads %+v, origin %+v", reads, iss.Origin)
		}
	})
}

func TestHungVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		srv.SetLatency(time.Hour)
		begin := time.Now()
		_, err := kv(s).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrUnavailable, "no answer in time")
		if took := time.Since(begin); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %v, want two calls of 5s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		_, err = kv(s).Issue(ctx, "id")
		wantError(t, err, credential.ErrUnavailable, "no answer in time")
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v, want the context's 1s", took)
		}
		srv.SetLatency(0)
	})
}

func TestUnusableSourceConfig(t *testing.T) {
	s := open(t, appRole(t, "http://127.0.0.1:1"))
	for _, cfg := range []vault.SourceConfig{
		{Field: "f"}, {Path: "a"}, {Path: "/a", Field: "f"}, {Path: "a/", Field: "f"}, {Path: "a//b", Field: "f"},
		{Path: "a/../b", Field: "f"}, {Path: "a\nb", Field: "f"}, {Path: "a", Field: "f", MaxAge: -1},
	} {
		_, err := s.Source(cfg).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, "obtain a credential")
	}
}

// What a path holds must not become a query or another path.
func TestPathsAreEscaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var uri string
		s := odd(t, func(w http.ResponseWriter, r *http.Request) {
			uri = r.RequestURI
			_, _ = w.Write([]byte(`{"data":{"f":"v"}}`))
		})
		issue(t, s.Source(vault.SourceConfig{Path: "kv/a b?c#d%2f", Field: "f"}))
		if want := "/v1/kv/a%20b%3Fc%23d%252f"; uri != want {
			t.Errorf("asked for %s, want %s", uri, want)
		}
	})
}

// A lease whose value is of no use is given back at once.
func TestUnusableLeaseIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := session(t, p)
		_, err := s.Source(vault.SourceConfig{Path: dynPath, Field: "absent"}).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrRefused, `only "token"`)
		if live, revoked := srv.Leases(); len(live) != 0 || len(revoked) != 1 {
			t.Errorf("live %v, revoked %v", live, revoked)
		}
	})
}
