package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// faultLife is how long what Vault gives lives, tokens and credentials alike.
const faultLife = 6 * time.Second

// A fault is what can be wrong with Vault or with the way to it. Both functions are called from the
// test's goroutine.
type fault struct {
	name       string
	works      bool // it is not to be felt
	own        bool // it needs a Vault of its own
	begin, end func(t *testing.T, st *faultStage)
}

// ofRequests is a fault of each request.
func ofRequests(name string, r faultReply) fault {
	return fault{
		name:  name,
		begin: func(_ *testing.T, st *faultStage) { st.way.set(r) },
		end:   func(_ *testing.T, st *faultStage) { st.way.set(nil) },
	}
}

// ofWay is a fault of the way to Vault.
func ofWay(name string, begin, end func(*faultProxy, *testing.T)) fault {
	return fault{
		name:  name,
		begin: func(t *testing.T, st *faultStage) { begin(st.way, t) },
		end:   func(t *testing.T, st *faultStage) { end(st.way, t) },
	}
}

// ofVault is a fault of Vault itself.
func ofVault(name string, begin, end func(*realvault.Server, testing.TB)) fault {
	return fault{
		name: name, own: true,
		begin: func(t *testing.T, st *faultStage) { begin(st.vault.vault, t) },
		end:   func(t *testing.T, st *faultStage) { end(st.vault.vault, t) },
	}
}

// wrongJSON is what is no reply of Vault's.
var wrongJSON = []string{
	`{"data": {"data": {"api_key"`, "<html>maintenance</html>", `[]`, `null`, `{}`, `{"status": "ok"}`,
	`{"auth": "yes", "data": 7}`, `{"auth": {"client_token": ""}, "data": null}`,
}

// hugeJSON would be a reply, were it not for its size.
var hugeJSON = fmt.Sprintf(`{"data": {"data": {"api_key": %[1]q}, "metadata": {"version": 1}, "access_key": "x", "secret_key": %[1]q},`+
	`"auth": {"client_token": %[1]q, "lease_duration": 60}}`, strings.Repeat("x", 1<<20))

func allFaults() []fault {
	slow := ofRequests("half a second late", faultLate)
	slow.works = true
	return []fault{
		slow,
		ofRequests("40 bytes a second", faultDribble),
		ofWay("refused", (*faultProxy).refuse, (*faultProxy).listen),
		ofWay("unplugged", (*faultProxy).unplug, (*faultProxy).plug),
		ofRequests("half-open", faultHalfOpen),
		ofRequests("reset mid-reply", faultCutOff),
		ofRequests("429, Retry-After: 1", faultCanned("429 Too Many Requests", "Retry-After: 1\r\n", `{"errors": ["slow down"]}`)),
		ofRequests("200, empty", faultCanned("200 OK", "", "")),
		ofRequests("200, wrong JSON", faultCanned("200 OK", "", wrongJSON...)),
		ofRequests("200, over 1 MiB", faultCanned("200 OK", "", hugeJSON)),
		ofVault("crashed", (*realvault.Server).Down, (*realvault.Server).Up),
		ofVault("sealed", (*realvault.Server).Seal, (*realvault.Server).Unseal),
		ofVault("stopped (SIGSTOP)", (*realvault.Server).Stop, (*realvault.Server).Cont),
	}
}

// leasedCredential is the line of the policy for the leased one. keyValueCredential is the other.
const leasedCredential = `leased: {from: {vault: {path: aws/creds/user, field: secret_key, user_field: access_key}}, inject: {basic: {}}}`

// A faultStage is one sidecar, its Vault, the way there, and its agents.
type faultStage struct {
	fault
	vault  *faultVault
	way    *faultProxy
	sv     *served
	agents []*steadyAgent

	began, ended time.Time     // of the fault
	afterwards   time.Duration // how long it goes on when all agents have felt it
	meter        *stallMeter
}

func newFaultStage(t *testing.T, f fault, v *faultVault, m *stallMeter) *faultStage {
	t.Helper()
	st := &faultStage{fault: f, vault: v, way: newFaultProxy(t, v.vault.Addr), meter: m}
	st.afterwards = 3*time.Second + rand.N(2*time.Second) // so that not all ends meet the same moment of a call
	its := *v.realStage
	its.address = "http://" + st.way.addr
	st.sv = its.serve(t, its.config(t, v.auth), its.policy(keyValueCredential, leasedCredential))
	for _, name := range []string{"kv", "leased"} {
		st.agents = append(st.agents, startSteady(t, st.sv, name, its.url("/"+name+"/x")))
	}
	return st
}

// all reports whether every agent has got the status since a moment.
func (st *faultStage) all(status int, since time.Time) bool {
	return !slices.ContainsFunc(st.agents, func(a *steadyAgent) bool {
		_, ok := a.first(status, since)
		return !ok
	})
}

// due reports whether the fault has lasted long enough.
func (st *faultStage) due() bool {
	if st.works {
		return time.Since(st.began) > 2*faultLife
	}
	return !slices.ContainsFunc(st.agents, func(a *steadyAgent) bool {
		s, ok := a.first(http.StatusServiceUnavailable, st.began)
		return !ok || time.Since(s.done) < st.afterwards
	})
}

// TestRealVaultFaults: whatever is wrong with Vault, every request is served until the credential
// that it needs has expired, and answered with 503 after that, until Vault is back for less than two
// seconds. The faults are all under way at the same time, each between a sidecar of its own and
// Vault.
func TestRealVaultFaults(t *testing.T) {
	meter, aws := newStallMeter(t), realvault.StartAWS(t)
	shared := newFaultVault(t, aws)
	vaults := []*faultVault{shared}
	var stages []*faultStage
	for _, f := range allFaults() {
		v := shared
		if f.own {
			v = newFaultVault(t, aws)
			vaults = append(vaults, v)
		}
		stages = append(stages, newFaultStage(t, f, v, meter))
	}
	for _, st := range stages {
		if !poll(func() bool { return st.all(http.StatusOK, time.Now().Add(-time.Second)) }) {
			t.Fatalf("%s: no request was served before the fault", st.name)
		}
	}
	for _, st := range stages {
		st.fault.begin(t, st)
		st.began = time.Now()
	}
	inTurn(t, stages, "end", (*faultStage).due, func(st *faultStage) {
		if got := statusOf("http://" + st.sv.ops + "/readyz"); got != http.StatusOK {
			t.Errorf("%s: /readyz says %d", st.name, got)
		}
		st.fault.end(t, st)
		st.ended = time.Now()
	})
	back := func(st *faultStage) bool { return st.all(http.StatusOK, st.ended) && time.Since(st.ended) > faultLife }
	inTurn(t, stages, "serve again", back, func(*faultStage) {})
	var ending sync.WaitGroup
	for _, st := range stages {
		ending.Go(st.stop)
	}
	ending.Wait()

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tlasted\tserved before expiry\tfirst 503 after\tlongest wait\trecovery\tlogins (least gap), calls")
	for _, st := range stages {
		t.Run(st.name, func(t *testing.T) { fmt.Fprintln(w, st.judge(t)) })
	}
	w.Flush()
	t.Logf("the machine stood still for %v\n%s", meter.between(stages[0].began, time.Now()), table.String())
	for _, v := range vaults {
		v.check(t, meter)
		v.gone(t) // what replies that were lost brought has ended with its token
	}
}

// statusOf returns the status of a GET; 0 if there is no answer.
func statusOf(url string) int {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// inTurn does something to each stage, from the test's goroutine, when it is due.
func inTurn(t *testing.T, stages []*faultStage, what string, due func(*faultStage) bool, do func(*faultStage)) {
	t.Helper()
	waiting := slices.Clone(stages)
	for limit := time.Now().Add(2 * patience); len(waiting) > 0; time.Sleep(10 * time.Millisecond) {
		waiting = slices.DeleteFunc(waiting, func(st *faultStage) bool {
			if !due(st) {
				return false
			}
			do(st)
			return true
		})
		if time.Now().After(limit) {
			for _, st := range waiting {
				t.Errorf("%s: did not %s within %v", st.name, what, 2*patience)
				do(st)
			}
			return
		}
	}
}

// stop ends the agents and then serve; judge looks at how that ended.
func (st *faultStage) stop() {
	for _, a := range st.agents {
		a.end()
	}
	_ = st.sv.stop()
}

// judge returns the stage's line of the table.
func (st *faultStage) judge(t *testing.T) string {
	t.Helper()
	trail := wantEnded(t, st.sv)
	wantNoneExpired(t, trail, st.meter)
	issued := entriesOf(trail, audit.CredentialIssued)
	var served, delay, wait, back = "", time.Duration(0), time.Duration(0), time.Duration(0)
	for _, a := range st.agents {
		s := st.judgeAgent(t, a, issued)
		served += fmt.Sprintf("%s %d of %d ", a.credential, s.served, s.asked)
		delay, wait, back = max(delay, s.delay), max(wait, s.wait), max(back, s.back)
	}
	if back >= 2*time.Second {
		t.Errorf("the first success came %v after the end of the fault", back)
	}
	round := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return d.Round(10 * time.Millisecond).String()
	}
	return strings.Join([]string{
		st.name, st.ended.Sub(st.began).Round(100 * time.Millisecond).String(), served,
		round(delay), round(wait), round(back), st.judgeLogins(t),
	}, "\t")
}

// A score is what became of one agent's requests.
type score struct {
	asked, served int           // from the beginning of the fault to the end of the credential
	delay         time.Duration // from the end of the credential to the first 503
	wait          time.Duration // the longest for a 503
	back          time.Duration // from the end of the fault to the first success
}

func (st *faultStage) judgeAgent(t *testing.T, a *steadyAgent, issued []audit.Entry) (sc score) {
	t.Helper()
	var expiry time.Time // of what was at hand when the fault began, or came a moment later
	for _, e := range issued {
		if e.Credential == a.credential && e.Time.Before(st.ended) && usableTo(e).After(expiry) {
			expiry = usableTo(e)
		}
	}
	first, _ := a.first(http.StatusOK, st.ended)
	for _, s := range a.got {
		if s.sent.After(st.began) && s.done.Before(expiry) {
			sc.asked++
			if s.status == http.StatusOK {
				sc.served++
			}
		}
		switch outage := !st.works && s.done.After(st.began) && s.sent.Before(first.done); {
		case s.status == http.StatusOK:
		case s.status != http.StatusServiceUnavailable || s.refusal != "credential_unavailable" || s.retry < 1:
			t.Errorf("%s: status %d %s, Retry-After %d", a.credential, s.status, s.refusal, s.retry)
		case outage:
			sc.wait = max(sc.wait, s.done.Sub(s.sent))
		case st.meter.between(s.done.Add(-faultLife), s.done) == 0:
			t.Errorf("%s: refused %v after the beginning, which was not during the outage", a.credential, s.done.Sub(st.began))
		}
	}
	if sc.served < sc.asked || sc.asked == 0 {
		t.Errorf("%s: %d of %d requests were served before the credential expired", a.credential, sc.served, sc.asked)
	}
	if first.status == 0 {
		t.Errorf("%s: never served again", a.credential)
	} else if !st.works {
		refused, _ := a.first(http.StatusServiceUnavailable, st.began)
		sc.delay = refused.done.Sub(expiry)
		sc.back = first.done.Sub(st.ended) - st.meter.between(st.ended, first.done)
	}
	return sc
}

// judgeLogins returns how many logins there were while the fault lasted.
func (st *faultStage) judgeLogins(t *testing.T) string {
	t.Helper()
	calls := st.way.during(st.began, st.ended)
	var logins []time.Time
	for _, c := range calls {
		if c.path == "/v1/auth/approle/login" {
			logins = append(logins, c.at)
		}
	}
	if len(calls) == 0 {
		return "-"
	}
	least := time.Hour
	for i := range max(0, len(logins)-1) {
		least = min(least, logins[i+1].Sub(logins[i]))
	}
	if n := len(logins); n > 1 && logins[n-1].Sub(logins[0]) < time.Duration(n-1)*time.Second-200*time.Millisecond {
		t.Errorf("%d logins in %v", n, logins[n-1].Sub(logins[0]))
	}
	return fmt.Sprintf("%d (%v), %d", len(logins), least.Round(10*time.Millisecond), len(calls))
}
