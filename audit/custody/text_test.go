package custody_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

var update = flag.Bool("update", false, "rewrite the text that the files under testdata want")

// told makes two sessions. The first logs in, uses a password of a database and a token of a KV secret,
// which an upstream refuses and which is issued anew, is denied what it may not do, and ends; its token is
// used elsewhere. The second has a lease that Vault's log does not have, and is killed.
func told(t *testing.T) (w *world, e evidence) {
	w = newWorld(t, 12, 1, "clear")
	a := w.start("release-bot")
	a.append(audit.Record{Event: audit.PolicyLoaded, Detail: "generation 1"})
	a.token = w.newToken("approle", map[string]string{"session_id": a.session.ID})
	a.call("POST", 200, &vaultCall{op: "update", path: "auth/approle/login", gives: a.token})
	db := a.issued("db", "database/creds/reader", true)
	kv := a.issued("kv", "secret/data/agents/x", false)
	a.asks(db, w.uuid(), "GET", "/rows/1", audit.Record{Status: 200})
	a.asks(db, w.uuid(), "GET", "/rows/2", audit.Record{Status: 404})
	a.asks(db, "", "POST", "/rows", audit.Record{Error: "upstream_timeout"})
	a.asks(kv, w.uuid(), "GET", "/files/1", audit.Record{Status: 401, Error: "credential_refused"})
	fresh := a.issued("kv", "secret/data/agents/x", false)
	a.append(audit.Record{Event: audit.CredentialReissued, Credential: "kv", Issuance: fresh.id, Detail: kv.id})
	a.asks(fresh, w.uuid(), "GET", "/files/1", audit.Record{Status: 200})
	a.append(audit.Record{Event: audit.SecretReflected, Host: "api.test", Route: "r", Credential: "kv", Issuance: fresh.id, Detail: "body"})
	a.asks(fresh, w.uuid(), "PUT", "/files/2", audit.Record{})
	a.asks(&value{}, w.uuid(), "GET", "/public", audit.Record{Status: 200})
	a.append(audit.Record{Event: audit.RequestDenied, Method: "DELETE", Host: "api.test", Path: "/rows/\x1b[31mred\u202e", Reason: "method_not_allowed", Status: 403})
	a.append(audit.Record{Event: audit.RequestDenied, Method: "GET", Host: "169.254.169.254", Path: "/", Reason: "host_not_allowed", Status: 403})
	w.pass(time.Minute)
	a.end()

	b := w.start("reader")
	b.token = w.newToken("approle", map[string]string{"session_id": b.session.ID})
	b.call("POST", 200, &vaultCall{op: "update", path: "auth/approle/login", gives: b.token})
	b.issued("db", "database/creds/reader", true)
	w.remove(w.devices[0].calls[len(w.devices[0].calls)-1], "request", "response")
	b.asks(&value{}, w.uuid(), "GET", "/public", audit.Record{Status: 200})
	w.serve(&vaultCall{op: "read", path: "secret/data/agents/x", by: a.token, from: "10.6.6.6"})
	return w, w.evidence()
}

// issued issues a credential at the first attempt.
func (s *sidecar) issued(credential, path string, leased bool) *value {
	v := &value{id: s.uuid(), credential: credential, path: path}
	if leased {
		v.lease = path + "/" + s.uuid()
	}
	c := s.call("GET", 200, &vaultCall{op: "read", path: path, by: s.token, corr: s.correlation(v.id), lease: v.lease})
	s.append(audit.Record{
		Event: audit.CredentialIssued, Credential: credential, Issuance: v.id, IssuedAt: s.now, ExpiresAt: s.now.Add(time.Hour), Fingerprint: "hmac-sha256:00",
		Source: &audit.Source{Kind: "vault", Path: path, RequestID: c.id, CorrelationID: c.corr, LeaseID: v.lease},
	})
	s.live = append(s.live, v)
	return v
}

// asks makes a request with a credential, if v is one, under an id, if it has one, and of an outcome, if it
// had one. The upstream logs what it answered.
func (s *sidecar) asks(v *value, id, method, path string, outcome audit.Record) {
	r := audit.Record{Event: audit.RequestIntent, Method: method, Scheme: "https", Host: "api.test", Port: 443, Path: "/**", PathSent: path, Route: "r", Credential: v.credential, Issuance: v.id, RequestID: id}
	s.pass(3 * time.Second)
	seq := s.append(r)
	s.pass(50 * time.Millisecond)
	if outcome.Status == 0 && outcome.Error == "" {
		return
	}
	if outcome.Status != 0 && v.id != "" {
		s.access = append(s.access, strings.NewReplacer("TIME", s.now.Format("02/Jan/2006:15:04:05 -0700"), "WHAT", method+" "+path, "STATUS", fmt.Sprint(outcome.Status), "ID", id).Replace(`10.0.0.7 - - [TIME] "WHAT HTTP/1.1" STATUS 5 "-" "curl sidekey/ID" "ID"`))
	}
	r.Event, r.Intent, r.Status, r.Error, r.DurationMS, r.Attempts = audit.RequestOutcome, seq, outcome.Status, outcome.Error, 1, 1
	s.append(r)
}

// TestWriteText: what a report looks like, as people read it. With -update the files under testdata are
// rewritten: read them.
func TestWriteText(t *testing.T) {
	w, e := told(t)
	r := trace(t, e.config(w.now.Add(time.Minute)))
	all := ""
	for name, opts := range map[string]custody.TextOptions{"report.txt": {}, "report-uses.txt": {Uses: true}} {
		got := text(t, r, opts)
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("not as %s says; -update rewrites it:\n%s", file, got)
		}
		all += got
	}
	for _, part := range []string{"vault_unrecorded", "issuance_not_in_vault", "issuance_outstanding", "indeterminate", "reflected", "method_not_allowed", "replaces", "in access logs", "not checked"} {
		if !strings.Contains(all, part) {
			t.Errorf("the report has no %q", part)
		}
	}

	color := text(t, r, custody.TextOptions{Uses: true, Color: true})
	plain := regexp.MustCompile(`\x1b\[[0-9]*m`).ReplaceAllString(color, "")
	if plain != text(t, r, custody.TextOptions{Uses: true}) || plain == color {
		t.Errorf("with colors the text is another one:\n%s", color)
	}
}

func text(t *testing.T, r *custody.Report, opts custody.TextOptions) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b, opts); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
