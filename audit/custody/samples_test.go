package custody_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A sample is what a real Vault 1.21.1 and a real sidecar logged in one session, below testdata: a
// login with a wrapped SecretID, a child token, a KV secret and AWS keys; then an operator revokes all
// tokens, Vault goes down and comes up, and the sidecar logs in again. In nohdr the correlation
// header was taken off Vault's list, on which Vault put it again when it came up.
type sample struct{ trail, vault []string }

func readSample(t testing.TB, name string) sample {
	t.Helper()
	read := func(file string) []string {
		b, err := os.ReadFile(filepath.Join("testdata", name, file))
		if err != nil {
			t.Fatal(err)
		}
		return slices.Collect(strings.Lines(string(b)))
	}
	return sample{read("trail.jsonl"), read("vault.log")}
}

func (s sample) trace(t testing.TB, filter custody.Filter) *custody.Report {
	t.Helper()
	return trace(t, custody.Config{
		Trails:    [][]audit.File{{{Name: "trail", Reader: strings.NewReader(strings.Join(s.trail, ""))}}},
		VaultLogs: []audit.File{{Name: "vault", Reader: strings.NewReader(strings.Join(s.vault, ""))}},
		Now:       time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Filter: filter,
	})
}

func TestRealLogs(t *testing.T) {
	for _, tt := range []struct {
		name                      string
		id, corr, place, findings int
		note                      string
	}{
		{"hdr", 10, 9, 0, 0, ""},
		{"nohdr", 9, 3, 5, 0, "does not have the correlation ids"},
	} {
		r := readSample(t, tt.name).trace(t, custody.Filter{})
		n := r.Totals
		if n.JoinedByID != tt.id || n.JoinedByCorr != tt.corr || n.JoinedByPlace != tt.place || n.VaultCalls != tt.id+tt.corr+tt.place {
			t.Errorf("%s: totals %+v", tt.name, n)
		}
		if len(r.Findings) != tt.findings {
			t.Errorf("%s: findings:%s", tt.name, describe(r.Findings))
		}
		if notes, _ := json.Marshal(r.Notes); !strings.Contains(string(notes), tt.note) || tt.note == "" && len(r.Notes) > 0 {
			t.Errorf("%s: notes %s", tt.name, notes)
		}
		for _, iss := range r.Sessions[0].Issuances {
			if iss.Vault == nil || iss.Vault.Path != iss.Source.Path || iss.Vault.LeaseID != iss.Source.LeaseID {
				t.Errorf("%s: issuance %s is joined to %+v", tt.name, iss.ID, iss.Vault)
			}
		}
	}
}

// An operation changes lines, which count from 1.
type operation func(lines []string) []string

func drop(n ...int) operation {
	return func(lines []string) (kept []string) {
		for i, l := range lines {
			if !slices.Contains(n, i+1) {
				kept = append(kept, l)
			}
		}
		return kept
	}
}

func sub(old, now string, n ...int) operation {
	return func(lines []string) []string {
		for _, i := range n {
			if !strings.Contains(lines[i-1], old) {
				panic("line " + lines[i-1] + " has no " + old)
			}
			lines[i-1] = strings.Replace(lines[i-1], old, now, 1)
		}
		return lines
	}
}

func move(from, to int) operation {
	return func(lines []string) []string {
		l := lines[from-1]
		return slices.Insert(slices.Delete(lines, from-1, from), to-1, l)
	}
}

func again(n, at int) operation {
	return func(lines []string) []string { return slices.Insert(lines, at-1, lines[n-1]) }
}

func cut(n int) operation { return func(lines []string) []string { return lines[:n] } }

func tear(n int) operation {
	return func(lines []string) []string { return append(lines[:n-1], lines[n-1][:100]) }
}

// foreign appends a call by somebody who has the token of the call at line n and its next.
func foreign(n int, changes ...string) operation {
	return func(lines []string) []string {
		for _, l := range lines[n-1 : n+1] {
			l = strings.NewReplacer(append(changes, `"2026-11-23T09:`, `"2026-11-23T10:`, `"127.0.0.1"`, `"10.6.6.6"`)...).Replace(l)
			lines = append(lines, l)
		}
		return lines
	}
}

const (
	readID  = "85b3a6a5"                 // of the request at lines 43 and 44
	aHeader = `"x-correlation-id":["sk1` // what a header begins with
)

// TestTamperedRealLogs: what was done to the logs is found and named, first of all findings.
func TestTamperedRealLogs(t *testing.T) {
	none := func(lines []string) []string { return lines }
	for _, tt := range []struct {
		name         string
		trail, vault operation
		code         custody.Code
		where, what  string // parts of them
	}{
		{"vault: delete a read", none, drop(43, 44), custody.IssuanceNotInVault, "", "at secret/data/agents/tester"},
		{"vault: delete a 204", none, drop(45, 46), custody.CallNotInVault, "", "PUT sys/leases/revoke/aws"},
		{"vault: delete a 403", none, drop(39, 40), custody.CallNotInVault, "", "auth/token/revoke-self (record 40)"},
		{"vault: delete a login", none, drop(13, 14), custody.CallNotInVault, "", "auth/approle/login"},
		{"vault: delete a request", none, drop(43), custody.VaultLogBroken, "vault:43", "has no request"},
		{"vault: delete a response", none, drop(44), custody.VaultLogBroken, "vault:43", "has no response"},
		{"vault: cut the end", none, cut(42), custody.IssuanceNotInVault, "", "secret/data"},
		{"vault: cut the end in a line", none, tear(50), custody.VaultLogBroken, "vault:50", "part of a line"},
		{"vault: garbage", none, sub(`{"`, `{`, 3), custody.VaultLogBroken, "vault:3", "not an entry"},
		{"vault: duplicate a line", none, again(44, 47), custody.VaultLogBroken, "vault:47", "twice"},
		{"vault: move a line down", none, move(43, 47), custody.VaultLogBroken, "vault:47", "after its response"},
		{"vault: move a call up", none, func(l []string) []string { return move(44, 20)(move(44, 20)(l)) }, custody.VaultLogBroken, "vault:22", "out of order"},
		{"vault: edit one path", none, sub(`"path":"secret/data/agents/tester"`, `"path":"secret/data/x"`, 43), custody.VaultLogBroken, "vault:44", "request.path"},
		{"vault: edit both paths", none, sub(`"path":"secret/data/agents/tester"`, `"path":"secret/data/x"`, 43, 44), custody.IssuanceMismatch, "vault:44", `path "secret/data/x"`},
		{"vault: edit both operations", none, sub(`"operation":"read"`, `"operation":"list"`, 43, 44), "", "", ""},
		{"vault: edit both operations to update", none, sub(`"operation":"read"`, `"operation":"update"`, 43, 44), custody.IssuanceMismatch, "vault:44", "operation"},
		{"vault: edit the lease", none, sub(`{"lease_id":"aws/creds/user/`, `{"lease_id":"aws/creds/user/x`, 36), custody.IssuanceMismatch, "vault:36", "lease"},
		{"vault: edit the session", none, sub(`"session_id":"`, `"session_id":"x`, 43, 44), custody.IssuanceMismatch, "vault:44", "session_id"},
		{"vault: edit the role", none, sub(`"agent_role":"`, `"agent_role":"x`, 45, 46), custody.CallMismatch, "vault:46", "agent_role"},
		{"vault: edit one address", none, sub(`"127.0.0.1"`, `"127.0.0.2"`, 46), custody.VaultLogBroken, "vault:46", "remote_address"},
		{"vault: edit the id", none, sub(readID, "00000000", 43, 44), custody.IssuanceMismatch, "vault:44", "request id"},
		{"vault: edit the times", none, sub(`"time":"2026-11-23T09:`, `"time":"2026-11-23T10:`, 43, 44), custody.IssuanceMismatch, "vault:44", "off the time"},
		{"vault: add an error", none, sub(`{"auth"`, `{"error":"permission denied","auth"`, 43, 44), custody.IssuanceMismatch, "vault:44", "failed"},
		{"vault: take the error away", none, func(l []string) []string {
			return sub(`"error":"hmac`, `"x":"hmac`, 40)(sub(`{"error":`, `{"x":`, 39, 40)(l))
		}, custody.CallMismatch, "vault:40", "succeeded"},
		{"vault: edit the correlation id", none, sub(aHeader, aHeader+"0", 43, 44), custody.IssuanceMismatch, "vault:44", "correlation id"},
		{"vault: take the header away", none, sub(`"x-correlation-id"`, `"x-other"`, 43, 44), custody.IssuanceMismatch, "vault:44", "correlation id nothing"},
		{"vault: edit one token", none, sub(`"client_token":"hmac-sha256:`, `"client_token":"hmac-sha256:0`, 44), custody.VaultLogBroken, "vault:44", "contradicts"},

		{"copied token", none, foreign(43, readID, "0000", aHeader, `"other":["`), custody.VaultUnrecorded, "vault:52", "10.6.6.6"},
		{"copied token, copied header", none, foreign(43, readID, "0000"), custody.VaultUnrecorded, "vault:52", "10.6.6.6"},
		{"copied token, refused", none, foreign(39, "11413769", "0000", aHeader, `"other":["`), custody.VaultUnrecorded, "vault:52", "refused"},
		{"copied SecretID", none, func(l []string) []string {
			return foreign(29, "75c44467", "0000", aHeader, `"other":["`, `"metadata":{`, `"metadata":{"session_id":"SESSION",`)(l)
		}, custody.VaultUnrecorded, "vault:52", "auth/approle/login"},

		{"trail: delete a use", drop(16), none, custody.TrailBroken, "trail:16", "out of sequence"},
		{"trail: delete a call", drop(38), none, custody.TrailBroken, "trail:38", "sequence"},
		{"trail: delete a read and what it issued", drop(49, 50), none, custody.CallUnanswered, "vault:44", "secret/data"},
		{"trail: delete an issuance", drop(8), none, custody.UseWithoutIssuance, "", "Record 11"},
		{"trail: edit a use", sub(`"status":200`, `"status":404`, 17), none, custody.TrailBroken, "trail:17", "hash"},
		{"trail: edit a call", sub(`"path":"aws/creds/user"`, `"path":"aws/creds/admin"`, 31), none, custody.IssuanceMismatch, "vault:36", "path"},
		{"trail: duplicate a record", again(16, 17), none, custody.TrailBroken, "trail:17", "sequence"},
		{"trail: exchange records", move(16, 17), none, custody.TrailBroken, "trail:16", "sequence"},
		{"trail: cut before the last calls", cut(48), none, custody.VaultUnrecorded, "vault:46", "sys/leases/revoke"},
		{"trail: cut the first half", drop(1, 2, 3, 4, 5), none, custody.TrailBroken, "trail:1", "missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := readSample(t, "hdr")
			var first audit.Entry
			if err := json.Unmarshal([]byte(s.trail[0]), &first); err != nil {
				t.Fatal(err)
			}
			s.trail, s.vault = tt.trail(s.trail), tt.vault(s.vault)
			for i := range s.vault {
				s.vault[i] = strings.ReplaceAll(s.vault[i], "SESSION", first.Session.ID)
			}
			r := s.trace(t, custody.Filter{})
			if tt.code == "" {
				if len(r.Findings) > 0 {
					t.Errorf("findings:%s", describe(r.Findings))
				}
				return
			}
			i := slices.IndexFunc(r.Findings, func(f custody.Finding) bool { return f.Code == tt.code })
			if i < 0 || !strings.HasPrefix(r.Findings[i].Where, tt.where) || !strings.Contains(r.Findings[i].What, tt.what) || r.Findings[i].Hint == "" {
				t.Errorf("want %s at %s: %s; findings:%s", tt.code, tt.where, tt.what, describe(r.Findings))
			}
		})
	}
}
