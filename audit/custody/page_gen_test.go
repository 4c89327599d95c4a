package custody_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A reportMaker makes reports like those of real agents: bursts of requests, credentials that are
// replaced before they expire, refusals, failures. The same seed makes the same report.
type reportMaker struct {
	rnd    *rand.Rand
	start  time.Time
	long   time.Duration // from the first session's beginning to the last record
	report *custody.Report
}

// A job is what a role does: where it goes, with which credential.
type job struct {
	role  string
	wants []want
}

type want struct {
	credential, kind, path, host string
	routes                       []string
	lifetime                     time.Duration
}

var jobs = []job{
	{"release-bot", []want{
		{"github", "vault", "github/token/release", "api.github.com", []string{"GET /repos/acme/*/releases", "POST /repos/acme/*/releases", "GET /repos/acme/*/commits", "PATCH /repos/acme/*/releases/*"}, 30 * time.Minute},
		{"registry", "vault", "kv/data/registry", "registry.acme.dev", []string{"GET /v2/*/manifests/*", "PUT /v2/*/manifests/*"}, time.Hour},
	}},
	{"incident-triage", []want{
		{"pagerduty", "vault", "kv/data/pagerduty", "api.pagerduty.com", []string{"GET /incidents", "PUT /incidents/*", "GET /oncalls"}, 45 * time.Minute},
		{"logs", "vault", "database/creds/logs-read", "logs.acme.dev", []string{"POST /_search", "GET /_cat/indices"}, 20 * time.Minute},
		{"grafana", "file", "/run/secrets/grafana", "grafana.acme.dev", []string{"GET /api/dashboards/*", "POST /api/ds/query"}, 4 * time.Hour},
	}},
	{"db-migrator", []want{
		{"warehouse", "vault", "database/creds/warehouse-rw", "warehouse.acme.dev", []string{"POST /query", "GET /tables/*"}, 15 * time.Minute},
	}},
	{"support-agent", []want{
		{"crm", "vault", "kv/data/crm", "crm.acme.dev", []string{"GET /customers/*", "POST /tickets", "GET /tickets/*"}, 40 * time.Minute},
		{"mail", "exec", "mail-token", "mail.acme.dev", []string{"POST /v1/messages"}, 30 * time.Minute},
	}},
}

var people = []string{"ana.lima@acme.dev", "t.okafor@acme.dev", "ci/nightly", "m.haddad@acme.dev", "jun.sato@acme.dev"}

// makeReport returns a report with at least that many requests in all, in that many sessions.
func makeReport(seed uint64, records, sessions int) *custody.Report {
	m := &reportMaker{
		rnd: rand.New(rand.NewPCG(seed, 6)), start: time.Date(2026, 11, 20, 8, 3, 12, 0, time.UTC),
		long: time.Duration(min(9, 1.2+float64(records)/9000) * float64(time.Hour)), report: &custody.Report{},
	}
	weights, sum := make([]float64, sessions), 0.0
	for i := range weights {
		weights[i] = 0.3 + 1.4*m.rnd.Float64()
		sum += weights[i]
	}
	for i, weight := range weights {
		m.session(i, sessions, int(math.Ceil(float64(records)*weight/sum)))
	}
	m.finish()
	return m.report
}

func (m *reportMaker) session(index, of, records int) {
	j := jobs[index%len(jobs)]
	began := m.start.Add(time.Duration(m.rnd.Float64() * 0.35 * float64(m.long)))
	if index == 0 {
		began = m.start
	}
	end := m.start.Add(time.Duration((0.7 + 0.3*m.rnd.Float64()) * float64(m.long)))
	s := &custody.Session{
		ID: fmt.Sprintf("%s-%s-%s.%08x", j.role, m.hex(5), m.hex(4), m.rnd.Uint32()), Role: j.role, RequestedBy: people[m.rnd.IntN(len(people))],
		Attribution: []string{"vault-verified", "vault-verified", "kubernetes", "asserted"}[m.rnd.IntN(4)],
		Pod:         audit.Pod{Namespace: "agents", Name: fmt.Sprintf("%s-%s-%s", j.role, m.hex(9), m.hex(5)), Node: fmt.Sprintf("node-%d", 1+m.rnd.IntN(4)), ServiceAccount: j.role},
		Version:     "v0.6.0", Began: began,
	}
	times := m.bursts(began.Add(2*time.Second), end, max(1, records))
	s.Events = append(s.Events, &custody.Event{Time: began, Event: audit.SessionStarted}, &custody.Event{Time: began.Add(40 * time.Millisecond), Event: audit.PolicyLoaded, Detail: "generation 1"})
	s.Calls = append(s.Calls, m.call(began.Add(90*time.Millisecond), "POST", "auth/kubernetes/login"))
	m.fill(s, j, times)
	if of > 2 && index%5 == 1 {
		at := times[len(times)*2/3]
		s.Events = append(s.Events, &custody.Event{Time: at, Event: audit.PolicyLoaded, Detail: "generation 2"})
	}
	if of > 1 && index == 1 {
		at := times[len(times)*3/4]
		s.Events = append(s.Events, &custody.Event{Time: at, Event: audit.KillEngaged, By: "uid 1000, pid 77"}, &custody.Event{Time: at.Add(m.long / 60), Event: audit.KillReleased, By: "uid 1000, pid 91"})
	}
	s.Last = times[len(times)-1].Add(time.Second)
	if index != of-1 || of == 1 {
		s.Ended, s.EndReason = s.Last, "stopped"
		s.Events = append(s.Events, &custody.Event{Time: s.Ended, Event: audit.SessionEnded, Reason: "stopped"})
	}
	m.close(s)
	number(s)
	m.report.Sessions = append(m.report.Sessions, s)
}

// bursts returns n times in order, most of them close together.
func (m *reportMaker) bursts(from, to time.Time, n int) []time.Time {
	times := make([]time.Time, 0, n)
	centre := from
	for len(times) < n {
		if m.rnd.IntN(12+n/60) == 0 || len(times) == 0 {
			centre = from.Add(time.Duration(m.rnd.Float64() * float64(to.Sub(from))))
		}
		width := 20*time.Second + to.Sub(from)/90
		t := centre.Add(time.Duration(m.rnd.NormFloat64() * float64(width)))
		if t.After(from) && t.Before(to) {
			times = append(times, t.Truncate(time.Microsecond))
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// fill gives each time a request, and each credential its issuances as it is used.
func (m *reportMaker) fill(s *custody.Session, j job, times []time.Time) {
	now := make([]*custody.Issuance, len(j.wants))
	for _, t := range times {
		if m.rnd.IntN(28) == 0 {
			s.Events = append(s.Events, m.denial(t, j))
			continue
		}
		if m.rnd.IntN(40) == 0 {
			s.Events = append(s.Events, &custody.Event{Time: t, Event: audit.RequestIntent, Method: "GET", Host: "pypi.org", Path: "/simple/**", Route: "packages", Status: 200})
			continue
		}
		k := int(float64(len(j.wants)) * m.rnd.Float64() * m.rnd.Float64())
		if now[k] == nil || t.After(now[k].ExpiresAt.Add(-j.wants[k].lifetime/10)) {
			if now[k] != nil {
				now[k].RevokedAt, now[k].End = t.Add(400*time.Millisecond), "revoked"
			}
			now[k] = m.issue(s, j.wants[k], t.Add(-60*time.Millisecond))
		}
		now[k].Uses = append(now[k].Uses, m.use(t, j.wants[k]))
	}
}

func (m *reportMaker) issue(s *custody.Session, w want, at time.Time) *custody.Issuance {
	i := &custody.Issuance{
		ID: m.uuid(), Credential: w.credential, IssuedAt: at, ExpiresAt: at.Add(w.lifetime), Fingerprint: m.hex(32),
		Source: audit.Source{Kind: w.kind, Path: w.path}, End: "expired",
	}
	if w.kind == "vault" {
		c := m.call(at.Add(-3*time.Millisecond), "GET", w.path)
		c.LeaseID = w.path + "/" + m.hex(24)
		c.Vault.LeaseID, c.Vault.Metadata = c.LeaseID, map[string]string{"session_id": s.ID, "agent_role": s.Role, "requested_by": s.RequestedBy}
		s.Calls = append(s.Calls, c)
		i.Source.RequestID, i.Source.CorrelationID, i.Source.LeaseID = c.RequestID, c.CorrelationID, c.LeaseID
		i.Joined, i.Vault = c.Joined, c.Vault
	}
	s.Issuances = append(s.Issuances, i)
	return i
}

func (m *reportMaker) call(at time.Time, method, path string) *custody.Call {
	id := m.uuid()
	c := &custody.Call{Time: at, Method: method, Path: path, Status: 200, RequestID: id, CorrelationID: "sk1." + m.uuid() + ".7." + m.hex(16), DurationMS: 1 + 6*m.rnd.Float64(), Joined: custody.ByRequestID}
	c.Vault = &custody.VaultEntry{Time: at.Add(-time.Millisecond), RequestID: id, Operation: map[string]string{"GET": "read", "POST": "update"}[method], Path: path, DisplayName: "kubernetes-agents", RemoteAddress: "10.4.0.17", CorrelationID: c.CorrelationID, Where: fmt.Sprintf("vault-audit.log:%d", 1+m.rnd.IntN(90000))}
	return c
}

func (m *reportMaker) use(at time.Time, w want) *custody.Use {
	route := w.routes[m.rnd.IntN(len(w.routes))]
	var method, path string
	fmt.Sscan(route, &method, &path)
	u := &custody.Use{Event: custody.Event{Time: at, Event: audit.RequestIntent, Method: method, Host: w.host, Path: path, PathHMAC: m.hex(32), Route: w.credential + "-" + map[bool]string{true: "read", false: "write"}[method == "GET"], RequestID: m.uuid(), Status: 200}, Outcome: 1, Attempts: 1, BytesIn: int64(m.rnd.IntN(900)), BytesOut: int64(m.rnd.IntN(60000)), DurationMS: 8 + 240*m.rnd.ExpFloat64()}
	switch n := m.rnd.IntN(1000); {
	case n < 60:
		u.Status = []int{301, 302, 304, 304}[n%4]
	case n < 105:
		u.Status = []int{404, 404, 409, 422, 403}[n%5]
	case n < 122:
		u.Status, u.Attempts = []int{500, 502, 503}[n%3], 2
	case n < 130:
		u.Status, u.Error = 0, []string{"upstream_timeout", "upstream_reset"}[n%2]
	case n < 133:
		u.Status, u.Outcome, u.Attempts, u.BytesIn, u.BytesOut, u.DurationMS = 0, 0, 0, 0, 0, 0
	case n < 135:
		u.Reflected = true
	case n < 300:
		u.Status = []int{201, 204}[n%2]
	}
	if u.Outcome != 0 && u.Status != 0 && m.rnd.IntN(2) == 0 {
		u.Access = &custody.Access{Time: at.Add(4 * time.Millisecond), Method: method, Path: path, Status: u.Status, Remote: "10.4.2.9", Where: fmt.Sprintf("access.log:%d", 1+m.rnd.IntN(90000))}
	}
	return u
}

func (m *reportMaker) denial(at time.Time, j job) *custody.Event {
	reasons := []string{"path_not_allowed", "method_not_allowed", "host_not_allowed", "host_not_allowed"}
	n := m.rnd.IntN(len(reasons))
	host := j.wants[0].host
	if n >= 2 {
		host = []string{"pastebin.com", "169.254.169.254", "api.telegram.org"}[m.rnd.IntN(3)]
	}
	return &custody.Event{Time: at, Event: audit.RequestDenied, Method: []string{"GET", "POST", "DELETE"}[m.rnd.IntN(3)], Host: host, Path: "/" + m.hex(6), Reason: reasons[n], Status: 403}
}

// close ends the issuances that are still open.
func (m *reportMaker) close(s *custody.Session) {
	for k, i := range s.Issuances {
		switch {
		case !i.RevokedAt.IsZero():
		case s.Ended.IsZero() && k == len(s.Issuances)-1:
			i.End = "outstanding"
			i.ExpiresAt = i.IssuedAt.Add(96 * time.Hour)
		case i.ExpiresAt.After(s.Last):
			i.RevokedAt, i.End = s.Last.Add(-200*time.Millisecond), "revoked"
		}
	}
}

// number gives the records their sequence numbers, in the order of time.
func number(s *custody.Session) {
	type place struct {
		t   time.Time
		seq *uint64
	}
	var all []place
	for _, e := range s.Events {
		all = append(all, place{e.Time, &e.Seq})
	}
	for _, c := range s.Calls {
		all = append(all, place{c.Time, &c.Seq})
	}
	for _, i := range s.Issuances {
		all = append(all, place{i.IssuedAt, &i.Seq})
		for _, u := range i.Uses {
			all = append(all, place{u.Time, &u.Seq})
			if u.Outcome != 0 {
				all = append(all, place{u.Time.Add(time.Duration(u.DurationMS * float64(time.Millisecond))), &u.Outcome})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b place) int { return a.t.Compare(b.t) })
	for i, p := range all {
		*p.seq = uint64(i + 1)
	}
	s.Records = len(all)
}

func (m *reportMaker) finish() {
	r := m.report
	slices.SortStableFunc(r.Sessions, func(a, b *custody.Session) int { return a.Began.Compare(b.Began) })
	r.Generated = m.start.Add(m.long + 90*time.Minute)
	records := 0
	for _, s := range r.Sessions {
		records += s.Records
	}
	r.Trails = []custody.Input{{Name: "trail/agents-2026-11-20.jsonl", Records: records, First: m.start, Last: m.start.Add(m.long)}}
	r.VaultLogs = []custody.Input{{Name: "vault-audit.log", Records: records / 8, First: m.start.Add(-time.Hour), Last: m.start.Add(m.long)}}
	r.AccessLogs = []custody.Input{{Name: "access.log", Records: records / 3, First: m.start, Last: m.start.Add(m.long)}}
	r.Totals = total(r)
}

// total counts what r holds.
func total(r *custody.Report) custody.Totals {
	t := custody.Totals{Sessions: len(r.Sessions)}
	for _, s := range r.Sessions {
		t.VaultCalls += len(s.Calls)
		t.Issuances += len(s.Issuances)
		for _, c := range s.Calls {
			if c.Vault != nil {
				t.JoinedByID++
			}
		}
		for _, e := range s.Events {
			switch e.Event {
			case audit.RequestDenied, audit.ConnectionRefused:
				t.Denials++
			case audit.RequestIntent:
				t.Bare++
			}
		}
		for _, i := range s.Issuances {
			t.Uses += len(i.Uses)
			for _, u := range i.Uses {
				t.Indeterminate += count(u.Outcome == 0)
				t.Reflections += count(u.Reflected)
				t.AccessJoined += count(u.Access != nil)
			}
		}
	}
	return t
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func (m *reportMaker) hex(n int) string {
	return fmt.Sprintf("%016x%016x", m.rnd.Uint64(), m.rnd.Uint64())[:n]
}

func (m *reportMaker) uuid() string {
	h := m.hex(32)
	return fmt.Sprintf("%s-%s-4%s-%s-%s", h[:8], h[8:12], h[13:16], h[16:20], h[20:])
}

// accuse adds findings of several kinds, at places that exist and at one that does not.
func accuse(r *custody.Report) {
	add := func(f custody.Finding) { r.Findings = append(r.Findings, f) }
	first, last := r.Sessions[0], r.Sessions[len(r.Sessions)-1]
	for n, at := range []float64{0.31, 0.32, 0.62} {
		add(custody.Finding{Code: custody.VaultUnrecorded, Session: first.ID, Time: first.Began.Add(time.Duration(at * float64(first.Last.Sub(first.Began)))), Where: fmt.Sprintf("vault-audit.log:%d", 4411+37*n), What: "Vault read kv/data/registry for the token of session " + first.ID + " from 10.9.8.7, and no trail has that call.", Hint: "The session's token is used elsewhere: revoke it, and look where 10.9.8.7 is."})
	}
	for _, s := range r.Sessions {
		for _, i := range s.Issuances {
			if i.Source.Kind == "vault" && len(i.Uses) > 1 && len(r.Findings) < 5 && s != first {
				i.Joined, i.Vault = "", nil
				add(custody.Finding{Code: custody.IssuanceNotInVault, Session: s.ID, Issuance: i.ID, Seq: i.Seq, Time: i.IssuedAt, What: fmt.Sprintf("The trail has issuance %s of %s, and Vault's log does not have its request.", i.ID, i.Credential), Hint: "Give every audit device of the time as --vault-audit; if this is all, an entry was deleted."})
				break
			}
		}
	}
	for _, s := range r.Sessions {
		if n := len(s.Calls); n > 3 && s != first {
			c := s.Calls[n/2]
			if c.Path == "auth/kubernetes/login" || c.Vault == nil {
				continue
			}
			c.Joined, c.Vault = "", nil
			add(custody.Finding{Code: custody.CallNotInVault, Session: s.ID, Seq: c.Seq, Time: c.Time, What: "The trail has a call to " + c.Path + " that Vault's log does not have."})
			break
		}
	}
	for _, i := range first.Issuances {
		if k := len(i.Uses) / 2; k > 0 {
			u := i.Uses[k]
			u.Access = nil
			add(custody.Finding{Code: custody.AccessMissing, Session: first.ID, Issuance: i.ID, Seq: u.Seq, Time: u.Time, What: fmt.Sprintf("%s answered request %s with %d, and its access log does not have it.", u.Host, u.RequestID, u.Status), Hint: "Check that the log given covers the time."})
			break
		}
	}
	for _, i := range last.Issuances {
		if i.End == "outstanding" {
			add(custody.Finding{Code: custody.IssuanceOutstanding, Session: last.ID, Issuance: i.ID, Seq: i.Seq, Time: i.IssuedAt, What: fmt.Sprintf("Issuance %s of %s is neither revoked nor expired; it is valid until %s.", i.ID, i.Credential, i.ExpiresAt.Format(time.DateTime)), Hint: "vault lease revoke " + cmp.Or(i.Source.LeaseID, "(no lease)")})
		}
	}
	r.Notes = []custody.Note{
		{What: "Access lines without a request id could not be joined.", Count: 412, Mend: "Set correlate: true on the routes, and log $http_x_request_id."},
		{What: "Vault's log hides the correlation id.", Mend: "vault write sys/config/auditing/request-headers/x-correlation-id hmac=false"},
	}
	r.Totals = total(r)
}
