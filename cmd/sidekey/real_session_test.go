package main

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// sessionLife is how long everything in a session lives, at most: the login's token, and so its child,
// the leases, and what was read.
const sessionLife = 12 * time.Second

// sessionRate is how many requests an agent makes a second: fewer under the race detector, which is
// too slow for more.
func sessionRate() int {
	info, _ := debug.ReadBuildInfo()
	if info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 40
	}
	return 200
}

// TestRealVaultSession: while tokens, leases and what was read end every few seconds, an agent that
// makes 200 requests a second for more than three lives of a token sees none refused and none fail;
// at the end nothing is left at Vault and in PostgreSQL. It is not parallel: the load has the machine
// for itself.
//
// Everything is replaced when a third of its life is left, or less. A Vault that takes longer than half
// of that to answer the test itself is out of order, and what it gave may end. Then the session is no
// proof of anything, and one with lives three times as long is; that one is the last.
func TestRealVaultSession(t *testing.T) {
	db := realvault.Postgres(t)
	for life := sessionLife; ; life *= 3 {
		var v *findings
		var slowest time.Duration
		t.Run(fmt.Sprint(life), func(t *testing.T) {
			v = &findings{TB: t}
			slowest = realSession(t, v, db, life)
		})
		switch {
		case len(v.found) == 0:
			return
		case slowest < life/6 || life > sessionLife:
			t.Errorf("Vault and PostgreSQL took %v at most; %d findings:\n%s", slowest, len(v.found), strings.Join(v.found[:min(20, len(v.found))], "\n"))
			return
		}
		t.Logf("Vault and PostgreSQL took %v for what takes some milliseconds; once more. Of %d findings the first: %s", slowest, len(v.found), v.found[0])
	}
}

// findings are what Errorf says, and fail no test yet.
type findings struct {
	testing.TB
	found []string
}

func (f *findings) Errorf(format string, args ...any) {
	f.found = append(f.found, fmt.Sprintf(format, args...))
}

// realSession is one session, in which nothing lives longer than life. It returns the longest that Vault
// and PostgreSQL took meanwhile to answer the test itself.
func realSession(t *testing.T, v testing.TB, db *realvault.Database, life time.Duration) (slowest time.Duration) {
	st := newRealStage(t, realvault.Options{})
	st.database(t, db, life.String(), life.String())
	st.childTokens(t)
	st.keyValue(t)
	auth := st.kubernetes(t, life.String())
	values := strings.Replace(keyValueCredential, "max_age: 5s", "max_age: "+life.String(), 1)
	sv := st.serve(t, st.config(t, auth, "session_token_role: sidekey-session"), st.policy(databaseCredential, values))

	agent := newLoad(t, sv, st.url, sessionRate(), 3*life+2*time.Second, "db", "kv")
	held, slowest := st.watch(t, db, agent.run)
	agent.want(v)
	agent.end()

	trail := wantEnded(v, sv)
	st.gone(t)
	realvault.Eventually(t, "the database users to be gone", func() bool { return len(db.Roles(t)) == 0 })
	for accessor := range held {
		status, _ := st.vault.Call(t, "POST", "auth/token/lookup-accessor", st.vault.RootToken, map[string]any{"accessor": accessor})
		if status/100 != 4 {
			t.Errorf("look up the accessor of a token of the session: status %d", status)
		}
	}
	st.wantRevoked(v, trail)
	issuances := wantNoGap(v, trail, "db") + wantNoGap(v, trail, "kv")
	if intents := len(entriesOf(trail, audit.RequestIntent)); intents != len(agent.waits) {
		v.Errorf("%d requests went upstream, want each of %d once", intents, len(agent.waits))
	}
	calls := st.calls(t)
	logins, children, revoked := calls["auth/kubernetes/login"], calls["auth/token/create/sidekey-session"], calls["auth/token/revoke-self"]
	if logins < 4 || children != logins || revoked != logins+children || len(held) < 4 {
		v.Errorf("%d logins, %d children, %d tokens revoked (%d seen); want four logins or more, a child of each, and all revoked",
			logins, children, revoked, len(held))
	}
	t.Logf("%v; %d issuances, %d logins, %d tokens revoked; Vault and PostgreSQL took %v at most to answer the test",
		agent, issuances, logins, revoked, slowest.Round(time.Millisecond))
	return slowest
}

// watch returns the accessors of the tokens that Vault held while do ran, and how long it and
// PostgreSQL took at most to answer.
func (st *realStage) watch(t *testing.T, db *realvault.Database, do func()) (accessors map[string]bool, slowest time.Duration) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	accessors = map[string]bool{}
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		began := time.Now()
		for _, token := range st.vault.Tokens(t) {
			accessors[token.Accessor] = true
		}
		_ = db.Login(t.Context(), db.Superuser, db.Password) // for the time that it takes
		slowest = max(slowest, time.Since(began))
		select {
		case <-done:
			tick.Stop()
			return accessors, slowest
		case <-tick.C:
		}
	}
}

// wantRevoked checks that everything that was issued was given up once, and that each lease was
// revoked before it expired.
func (st *realStage) wantRevoked(t testing.TB, trail []audit.Entry) {
	t.Helper()
	ended := map[string][]string{}
	for _, e := range entriesOf(trail, audit.CredentialRevoked) {
		ended[e.Issuance] = append(ended[e.Issuance], e.Reason)
	}
	calls := st.calls(t)
	for _, e := range entriesOf(trail, audit.CredentialIssued) {
		lease, want := e.Source.LeaseID, "discarded"
		if lease != "" {
			want = "revoked"
			if st.vault.LeaseAlive(t, lease) || calls["sys/leases/revoke/"+lease] == 0 {
				t.Errorf("lease %s is alive, or nobody asked for its end", lease)
			}
		}
		if got := ended[e.Issuance]; len(got) != 1 || got[0] != want {
			t.Errorf("issuance %s of %s ended %q, want once: %s", e.Issuance, e.Credential, got, want)
		}
	}
}

// wantNoGap checks that from the first issuance of a credential to the last request that used one
// there was a valid one at each moment, and returns how many there were.
func wantNoGap(t testing.TB, trail []audit.Entry, name string) (issuances int) {
	t.Helper()
	var until time.Time
	for _, e := range trail {
		switch {
		case e.Credential != name:
		case e.Event == audit.CredentialIssued:
			if issuances++; issuances > 1 && !e.Time.Before(until) {
				t.Errorf("%s: nothing valid for %v before record %d", name, e.Time.Sub(until), e.Seq)
			}
			until = e.ExpiresAt
		case e.Event == audit.RequestIntent && !e.Time.Before(until):
			t.Errorf("%s: record %d uses what expired %v ago", name, e.Seq, e.Time.Sub(until))
		}
	}
	return issuances
}
