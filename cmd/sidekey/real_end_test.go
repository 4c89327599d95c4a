package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// TestRealVaultAdmin: the kill switch stops the use of what the session holds and revokes nothing;
// the end of the session, over the admin socket, leaves no lease, token or database user, though
// the process goes on.
func TestRealVaultAdmin(t *testing.T) {
	t.Parallel()
	st := newRealStage(t, realvault.Options{})
	db := realvault.Postgres(t)
	st.database(t, db, "1h", "1h")
	st.childTokens(t)
	sv := st.serve(t, st.config(t, st.approle(t, "1h"), "session_token_role: sidekey-session"), st.policy(databaseCredential))
	client := agentOf(t, sv, true)
	get := func(want string) {
		t.Helper()
		if problem := ask(client, http.MethodGet, st.url("/db/1"), ""); !strings.HasPrefix(problem, want) || (problem == "") != (want == "") {
			t.Errorf("the agent got %q, want %q", problem, want)
		}
	}
	admin := func(args ...string) {
		t.Helper()
		cmd := exec.Command(realSidekey(t), append(args, "--admin", "admin.sock")...)
		cmd.Dir = sv.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sidekey %q: %v\n%s", args, err, out)
		}
	}

	get("")
	admin("session", "kill", "--reason", "a drill")
	get("503 killed ")
	if leases, tokens := st.vault.Leases(t, ""), st.vault.Tokens(t); len(leases) != 1 || len(tokens) != 2 || len(db.Roles(t)) != 1 {
		t.Errorf("while killed: leases %v, %d tokens", leases, len(tokens))
	}
	admin("session", "resume")
	get("")
	admin("session", "kill")
	admin("session", "end", "--reason", "the agent is done")
	st.gone(t)
	realvault.Eventually(t, "the database user to be gone", func() bool { return len(db.Roles(t)) == 0 })
	get("503 session_ended ")

	trail := wantEnded(t, sv)
	st.wantRevoked(t, trail)
	var reasons []string
	for _, e := range trail {
		switch e.Event {
		case audit.KillEngaged, audit.KillReleased, audit.SessionEnded, audit.CredentialIssued, audit.CredentialRevoked:
			reasons = append(reasons, strings.TrimSpace(string(e.Event)+" "+e.Detail))
		}
	}
	if want := []string{"credential.issued", "kill.engaged a drill", "kill.released", "kill.engaged", "credential.revoked",
		"session.ended the agent is done", "session.ended"}; !slices.Equal(reasons, want) {
		t.Errorf("the trail says %q, want %q", reasons, want)
	}
}

// orphanTTL is how long the tokens of TestRealVaultOrphans live.
const orphanTTL = 6 * time.Second

// TestRealVaultOrphans: a sidecar that is killed revokes nothing, and has left nothing on disk from
// which the next one, of the same session, could. What it held ends with its token's TTL, and what
// the next one holds does not.
func TestRealVaultOrphans(t *testing.T) {
	t.Parallel()
	st := newRealStage(t, realvault.Options{})
	db := realvault.Postgres(t)
	st.database(t, db, "1h", "1h")
	st.childTokens(t)
	auth := st.approle(t, orphanTTL.String())
	config := st.config(t, auth, "session_token_role: sidekey-session") + "session: {id: run-7}\n"
	dead := st.serve(t, config, st.policy(databaseCredential))
	if problem := ask(agentOf(t, dead, false), http.MethodGet, st.url("/db/1"), ""); problem != "" {
		t.Error(problem)
	}
	killed := time.Now()
	if err := dead.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := <-dead.exited
	dead.exited <- err
	leases, tokens := st.vault.Leases(t, ""), accessorsOf(st.vault.Tokens(t))
	if len(leases) == 0 || len(tokens) < 2 {
		t.Fatalf("leases %v, %d tokens; want a database user, a token and its child at least", leases, len(tokens))
	}

	if err := os.Remove(filepath.Join(dead.dir, "admin.sock")); err != nil { // nothing can be read from it
		t.Error(err)
	}
	for _, hit := range st.up.seen.findBelow(t, dead.dir) {
		t.Error(hit)
	}
	if len(st.up.seen.of) == 0 || strings.Contains(dead.trail(), "hvs.") {
		t.Error("the upstream saw no password, or there is a token in the trail")
	}
	want := []string{"audit.jsonl", "ca", "config.yaml", "policy.yaml"}
	if got := namesIn(t, dead.dir); !slices.Equal(got, want) {
		t.Errorf("left on disk: %q, want %q", got, want)
	}

	// For the next one the token lives long, so that what ends does so by its TTL and nothing else.
	st.vault.Write(t, "auth/approle/role/tester", tokenRole("1h"))
	next := st.serve(t, config, st.policy(databaseCredential))
	realvault.Eventually(t, "what the dead one held to end", func() bool {
		alive := func(lease string) bool { return st.vault.LeaseAlive(t, lease) }
		live := accessorsOf(st.vault.Tokens(t))
		return !slices.ContainsFunc(leases, alive) && !slices.ContainsFunc(tokens, func(a string) bool { return slices.Contains(live, a) })
	})
	t.Logf("what a killed sidecar held ended %v later; its token's TTL was %v", time.Since(killed).Round(time.Millisecond), orphanTTL)
	realvault.Eventually(t, "the dead one's database user to be gone", func() bool { return len(db.Roles(t)) == 1 })
	for _, e := range st.vault.AuditEntries(t) {
		if asked := e.Request.Path; e.Time.After(killed) && (asked == "auth/token/revoke-self" || strings.HasPrefix(asked, "sys/leases/revoke/")) {
			t.Errorf("somebody asked for %s", asked)
		}
	}
	if problem := ask(agentOf(t, next, false), http.MethodGet, st.url("/db/2"), ""); problem != "" {
		t.Error(problem)
	}
	wantEnded(t, next)
	st.gone(t)

	if sum, err := audit.Verify(strings.NewReader(dead.trail())); err != nil || len(sum.Sessions) != 1 || sum.Sessions[0].Ended {
		t.Errorf("the trail of the dead one: %+v, %v; want it intact, without an end", sum, err)
	}
}

func accessorsOf(tokens []realvault.Token) (accessors []string) {
	for _, token := range tokens {
		accessors = append(accessors, token.Accessor)
	}
	return accessors
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
