package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// TestRealVaultRevokedBehind: an operator revokes the lease of a database user while 1 000 requests
// with it are at the upstream, which then refuses them all. One new user is issued; each GET is sent
// again with it and succeeds, no POST is sent twice, and the trail has both uses of each GET. It is
// not parallel: the crowd has the machine for itself.
func TestRealVaultRevokedBehind(t *testing.T) {
	st := newRealStage(t, realvault.Options{})
	db := realvault.Postgres(t)
	st.database(t, db, "1h", "1h")
	sv := st.serve(t, st.config(t, st.approle(t, "1h")), st.policy(databaseCredential))
	c := newCrowd(t, sv, st)
	leases := st.vault.Leases(t, "database/")
	if len(leases) != 1 {
		t.Fatalf("leases %v, want the one that was prefetched", leases)
	}

	revoked := c.holdAll(st.up)
	began := time.Now()
	answers := c.begin()
	select {
	case <-c.arrived:
		t.Logf("all %d requests were at the upstream %v after the first began", crowdGets+crowdPosts, time.Since(began).Round(time.Millisecond))
	case <-time.After(crowdPatience):
		t.Error("the requests did not all come to the upstream")
	}
	st.vault.Write(t, "sys/leases/revoke", map[string]any{"lease_id": leases[0], "sync": true})
	if roles := db.Roles(t); len(roles) != 0 {
		t.Errorf("database users %v are left", roles)
	}
	st.up.check("db", databaseCheck(db)) // which has not seen the user before
	close(revoked)
	wantCrowd(t, st, <-answers)
	if accepted, refused := st.up.counts("db"); accepted != crowdGets+c.warm || refused != crowdGets+crowdPosts {
		t.Errorf("the upstream accepted %d and refused %d", accepted, refused)
	}

	// All that comes later has the new one.
	st.up.holding(nil)
	for n, client := range c.clients {
		if problem := ask(client, http.MethodPost, st.url(fmt.Sprint("/db/later/", n)), "a body"); problem != "" {
			t.Errorf("later: %s", problem)
		}
	}
	c.end()
	trail := wantEnded(t, sv)
	st.gone(t)
	wantReplays(t, trail, leases[0], c.warm)
}

const (
	crowdGets  = 500
	crowdPosts = 500

	crowdPatience = 3 * patience // 200 of them begin with a TLS handshake, at either end of the sidecar
)

// A crowd is 1 000 requests at the same time, each of a name of its own: half of them GETs, and of
// either every fifth on a connection of its own (HTTP/1.1).
type crowd struct {
	st      *realStage
	clients []*http.Client // the first for HTTP/1.1, the others for HTTP/2, with one connection each
	warm    int            // requests that were made before
	arrived chan struct{}  // closed when all are at the upstream
}

func newCrowd(t *testing.T, sv *served, st *realStage) *crowd {
	t.Helper()
	c := &crowd{st: st, arrived: make(chan struct{}), warm: 11}
	for n := range c.warm {
		client := agentOf(t, sv, n > 0)
		client.Timeout = crowdPatience
		c.clients = append(c.clients, client)
		if problem := ask(client, http.MethodGet, st.url("/db/warm"), ""); problem != "" {
			t.Fatal(problem)
		}
	}
	return c
}

func (c *crowd) end() {
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// holdAll has the upstream hold the first use of each request until all are there and the channel
// that it returns is closed.
func (c *crowd) holdAll(up *realUpstream) (revoked chan struct{}) {
	revoked = make(chan struct{})
	var mu sync.Mutex
	here := 0
	up.holding(func(r *http.Request) {
		mu.Lock()
		if here++; here == crowdGets+crowdPosts {
			close(c.arrived)
		}
		mu.Unlock()
		<-revoked
	})
	return revoked
}

// begin makes the requests and sends what is wrong with the answers, by method and number.
func (c *crowd) begin() <-chan map[string]string {
	answers := make(chan map[string]string, 1)
	found := map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range crowdGets + crowdPosts {
		method, body := http.MethodGet, ""
		if n%2 == 1 {
			method, body = http.MethodPost, "a body"
		}
		client := c.clients[0]
		if n/2%5 > 0 {
			client = c.clients[1+n/2%(len(c.clients)-1)]
		}
		all.Go(func() {
			path := fmt.Sprint("/db/", n)
			problem := ask(client, method, c.st.url(path), body)
			mu.Lock()
			defer mu.Unlock()
			found[method+" "+path] = problem
		})
	}
	go func() { all.Wait(); answers <- found }()
	return answers
}

// wantCrowd checks that each GET was sent twice and let in, and each POST once and refused.
func wantCrowd(t *testing.T, st *realStage, answers map[string]string) {
	t.Helper()
	wrong := map[string]int{}
	for request, problem := range answers {
		method, path, _ := strings.Cut(request, " ")
		times := st.up.times(method, path)
		get := method == http.MethodGet && problem == "" && times == 2
		post := method == http.MethodPost && strings.HasPrefix(problem, "401 - ") && times == 1
		if !get && !post {
			wrong[fmt.Sprintf("%s sent %d times: %s", method, times, problem)]++
		}
	}
	for what, n := range wrong {
		t.Errorf("%d requests: %s", n, what)
	}
}

// wantReplays checks what the trail says of a crowd: one issuance that replaces the one of lease,
// and for each GET a use of either. Either was used by as many others, too.
func wantReplays(t *testing.T, trail []audit.Entry, lease string, others int) {
	t.Helper()
	issued, reissued := entriesOf(trail, audit.CredentialIssued), entriesOf(trail, audit.CredentialReissued)
	if len(issued) != 2 || len(reissued) != 1 {
		t.Fatalf("%d issuances, %d of them instead of a refused one; want 2 and 1", len(issued), len(reissued))
	}
	first, second := issued[0], issued[1]
	if first.Source.LeaseID != lease || reissued[0].Issuance != second.Issuance || reissued[0].Detail != first.Issuance {
		t.Errorf("%+v does not replace the issuance of %s", reissued[0].Record, lease)
	}
	intents := map[uint64]audit.Entry{}
	uses := map[string]int{}
	replays := map[string]int{}
	for _, e := range entriesOf(trail, audit.RequestIntent) {
		intents[e.Seq] = e
		uses[e.Issuance]++
		if e.Detail != "" {
			replays[e.Detail]++
			if e.Method != http.MethodGet || e.Issuance != second.Issuance {
				t.Errorf("record %d: a %s was sent again with %s", e.Seq, e.Method, e.Issuance)
			}
		}
	}
	for _, e := range entriesOf(trail, audit.RequestOutcome) {
		if e.Error == "" {
			continue
		}
		said := fmt.Sprintf("sent again: the upstream refused the credential of record %d", e.Intent)
		if e.Error != "credential_refused" || e.Status != http.StatusUnauthorized || replays[said] != 1 || intents[e.Intent].Issuance != first.Issuance {
			t.Errorf("outcome of record %d: %d %s, sent again %d times", e.Intent, e.Status, e.Error, replays[said])
		}
		delete(replays, said)
	}
	if len(replays) != 0 || uses[first.Issuance] != crowdGets+crowdPosts+others || uses[second.Issuance] != crowdGets+others {
		t.Errorf("%d requests sent again for no reason in the trail; %v uses", len(replays), uses)
	}
}
