package custody_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit/custody"
)

// TestFilter: a filter keeps what it names, and of findings those that are about that.
func TestFilter(t *testing.T) {
	w := newWorld(t, 3, 1, "clear")
	w.run(3, 120)
	e := w.evidence()
	e.access = ""
	now := w.now.Add(time.Minute)
	all := trace(t, e.config(now))
	one := all.Sessions[1]
	lease := ""
	for _, iss := range one.Issuances {
		lease = max(lease, iss.Source.LeaseID)
	}
	if lease == "" {
		t.Fatal("the session has no lease")
	}
	middle := one.Began.Add(one.Last.Sub(one.Began) / 2)
	for _, tt := range []struct {
		name   string
		filter custody.Filter
		ok     func(r *custody.Report) bool
	}{
		{"nothing", custody.Filter{}, func(r *custody.Report) bool { return len(r.Sessions) == 3 && r.Totals == all.Totals }},
		{"session", custody.Filter{Session: one.ID}, func(r *custody.Report) bool {
			return len(r.Sessions) == 1 && r.Sessions[0].ID == one.ID && len(r.Sessions[0].Calls) == len(one.Calls) && r.Totals.VaultCalls == len(one.Calls)
		}},
		{"session by name", custody.Filter{Session: one.ID[:len(one.ID)-9]}, func(r *custody.Report) bool { return len(r.Sessions) == 1 && r.Sessions[0].ID == one.ID }},
		{"role", custody.Filter{Role: one.Role}, func(r *custody.Report) bool { return len(r.Sessions) == 1 && r.Sessions[0].ID == one.ID }},
		{"no such role", custody.Filter{Role: "x"}, func(r *custody.Report) bool {
			return len(r.Sessions) == 0 && r.Totals == (custody.Totals{}) && len(r.Notes) > 0 && strings.Contains(r.Notes[len(r.Notes)-1].What, "the filter leaves nothing")
		}},
		{"credential", custody.Filter{Credential: "db"}, func(r *custody.Report) bool {
			return r.Totals.Issuances > 0 && r.Totals.Issuances < all.Totals.Issuances && r.Totals.Denials == 0 && everyIssuance(r, func(i *custody.Issuance) bool { return i.Credential == "db" })
		}},
		{"lease", custody.Filter{Lease: lease}, func(r *custody.Report) bool {
			return len(r.Sessions) == 1 && r.Totals.Issuances == 1 && r.Sessions[0].Issuances[0].Source.LeaseID == lease && len(r.Sessions[0].Calls) > 0
		}},
		{"since", custody.Filter{Session: one.ID, Since: middle}, func(r *custody.Report) bool {
			return len(r.Sessions) == 1 && len(r.Sessions[0].Calls) < len(one.Calls) && everyIssuance(r, func(i *custody.Issuance) bool {
				return !slices.ContainsFunc(i.Uses, func(u *custody.Use) bool { return u.Time.Before(middle) })
			})
		}},
		{"since later", custody.Filter{Since: now}, func(r *custody.Report) bool { return len(r.Sessions) == 0 }},
	} {
		cfg := e.config(now)
		cfg.Filter = tt.filter
		if r := trace(t, cfg); !tt.ok(r) || len(r.Findings) > 0 {
			t.Errorf("%s: %d sessions, totals %+v of %+v; findings:%s", tt.name, len(r.Sessions), r.Totals, all.Totals, describe(r.Findings))
		}
	}

	// A finding of the second session only.
	victim := w.sessions[slices.IndexFunc(w.sessions, func(s *sidecar) bool { return s.session.ID == one.ID })]
	w.now = w.now.Add(time.Minute)
	w.serve(&vaultCall{op: "read", path: "secret/data/x", by: victim.token, from: "10.6.6.6"})
	for _, tt := range []struct {
		filter custody.Filter
		want   int
	}{
		{custody.Filter{}, 1},
		{custody.Filter{Session: one.ID}, 1},
		{custody.Filter{Session: all.Sessions[0].ID}, 0},
		{custody.Filter{Role: one.Role, Credential: "db"}, 1},
		{custody.Filter{Since: w.now.Add(-time.Second)}, 1},
		{custody.Filter{Since: w.now.Add(time.Second)}, 0},
	} {
		e := w.evidence()
		e.access = ""
		cfg := e.config(w.now)
		cfg.Filter = tt.filter
		if r := trace(t, cfg); len(r.Findings) != tt.want {
			t.Errorf("%+v: want %d; findings:%s", tt.filter, tt.want, describe(r.Findings))
		}
	}
}

func everyIssuance(r *custody.Report, ok func(*custody.Issuance) bool) bool {
	for _, s := range r.Sessions {
		for _, iss := range s.Issuances {
			if !ok(iss) {
				return false
			}
		}
	}
	return true
}
