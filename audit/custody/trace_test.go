package custody_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// TestHonest: whatever happens to honest sessions, nothing is found.
func TestHonest(t *testing.T) {
	seed := uint64(0)
	for range rounds(t, 4) {
		for _, headers := range []string{"clear", "hashed", "none"} {
			for _, devices := range []int{1, 2} {
				seed++
				t.Run(fmt.Sprint(headers, devices, "/", seed), func(t *testing.T) {
					w := newWorld(t, seed, devices, headers)
					w.run(1+w.rnd.IntN(3), 60)
					r := trace(t, w.evidence().config(w.now.Add(time.Minute)))
					if len(r.Findings) > 0 {
						t.Errorf("findings:%s", describe(r.Findings))
					}
					n := r.Totals
					if n.JoinedByID == 0 || headers == "clear" && (n.JoinedByCorr == 0 || n.JoinedByPlace > 0) || headers != "clear" && (n.JoinedByPlace == 0 || n.JoinedByCorr > 0 || len(r.Notes) == 0) {
						t.Errorf("totals %+v, notes %v", n, r.Notes)
					}
				})
			}
		}
	}
}

// TestKilled: a sidecar that is killed at any time leaves what is not over, and the call that it had no
// time to record, and nothing worse.
func TestKilled(t *testing.T) {
	count := map[custody.Code]int{}
	for seed := range uint64(40) {
		w := newWorld(t, seed, 1, "clear")
		s := w.start("tester")
		for range seed {
			s.step()
		}
		switch corr := s.correlation(w.uuid()); w.rnd.IntN(3) {
		case 0:
			w.serve(&vaultCall{op: "update", path: "auth/approle/login", corr: corr, gives: w.newToken("approle", nil)})
		case 1:
			if s.token != nil {
				w.serve(&vaultCall{op: "read", path: "database/creds/reader", by: s.token, corr: corr, lease: "database/creds/reader/x"})
			}
		}
		r := trace(t, w.evidence().config(w.now.Add(time.Minute)))
		for _, f := range r.Findings {
			count[f.Code]++
			if f.Code != custody.IssuanceOutstanding && f.Code != custody.CallUnanswered {
				t.Errorf("seed %d: %s", seed, describe([]custody.Finding{f}))
			}
		}
		later := trace(t, w.evidence().config(w.now.Add(24*time.Hour)))
		for _, f := range later.Findings {
			if f.Code != custody.CallUnanswered {
				t.Errorf("seed %d, a day later: %s", seed, describe([]custody.Finding{f}))
			}
		}
	}
	if count[custody.IssuanceOutstanding] == 0 || count[custody.CallUnanswered] == 0 {
		t.Errorf("findings %v, want of both codes", count)
	}
}

// TestCopiedLine: a line that stands twice in one file is found in each file, though each has all lines.
func TestCopiedLine(t *testing.T) {
	w := newWorld(t, 2, 1, "clear")
	w.start("tester").login()
	lines := w.devices[0].lines
	for file := range 3 {
		for i := range lines {
			e := w.evidence()
			e.vault = append(e.vault, e.vault[0], e.vault[0])
			e.vault[file] = strings.Join(slices.Insert(slices.Clone(lines), i+1, lines[i]), "\n") + "\n"
			found := trace(t, e.config(w.now.Add(time.Minute))).Findings
			where, hint := fmt.Sprintf("vault%d.log:%d", file, i+2), fmt.Sprintf("the first stands at vault%d.log:%d", file, i+1)
			if len(found) != 1 || found[0].Code != custody.VaultLogBroken || found[0].Where != where || !strings.HasSuffix(found[0].Hint, hint) {
				t.Errorf("line %d of file %d: want %s; findings:%s", i+1, file, where, describe(found))
			}
		}
	}
}

// TestOthers: what is not of the given trails is no finding.
func TestOthers(t *testing.T) {
	w := newWorld(t, 7, 1, "clear")
	w.run(3, 90)
	e := w.evidence()
	e.trails = e.trails[:1]
	r := trace(t, e.config(w.now.Add(time.Minute)))
	if len(r.Findings) > 0 && r.Findings[0].Code != custody.AccessUnrecorded {
		t.Errorf("one trail of three: findings:%s", describe(r.Findings))
	}
	if !slices.ContainsFunc(r.Notes, func(n custody.Note) bool { return strings.Contains(n.What, "trails were not given") }) {
		t.Errorf("one trail of three: notes %v", r.Notes)
	}

	cfg := w.evidence().config(w.now.Add(time.Minute))
	cfg.Trails, cfg.Filter.Session = cfg.Trails[:1], w.sessions[1].session.ID
	if r := trace(t, cfg); len(r.Findings) == 0 || r.Findings[0].Code != custody.VaultUnrecorded {
		t.Errorf("a session whose trail was not given: findings:%s", describe(r.Findings))
	}

	cfg = w.evidence().config(w.now.Add(time.Minute))
	cfg.VaultLogs = nil
	if r := trace(t, cfg); len(r.Findings) > 0 || len(r.Notes) == 0 || !strings.Contains(r.Notes[0].What, "no audit log of Vault") {
		t.Errorf("without Vault's log: findings:%s\nnotes %v", describe(r.Findings), r.Notes)
	}
}

// TestLentToken: with auth method token the token is its operator's own, who may use it elsewhere. What
// the session made of it is not.
func TestLentToken(t *testing.T) {
	w := newWorld(t, 1, 1, "clear")
	s := w.start("tester")
	lent := w.newToken("token-dev", nil)
	s.call("GET", 200, &vaultCall{op: "read", path: "auth/token/lookup-self", by: lent})
	s.token, s.parent = lent, lent
	s.issue()
	w.serve(&vaultCall{op: "read", path: "secret/data/mine", by: lent})
	r := trace(t, w.evidence().config(w.now.Add(24*time.Hour)))
	if len(r.Findings) > 0 || len(r.Notes) == 0 || !strings.Contains(r.Notes[0].What, "was lent") {
		t.Errorf("findings:%s\nnotes %v", describe(r.Findings), r.Notes)
	}

	child := w.newToken("token-sidekey", map[string]string{"session_id": s.session.ID})
	s.call("POST", 200, &vaultCall{op: "update", path: "auth/token/create/sidekey-session", by: lent, gives: child})
	w.serve(&vaultCall{op: "read", path: "secret/data/mine", by: child})
	if r := trace(t, w.evidence().config(w.now.Add(24*time.Hour))); len(r.Findings) != 1 || r.Findings[0].Code != custody.VaultUnrecorded {
		t.Errorf("the child's: findings:%s", describe(r.Findings))
	}
}

func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *sidecar, v *value)
		now  time.Duration // since the issuance, which lives for an hour
		want string
		code custody.Code
	}{
		{"revoked", func(s *sidecar, v *value) { s.revoke() }, time.Minute, "revoked", ""},
		{"running", func(s *sidecar, v *value) {}, time.Minute, "outstanding", custody.IssuanceOutstanding},
		{"killed, over", func(s *sidecar, v *value) {}, 2 * time.Hour, "expired", ""},
		{"ended with its token", func(s *sidecar, v *value) { s.append(audit.Record{Event: audit.SessionEnded}) }, time.Minute, "session_ended", ""},
		{"token not revoked", func(s *sidecar, v *value) {
			s.append(audit.Record{Event: audit.SessionEnded, Error: "token_not_revoked"})
		}, time.Minute, "outstanding", custody.IssuanceOutstanding},
		{"left over", func(s *sidecar, v *value) {
			s.append(audit.Record{Event: audit.SessionEnded, Unrevoked: []string{v.lease}})
		}, time.Minute, "outstanding", custody.IssuanceOutstanding},
		{"given up", func(s *sidecar, v *value) {
			s.append(audit.Record{Event: audit.CredentialRevoked, Issuance: v.id, Reason: "given_up", Error: "revocation_failed"})
		}, time.Minute, "given_up", custody.IssuanceOutstanding},
		{"given up, over", func(s *sidecar, v *value) {
			s.append(audit.Record{Event: audit.CredentialRevoked, Issuance: v.id, Reason: "given_up", Error: "revocation_failed"})
		}, 2 * time.Hour, "given_up", ""},
	} {
		w := newWorld(t, 1, 1, "clear")
		s := w.start("tester")
		s.login()
		for len(s.live) == 0 || s.live[len(s.live)-1].lease == "" {
			s.live = nil
			s.issue()
		}
		v := s.live[len(s.live)-1]
		began := w.now
		tt.end(s, v)
		r := trace(t, w.evidence().config(began.Add(tt.now)))
		all := r.Sessions[0].Issuances
		if got := all[len(all)-1].End; got != tt.want {
			t.Errorf("%s: ended %q, want %q", tt.name, got, tt.want)
		}
		r.Findings = slices.DeleteFunc(r.Findings, func(f custody.Finding) bool { return f.Issuance != v.id })
		if (len(r.Findings) > 0) != (tt.code != "") || tt.code != "" && r.Findings[0].Code != tt.code {
			t.Errorf("%s: findings:%s", tt.name, describe(r.Findings))
		}
	}
}

// TestRunsOfOneName: a login under a name that several given runs have, with an anchor that none of them
// has, is laid to the one that has not ended, wherever its trail stands; to none if all have.
func TestRunsOfOneName(t *testing.T) {
	for _, tt := range []struct {
		name        string
		firstEnded  bool
		secondEnded bool
		want        int // the session that is named; -1 for a note only
	}{
		{"the first goes on", false, true, 0},
		{"the second goes on", true, false, 1},
		{"both have ended", true, true, -1},
	} {
		w := newWorld(t, 1, 1, "clear")
		a, b := w.start("tester"), w.start("tester")
		b.session.ID = strings.TrimSuffix(a.session.ID, "0a1b2c3d") + "4e5f6a7b"
		b.trail = &memory{}
		var err error
		if b.log, err = audit.New(audit.Config{Sink: b.trail, Session: b.session, Now: func() time.Time { return w.now }}); err != nil {
			t.Fatal(err)
		}
		b.append(audit.Record{Event: audit.SessionStarted})
		for s, ended := range map[*sidecar]bool{a: tt.firstEnded, b: tt.secondEnded} {
			if ended {
				s.append(audit.Record{Event: audit.SessionEnded})
			}
		}
		w.now = w.now.Add(time.Minute)
		name := strings.TrimSuffix(a.session.ID, ".0a1b2c3d")
		w.serve(&vaultCall{op: "update", path: "auth/jwt/login", corr: "sk1." + w.uuid() + ".9.0123456789abcdef", gives: w.newToken("jwt", map[string]string{"session_id": name})})
		r := trace(t, w.evidence().config(w.now.Add(time.Minute)))
		if tt.want < 0 {
			if len(r.Findings) > 0 || len(r.Notes) == 0 {
				t.Errorf("%s: notes %v; findings:%s", tt.name, r.Notes, describe(r.Findings))
			}
			continue
		}
		if len(r.Findings) != 1 || r.Findings[0].Code != custody.TrailTruncated || r.Findings[0].Session != w.sessions[tt.want].session.ID {
			t.Errorf("%s: findings:%s", tt.name, describe(r.Findings))
		}
	}
}
