package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAttack runs the gallery: each case through each of its entrances, with four checks always.
//
//  1. A credential was seen by its rightful upstream over TLS and by nobody else: not by the agent,
//     not in the trail, in none of the renderings of forms (I1, I6, I10, I11).
//  2. What is refused is not dialled (I7).
//  3. Each request leaves exactly one denial, or an intent and an outcome; each connection that
//     came to no request exactly one record of its own (I14).
//  4. Afterwards the connection is closed, or open and good for a decision of its own (I8).
func TestAttack(t *testing.T) {
	dns, bad := startNameServer(t), newBadCertificates(t)
	var files sync.WaitGroup // more than t.Parallel runs at once, since most of the time is spent waiting
	for _, file := range attackFiles(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		attacks := readAttacks(t, file)
		files.Go(func() {
			t.Run(name, func(t *testing.T) { runAttacks(t, attacks, dns, bad) })
		})
	}
	files.Wait()
}

// runAttacks runs the cases of one file, one after another in one proxy, but for those that need
// a proxy of their own.
func runAttacks(t *testing.T, attacks []attack, dns *nameServer, bad *badCertificates) {
	shared := newGallery(t, bad)
	for _, a := range attacks {
		for _, via := range a.via {
			t.Run(a.id+"/"+via, func(t *testing.T) {
				if bug := a.keys["bug"]; bug != "" {
					t.Skip("bug: " + bug)
				}
				if !a.needsOwnRig() {
					shared.attack(t, a, via)
					return
				}
				g := newAttackRig(t, a, dns)
				g.attack(t, a, via)
				g.finish(t)
			})
		}
	}
	shared.finish(t)
}

// finish stops the proxy and looks for records that came after their case.
func (g *gallery) finish(t *testing.T) {
	t.Helper()
	g.release()
	g.stopAndWait()
	tally := map[string]int{}
	for _, rec := range records(g.trail.text()) {
		if conn, ok := rec["conn"].(string); ok {
			tally[conn]++
		}
	}
	for conn, id := range g.owner {
		if tally[conn] != g.tally[conn] {
			t.Errorf("%s: %d records, and %d when its connection had ended", id, g.tally[conn], tally[conn])
		}
	}
}

func (g *gallery) attack(t *testing.T, a attack, via string) {
	a = a.at(via)
	g.quiesce(t)
	g.raw.answerNext(a.answer)
	dials, mark := g.dials.Load(), g.trail.len()
	g.took(t, dials)
	conn, first := g.open(t, a, via)
	defer conn.close()
	var answers []answer
	switch {
	case first != nil:
		answers = []answer{*first}
	case a.kind == "silence":
		conn.close()
		answers = []answer{{outcome: "closed"}}
	default:
		answers = conn.send(a)
	}
	checkAnswers(t, a, answers)
	arrived := g.took(t, dials)
	g.checkArrivals(t, a, via, arrived)
	if !slices.ContainsFunc(a.wants, want.sent) {
		if n := g.dials.Load() - dials; n != 0 || len(arrived) != 0 {
			t.Errorf("refused, and there were %d dials and %d requests upstream", n, len(arrived))
		}
	}
	expected := g.checkConnection(t, a, via, conn)
	for _, w := range a.wants {
		expected = append(expected, w.records()...)
	}
	if also := a.keys["also"]; also != "" {
		expected = append(expected, strings.Split(also, ", ")...)
	}
	conn.close()
	g.quiesce(t)
	g.checkRecords(t, a.id+"/"+via, mark, expected)
	g.took(t, dials) // checks the request that followed
	g.checkSecrets(t, a, conn.got(), g.trail.since(mark))
}

func checkAnswers(t *testing.T, a attack, got []answer) {
	t.Helper()
	if len(got) != len(a.wants) && a.wants[0].outcome != "handshake" {
		t.Fatalf("got %d answers, want %d: %+v", len(got), len(a.wants), got)
	}
	for i, w := range a.wants[:len(got)] {
		g := got[i]
		if g.outcome != w.outcome || g.status != w.status || g.header.Get("Sidekey-Refusal") != w.refusal() {
			t.Errorf("answer %d: got %s %d %s, want %+v; body %.200q", i, g.outcome, g.status, g.header.Get("Sidekey-Refusal"), w, g.body)
		}
		if g.outcome == "" && g.status != http.StatusSwitchingProtocols && w.kind != "refused" && g.broken != (w.kind == "broken") {
			t.Errorf("answer %d: broken off is %v, want %+v; body %.200q", i, g.broken, w, g.body)
		}
		if w.refusal() != "" && g.header.Get("Content-Type") == "application/problem+json" && !strings.Contains(g.body, `"reason": "`+w.refusal()+`"`) && g.body != "" {
			t.Errorf("answer %d: the problem document says %.300q", i, g.body)
		}
	}
}

// checkArrivals is the first check for the upstreams, and looks at what else has to arrive, or not.
func (g *gallery) checkArrivals(t *testing.T, a attack, via string, arrived []arrival) {
	t.Helper()
	var want, lines []string
	for _, w := range a.wants {
		if w.kind == "sent" && w.reason == "" && a.kind == "request" && a.keys["arrives"] == "" {
			r := parseRequest(a, g.vars)
			want = append(want, r.method+" "+r.target)
		}
	}
	if s := a.keys["arrives"]; s != "" && s != "nothing" {
		want = strings.Split(string(expand(s, g.vars)), ", ")
	}
	for _, b := range arrived {
		line := b.line
		if secret := secretOf[b.host]; b.host == "query.test" {
			line = strings.TrimRight(strings.TrimSuffix(line, "key="+secret), "?&")
		}
		lines = append(lines, line)
		for name := range strings.FieldsSeq(a.keys["absent"]) {
			if _, ok := b.header[name]; ok || strings.Contains(b.rest, name+":[") {
				t.Errorf("%s arrived", name)
			}
		}
		for name := range strings.FieldsSeq(a.keys["keeps"]) {
			if _, ok := b.header[name]; !ok {
				t.Errorf("%s did not arrive", name)
			}
		}
	}
	if via == "tunnel-h2" { // streams overtake each other
		slices.Sort(want)
		slices.Sort(lines)
	}
	if want != nil || a.keys["arrives"] == "nothing" {
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("I3: what arrived (-want +got):\n%s", diff)
		}
	}
}

// checkConnection is the fourth check. It returns the records that the request that follows leaves.
func (g *gallery) checkConnection(t *testing.T, a attack, via string, conn agentConn) (expected []string) {
	t.Helper()
	last := a.wants[len(a.wants)-1]
	state := a.keys["conn"]
	if state == "" {
		state = "open"
		if last.outcome == "closed" || last.outcome == "handshake" || last.kind == "refused" || last.kind == "broken" && via != "tunnel-h2" || last.status == http.StatusSwitchingProtocols || via == "connect" {
			state = "closed"
		}
		if last.outcome == "reset" && last.kind == "refused" {
			return nil // the record is that of a connection without a request
		}
	}
	if state == "closed" {
		if !conn.closed() {
			t.Error("the connection is still open")
		}
		return nil
	}
	if state == "any" {
		return nil
	}
	g.repair()
	switch got := conn.follow(); {
	case got.status == 200:
		return []string{"request.intent", "request.outcome"}
	case got.status == 403 && state == "open-denied":
		return []string{"request.denied " + got.header.Get("Sidekey-Refusal")}
	case got.status == 502 && state == "open-unsent":
		return []string{"request.intent", "request.outcome " + got.header.Get("Sidekey-Refusal")}
	default:
		t.Errorf("a valid request afterwards: got %s %d %s (%s)", got.outcome, got.status, got.header.Get("Sidekey-Refusal"), state)
	}
	return nil
}

func (m *memoryTrail) len() int { m.mu.Lock(); defer m.mu.Unlock(); return m.buf.Len() }

func (m *memoryTrail) since(mark int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.buf.Bytes()[mark:])
}

func records(lines string) (out []map[string]any) {
	for line := range strings.Lines(lines) {
		var rec map[string]any
		if json.Unmarshal([]byte(line), &rec) == nil {
			out = append(out, rec)
		}
	}
	return out
}

// label is what the gallery says of a record: its event and its reason.
func label(rec map[string]any) string {
	why := ""
	for _, key := range []string{"reason", "error", "detail"} {
		if s, ok := rec[key].(string); ok && why == "" {
			why = " " + s
		}
	}
	return fmt.Sprint(rec["event"], why)
}

// checkRecords is the third check.
func (g *gallery) checkRecords(t *testing.T, id string, mark int, expected []string) {
	t.Helper()
	var got []string
	var recs []map[string]any
	for deadline := time.Now().Add(agentPatience); ; time.Sleep(time.Millisecond) {
		got, recs = nil, nil
		for _, rec := range records(g.trail.since(mark)) {
			conn, ok := rec["conn"].(string)
			if !ok {
				continue // of a credential
			}
			if owner := g.owner[conn]; owner != "" && owner != id {
				continue // late; finish says so
			}
			got, recs = append(got, label(rec)), append(recs, rec)
		}
		if len(got) >= len(expected) || time.Now().After(deadline) {
			break
		}
	}
	for _, rec := range recs {
		conn := rec["conn"].(string)
		if g.owner[conn] == "" {
			g.tally[conn] = 0
		}
		g.owner[conn] = id
		g.tally[conn]++
	}
	slices.Sort(expected)
	slices.Sort(got)
	for i, label := range expected {
		if any, ok := strings.CutSuffix(label, "*"); ok && i < len(got) && strings.HasPrefix(got[i], any) && len(got[i]) > len(any) {
			expected[i] = got[i]
		}
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("I14: records (-want +got):\n%s", diff)
	}
}

// checkSecrets is the first check, for the agent and the trail, and what a case says of both.
func (g *gallery) checkSecrets(t *testing.T, a attack, agent, trail string) {
	t.Helper()
	seen, recorded := newHaystack(agent), newHaystack(trail)
	for _, needle := range seekers {
		if seen.holds(needle) {
			t.Error("I10: the agent saw a credential")
		}
		if recorded.holds(needle) {
			t.Error("I10: the trail holds a credential")
		}
	}
	if s := a.keys["shows"]; s != "" && !strings.Contains(agent, string(expand(s, g.vars))) {
		t.Errorf("the agent did not get %q: %.500q", s, agent)
	}
	if s := a.keys["lacks"]; s != "" && strings.Contains(agent, string(expand(s, g.vars))) {
		t.Errorf("the agent got %q", s)
	}
	if s := a.keys["trail-lacks"]; s != "" && strings.Contains(trail, string(expand(s, g.vars))) {
		t.Errorf("the trail holds %q", s)
	}
	for i := range len(trail) {
		if c := trail[i]; c != '\n' && (c < ' ' || c > '~') {
			t.Fatalf("the trail holds the byte %#x", c)
		}
	}
}
