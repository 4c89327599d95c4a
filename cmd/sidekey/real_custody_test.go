package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
	"github.com/sidekey/sidekey/internal/realvault"
)

// custodyLife is how long credentials live: three of them one after another, and more, in custodyLasts.
const (
	custodyLife  = 6 * time.Second
	custodyLasts = 22 * time.Second
	custodyUses  = 10000
)

// TestRealVaultCustody: two sessions of two roles use credentials 10 000 times, while these are replaced,
// the trail's files are rotated, requests are denied and fail, and Vault is restarted. trace then joins
// every use with its issuance in Vault's own log, and finds nothing. Then each log is tampered with, and a
// token is used behind the sidecar's back: each is found, and named.
//
// Once Vault is as it comes; once its log has no correlation ids, as with OpenBao and older Vaults.
func TestRealVaultCustody(t *testing.T) {
	db := realvault.Postgres(t)
	for name, opts := range map[string]realvault.Options{"as it comes": {}, "no correlation ids": {NoAuditedHeaders: true}} {
		t.Run(name, func(t *testing.T) { realCustody(t, db, opts) })
	}
}

// A custodyStage is two sessions that have ended, and their logs.
type custodyStage struct {
	*realStage
	logs []string // the trails
}

func realCustody(t *testing.T, db *realvault.Database, opts realvault.Options) {
	st := runCustody(t, db, opts)
	r := st.trace(t)
	t.Logf("%+v", r.Totals)
	for _, n := range r.Notes {
		t.Logf("note: %+v", n)
	}
	for i, f := range r.Findings {
		if i < 20 {
			t.Errorf("finding in logs that are as they were written: %+v", f)
		}
	}
	st.wantWhole(t, r)
	mends := strings.Contains(fmt.Sprint(r.Notes), "sys/config/auditing/request-headers")
	if mends != opts.NoAuditedHeaders {
		t.Errorf("notes %+v; want the setting that mends the join: %t", r.Notes, opts.NoAuditedHeaders)
	}
	for _, tt := range tamperings() {
		t.Run(tt.name, func(t *testing.T) { st.tamper(t, tt) })
	}
	t.Run("a copied token", st.copiedToken)
}

// runCustody runs the sessions to their ends.
func runCustody(t *testing.T, db *realvault.Database, opts realvault.Options) *custodyStage {
	st := &custodyStage{realStage: newRealStage(t, opts)}
	life := custodyLife.String()
	st.database(t, db, life, life)
	st.keyValue(t)
	st.childTokens(t)
	roleID, _ := st.vault.AppRole(t, "tester", tokenRole("10m"))
	wrapped := st.file(t, "wrapped", st.vault.WrappedSecretID(t, "tester", "60s"))
	approle := fmt.Sprintf("{method: approle, role_id: %q, secret_id_file: %q, secret_id_wrapped: true}", roleID, wrapped)
	plain := st.approle(t, "10m")

	// Nothing lets the policy "tester" read this.
	const forbidden = `forbidden: {prefetch: false, from: {vault: {path: secret/data/agents/other, field: api_key, max_age: 1h}}, inject: {bearer: {}}}`
	policy := st.policy(databaseCredential, keyValueCredential, forbidden)
	segment := func(config string) string {
		return strings.Replace(config, "audit: {path: audit.jsonl}", "audit: {path: audit.jsonl, segment: 1MiB}", 1)
	}
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	a := startServe(t, realSidekey(t), segment(st.config(t, approle, "session_token_role: sidekey-session")), policy, append(environ, "SIDEKEY_SESSION_REQUESTED_BY=ada@example.com")...)
	b := startServe(t, realSidekey(t), segment(st.config(t, plain)), strings.Replace(policy, "role: tester", "role: auditor", 1), append(environ, "SIDEKEY_ROLE=auditor")...)

	var all sync.WaitGroup
	for _, sv := range []*served{a, b} {
		agent := newLoad(t, sv, st.url, custodyUses*11/10/2/int(custodyLasts.Seconds()), custodyLasts, "db", "kv")
		all.Go(agent.run)
		client := agentOf(t, sv, false)
		all.Go(func() { st.troubles(t, client) })
	}
	time.Sleep(custodyLife)
	st.vault.Down(t)
	st.vault.Up(t)
	all.Wait()
	for _, sv := range []*served{a, b} {
		wantEnded(t, sv)
		st.logs = append(st.logs, filepath.Join(sv.dir, "audit.jsonl"))
	}
	return st
}

// troubles asks for what is denied, what the upstream does not have, and what Vault does not give.
func (st *custodyStage) troubles(t *testing.T, client *http.Client) {
	for _, url := range []string{st.url("/nowhere"), st.url("/forbidden/1"), "https://evil.test/", st.url("/db/1?token=abc")} {
		for range 5 {
			req, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}
}

// trace runs `sidekey audit trace` on the stage's logs.
func (st *custodyStage) trace(t *testing.T) *custody.Report {
	t.Helper()
	return traceLogs(t, st.vault.AuditLog, st.logs...)
}

func traceLogs(t *testing.T, vaultLog string, trails ...string) *custody.Report {
	t.Helper()
	return traceReport(t, append([]string{"--vault-audit", vaultLog}, trails...)...)
}

// traceReport runs `sidekey audit trace --json`, whose exit status must say whether there are findings.
func traceReport(t *testing.T, args ...string) *custody.Report {
	t.Helper()
	cmd := exec.Command(realSidekey(t), append([]string{"audit", "trace", "--json"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitFound) {
		t.Fatalf("trace: %v\n%s", err, stderr.String())
	}
	r := new(custody.Report)
	if err := json.Unmarshal(out, r); err != nil {
		t.Fatal(err)
	}
	if found := len(r.Findings) > 0; found != (err != nil) {
		t.Errorf("%d findings and exit status %v", len(r.Findings), err)
	}
	return r
}

// wantWhole checks that the report holds what happened.
func (st *custodyStage) wantWhole(t *testing.T, r *custody.Report) {
	t.Helper()
	if r.Totals.Uses < custodyUses || r.Totals.Denials < 20 || r.Totals.Indeterminate != 0 || len(r.Sessions) != 2 {
		t.Errorf("totals %+v, want %d uses or more, 20 denials, all determinate, of 2 sessions", r.Totals, custodyUses)
	}
	for _, log := range st.logs {
		if files, err := audit.Segments(log); err != nil || len(files) < 4 {
			t.Errorf("the trail's files are %q (%v), want three rotations", files, err)
		}
	}
	for _, s := range r.Sessions {
		issued, uses := map[string]int{}, 0
		for _, iss := range s.Issuances {
			issued[iss.Credential]++
			uses += len(iss.Uses)
			if iss.Vault == nil || iss.Vault.Path != iss.Source.Path || iss.Joined != custody.ByRequestID {
				t.Errorf("%s: issuance %s is joined %q with %+v", s.Role, iss.ID, iss.Joined, iss.Vault)
			}
			if iss.End == "outstanding" || iss.End == "" {
				t.Errorf("%s: issuance %s ended %q", s.Role, iss.ID, iss.End)
			}
		}
		if issued["db"] < 4 || issued["kv"] < 4 {
			t.Errorf("%s: issuances %v, want three rotations of each", s.Role, issued)
		}
		t.Logf("session %s of role %s: %v issued, %d uses, %d calls to Vault", s.ID, s.Role, issued, uses, len(s.Calls))
	}
}
