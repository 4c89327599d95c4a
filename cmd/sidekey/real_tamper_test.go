package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A tampering changes one of the logs, and has to be found.
type tampering struct {
	name  string
	vault func(lines [][]byte) [][]byte // of Vault's log; nil leaves it
	trail func(lines [][]byte) [][]byte // of the first session's last file; nil leaves it
	codes []custody.Code                // one of which must be found
	names string                        // a regular expression that a finding of that code must match, in what it says or where
}

// index returns the place of the nth line that holds all of texts.
func index(lines [][]byte, nth int, texts ...string) int {
	for i, line := range lines {
		if slices.ContainsFunc(texts, func(s string) bool { return !bytes.Contains(line, []byte(s)) }) {
			continue
		}
		if nth--; nth < 0 {
			return i
		}
	}
	panic(fmt.Sprintf("no line has %q", texts)) // the test's mistake
}

// requestOf returns the text that all entries of line's call have.
func requestOf(line []byte) string {
	return string(regexp.MustCompile(`"id":"[0-9a-f-]{36}","client_id"|"request":\{"id":"[0-9a-f-]{36}"`).Find(line))
}

const issuing = `"path":"database/creds/reader"`

func tamperings() []tampering {
	response := func(lines [][]byte) int { return index(lines, 1, `"type":"response"`, issuing) }
	edit := func(old, new string) func([][]byte) [][]byte {
		return func(lines [][]byte) [][]byte {
			i := response(lines)
			changed := regexp.MustCompile(old).ReplaceAll(lines[i], []byte(new))
			if bytes.Equal(changed, lines[i]) {
				panic("nothing to edit: " + old)
			}
			lines[i] = changed
			return lines
		}
	}
	intent := func(lines [][]byte) int { return index(lines, 5, `"event":"request.intent"`) }
	broken := []custody.Code{custody.TrailBroken}
	vaultBroken := []custody.Code{custody.VaultLogBroken}
	mismatch := []custody.Code{custody.IssuanceMismatch, custody.VaultLogBroken}
	gone := []custody.Code{custody.IssuanceNotInVault}
	return []tampering{
		{name: "trail: a record deleted", trail: func(l [][]byte) [][]byte { i := intent(l); return slices.Delete(l, i, i+1) }, codes: broken, names: `audit\.jsonl:\d+`},
		{name: "trail: a record edited", trail: func(l [][]byte) [][]byte {
			i := intent(l)
			l[i] = bytes.Replace(l[i], []byte(`"method":"`), []byte(`"method":"X`), 1)
			return l
		}, codes: broken, names: `audit\.jsonl:\d+`},
		{name: "trail: records reordered", trail: func(l [][]byte) [][]byte { i := intent(l); l[i], l[i+1] = l[i+1], l[i]; return l }, codes: broken, names: `audit\.jsonl:\d+`},
		{name: "trail: a record duplicated", trail: func(l [][]byte) [][]byte { i := intent(l); return slices.Insert(l, i, l[i]) }, codes: broken, names: `audit\.jsonl:\d+`},
		{name: "trail: truncated", trail: func(l [][]byte) [][]byte { return l[:intent(l)] },
			codes: []custody.Code{custody.TrailTruncated, custody.VaultUnrecorded}, names: `.`},
		{name: "vault: both entries of an issuance deleted", vault: func(l [][]byte) [][]byte {
			id := requestOf(l[response(l)])
			return slices.DeleteFunc(l, func(line []byte) bool { return bytes.Contains(line, []byte(id)) })
		}, codes: gone, names: `database/creds/reader`},
		{name: "vault: the response of an issuance deleted", vault: func(l [][]byte) [][]byte { i := response(l); return slices.Delete(l, i, i+1) },
			codes: append(gone, custody.VaultLogBroken), names: `.`},
		{name: "vault: the lease edited", vault: edit(`"lease_id":"database/creds/reader/[^"]*"`, `"lease_id":"database/creds/reader/other"`), codes: mismatch, names: `lease`},
		{name: "vault: the path edited", vault: edit(`"path":"database/creds/reader"`, `"path":"database/creds/writer"`), codes: mismatch, names: `.`},
		{name: "vault: the operation edited", vault: edit(`"operation":"read"`, `"operation":"delete"`), codes: mismatch, names: `.`},
		{name: "vault: the request id edited", vault: edit(`"id":"[0-9a-f]{8}-`, `"id":"00000000-`), codes: append(gone, custody.VaultLogBroken), names: `.`},
		{name: "vault: the time edited", vault: edit(`"time":"20\d\d`, `"time":"2019`), codes: append(mismatch, gone...), names: `.`},
		{name: "vault: entries reordered", vault: func(l [][]byte) [][]byte { i := response(l); l[i-20], l[i] = l[i], l[i-20]; return l }, codes: vaultBroken, names: `vault-audit\.log:\d+`},
		{name: "vault: an entry duplicated", vault: func(l [][]byte) [][]byte { i := response(l); return slices.Insert(l, i, l[i]) }, codes: vaultBroken, names: `vault-audit\.log:\d+`},
		{name: "vault: truncated", vault: func(l [][]byte) [][]byte { return l[:response(l)] },
			codes: []custody.Code{custody.IssuanceNotInVault, custody.CallNotInVault}, names: `.`},
	}
}

// tamper copies the logs, does what tt does, and checks that trace finds it.
func (st *custodyStage) tamper(t *testing.T, tt tampering) {
	dir := t.TempDir()
	vaultLog := filepath.Join(dir, "vault-audit.log")
	copyLog(t, st.vault.AuditLog, vaultLog, tt.vault)
	var trails []string
	for i, log := range st.logs {
		files, err := audit.Segments(log)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			change := tt.trail
			if i > 0 || file != log {
				change = nil
			}
			copyLog(t, file, filepath.Join(to, filepath.Base(file)), change)
		}
		trails = append(trails, filepath.Join(to, filepath.Base(log)))
	}
	r := traceLogs(t, vaultLog, trails...)
	wantFinding(t, r, tt.codes, tt.names)
}

// wantFinding checks that there is a finding with one of codes that names what names matches.
func wantFinding(t *testing.T, r *custody.Report, codes []custody.Code, names string) {
	t.Helper()
	re := regexp.MustCompile(names)
	for _, f := range r.Findings {
		if slices.Contains(codes, f.Code) && re.MatchString(f.Where+" "+f.What) {
			t.Logf("%d findings; %s: %s (%s)", len(r.Findings), f.Code, f.What, f.Where)
			return
		}
	}
	t.Errorf("not found, want one of %v that names %q; findings:", codes, names)
	for _, f := range r.Findings[:min(10, len(r.Findings))] {
		t.Errorf("\t%+v", f)
	}
}

// copyLog copies a log, through change if that is not nil.
func copyLog(t *testing.T, from, to string, change func([][]byte) [][]byte) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		lines := bytes.SplitAfter(text, []byte("\n"))
		text = bytes.Join(change(lines[:len(lines)-1]), nil)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// copiedToken runs a third session, and uses its token meanwhile as somebody would who has copied it.
// trace must name each thing that was done, and nothing else.
func (st *custodyStage) copiedToken(t *testing.T) {
	target, err := url.Parse(st.vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var token atomic.Pointer[string] // the one that the sidecar used last
	way := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if used := r.In.Header.Get("X-Vault-Token"); used != "" {
			token.Store(&used)
		}
	}})
	defer way.Close()
	own := *st.realStage
	own.address = way.URL
	sv := own.serve(t, own.config(t, own.approle(t, "10m")), own.policy(databaseCredential, keyValueCredential))
	agent := newLoad(t, sv, st.url, 50, 2*time.Second, "db", "kv")
	agent.run()
	curl := func(method, path string) map[string]any {
		status, reply := st.vault.Call(t, method, path, *token.Load(), nil)
		if status >= 300 {
			t.Errorf("%s %s: status %d: %v", method, path, status, reply)
		}
		return reply
	}
	lease, _ := curl("GET", "database/creds/reader")["lease_id"].(string)
	curl("GET", "secret/data/agents/tester")
	curl("PUT", "sys/leases/revoke/"+lease) // is answered without a request_id
	wantEnded(t, sv)
	r := traceLogs(t, st.vault.AuditLog, append(st.logs, filepath.Join(sv.dir, "audit.jsonl"))...)
	for _, path := range []string{"database/creds/reader", "secret/data/agents/tester", "sys/leases/revoke/" + lease} {
		wantFinding(t, r, []custody.Code{custody.VaultUnrecorded}, regexp.QuoteMeta(path))
	}
	if n := len(r.Findings); n != 3 {
		t.Errorf("%d findings, want 3: %+v", n, r.Findings)
	}
}
