package custody_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A tampering changes one thing in the logs of w. It returns what it did, "" if w has nothing to do it
// to.
type tampering func(w *world) string

// pick returns a shared call at random, of those that ok likes.
func (w *world) pick(ok func(c *vaultCall) bool) *vaultCall {
	var all []*vaultCall
	for _, d := range w.devices {
		for _, c := range d.calls {
			if c.shared && !slices.Contains(all, c) && (ok == nil || ok(c)) {
				all = append(all, c)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rnd.IntN(len(all))]
}

func isKind(line, kind string) bool { return strings.Contains(line, `"type":"`+kind+`"`) }

// remove removes the lines of c of the given kinds.
func (w *world) remove(c *vaultCall, kinds ...string) {
	for _, d := range w.devices {
		for i := len(d.lines) - 1; i >= 0; i-- {
			if d.calls[i] == c && slices.ContainsFunc(kinds, func(k string) bool { return isKind(d.lines[i], k) }) {
				d.lines, d.calls = slices.Delete(d.lines, i, i+1), slices.Delete(d.calls, i, i+1)
			}
		}
	}
}

// edit changes a field of the lines of c, of the first that has it or of all.
func (w *world) edit(c *vaultCall, all bool, path string, change func(old any) any) (edited bool) {
	for _, d := range w.devices {
		for i := range d.lines {
			if d.calls[i] != c || edited && !all {
				continue
			}
			var line map[string]any
			if err := json.Unmarshal([]byte(d.lines[i]), &line); err != nil {
				w.t.Fatal(err)
			}
			words := strings.Split(path, "/")
			at := line
			for _, word := range words[:len(words)-1] {
				next, ok := at[word].(map[string]any)
				if !ok {
					at = nil
					break
				}
				at = next
			}
			last := words[len(words)-1]
			if at == nil || at[last] == nil && last != "error" && last != "lease_id" {
				continue
			}
			old, _ := json.Marshal(at[last])
			if at[last] = change(at[last]); at[last] == nil {
				delete(at, last)
			}
			if now, _ := json.Marshal(at[last]); string(now) == string(old) {
				continue
			}
			b, _ := json.Marshal(line)
			d.lines[i], edited = string(b), true
		}
	}
	return edited
}

func to(v any) func(any) any { return func(any) any { return v } }

// edits are the fields that are checked, each with a change. Those that only the two halves of a call
// state are changed in one of them; the trail has the others too.
var edits = []struct {
	field  string
	change func(old any) any
	shared bool
}{
	{"request/path", to("secret/data/other"), true},
	{"request/operation", to("delete"), true},
	{"request/id", to("11111111-2222-4333-8444-555555555555"), false},
	{"request/remote_address", to("10.6.6.6"), false},
	{"request/namespace", to(map[string]any{"id": "x", "path": "x/"}), false},
	{"request/client_token", to("hmac-sha256:00"), false},
	{"request/client_token_accessor", to("hmac-sha256:00"), false},
	{"request/headers/x-correlation-id", to([]string{"sk1.11111111-2222-4333-8444-555555555555.3.0123456789abcdef"}), true},
	{"request/headers", to(nil), true},
	{"auth/metadata", to(nil), false},
	{"auth/metadata/session_id", to("another"), true},
	{"auth/metadata/agent_role", to("another"), true},
	{"auth/metadata/requested_by", to("mallory"), true},
	{"auth/metadata/pod_uid", to("another"), true},
	{"auth/display_name", to("another"), false},
	{"auth/client_token", to("hmac-sha256:00"), false},
	{"response/secret/lease_id", to("database/creds/reader/another"), true},
	{"response/secret/lease_id", to(nil), true},
	{"error", func(old any) any {
		if old == nil {
			return "permission denied"
		}
		return nil
	}, true},
	{"time", func(old any) any {
		at, _ := time.Parse(time.RFC3339Nano, old.(string))
		return at.Add(20 * time.Second).Format(time.RFC3339Nano)
	}, true},
	{"time", func(old any) any {
		at, _ := time.Parse(time.RFC3339Nano, old.(string))
		return at.Add(-20 * time.Second).Format(time.RFC3339Nano)
	}, true},
}

// inVault are tamperings of Vault's log that are found even where it has no correlation ids.
var inVault = map[string]tampering{
	"delete a request": func(w *world) string {
		c := w.pick(nil)
		w.remove(c, "request")
		return c.path
	},
	"delete a response": func(w *world) string {
		c := w.pick(nil)
		w.remove(c, "response")
		return c.path
	},
	"delete a call": func(w *world) string {
		c := w.pick(nil)
		w.remove(c, "request", "response")
		return c.path
	},
	"duplicate a line": func(w *world) string {
		c := w.pick(nil)
		d := w.devices[w.rnd.IntN(len(w.devices))]
		i := slices.Index(d.calls, c)
		if i < 0 {
			return ""
		}
		j := i + w.rnd.IntN(len(d.lines)-i)
		d.lines, d.calls = slices.Insert(d.lines, j+1, d.lines[i]), slices.Insert(d.calls, j+1, c)
		return fmt.Sprint(c.path, " to ", j+1)
	},
	"move a line": func(w *world) string {
		d := w.devices[w.rnd.IntN(len(w.devices))]
		i, j := w.rnd.IntN(len(d.lines)), w.rnd.IntN(len(d.lines))
		if timeOf(d.lines[i]).Sub(timeOf(d.lines[j])).Abs() < 2*time.Second {
			return ""
		}
		line := d.lines[i]
		d.lines = slices.Insert(slices.Delete(d.lines, i, i+1), j, line)
		return fmt.Sprint(i, " to ", j)
	},
	"answer before the question": func(w *world) string {
		c := w.pick(nil)
		d := w.devices[0]
		i := slices.Index(d.calls, c)
		if i < 0 || i+1 >= len(d.calls) || d.calls[i+1] != c {
			return ""
		}
		d.lines[i], d.lines[i+1] = d.lines[i+1], d.lines[i]
		return c.path
	},
	"edit one line": func(w *world) string {
		e := edits[w.rnd.IntN(len(edits))]
		c := w.pick(nil)
		if len(w.devices) > 1 && !e.shared && e.field != "request/remote_address" {
			return "" // the other device may have the other half, or the same once more
		}
		if !w.edit(c, false, e.field, e.change) {
			return ""
		}
		return e.field + " of " + c.path
	},
	"edit a call": func(w *world) string {
		e := edits[w.rnd.IntN(len(edits))]
		c := w.pick(func(c *vaultCall) bool {
			return e.field != "request/operation" || c.op != "delete"
		})
		if !e.shared || w.headers != "clear" && strings.HasPrefix(e.field, "request/headers") || !w.edit(c, true, e.field, e.change) {
			return ""
		}
		return e.field + " of " + c.path
	},
	"cut the end": func(w *world) string {
		c := w.pick(nil)
		cut := w.firstLine(c)
		for _, d := range w.devices {
			i := slices.IndexFunc(d.lines, func(l string) bool { return !timeOf(l).Before(cut) })
			if i >= 0 {
				d.lines, d.calls = d.lines[:i], d.calls[:i]
			}
		}
		return c.path
	},
	"cut the beginning": func(w *world) string {
		c := w.pick(nil)
		cut := w.firstLine(c)
		for _, d := range w.devices {
			for len(d.lines) > 0 && !timeOf(d.lines[0]).After(cut) {
				d.lines, d.calls = d.lines[1:], d.calls[1:]
			}
		}
		return c.path
	},
	"cut a line": func(w *world) string {
		d := w.devices[0]
		i := slices.IndexFunc(d.calls, func(c *vaultCall) bool { return c.shared })
		d.lines[i] = d.lines[i][:len(d.lines[i])/2]
		return d.calls[i].path
	},
	"use a copied token": func(w *world) string {
		return w.steal(&vaultCall{op: "read", path: "secret/data/agents/x", from: "10.6.6.6"})
	},
	"use a copied token in vain": func(w *world) string {
		return w.steal(&vaultCall{op: "read", path: "secret/data/agents/x", failed: true, from: "10.6.6.6"})
	},
	"use a copied token with a copied correlation id": func(w *world) string {
		c := w.pick(func(c *vaultCall) bool {
			return c.corr != "" && timeOf(w.devices[0].lines[0]).Add(time.Minute).After(w.firstLine(c))
		})
		if c == nil {
			return ""
		}
		return w.steal(&vaultCall{op: "read", path: "secret/data/agents/x", corr: c.corr, from: "10.6.6.6"})
	},
	"use a copied token with an invented correlation id": func(w *world) string {
		return w.steal(&vaultCall{op: "update", path: "sys/leases/revoke/x", corr: "sk1." + w.uuid() + ".5.0123456789abcdef", from: "10.6.6.6"})
	},
}

func timeOf(line string) time.Time {
	var l struct{ Time time.Time }
	_ = json.Unmarshal([]byte(line), &l) // a cut line is of no time
	return l.Time
}

func (w *world) firstLine(c *vaultCall) time.Time {
	var first time.Time
	for _, d := range w.devices {
		if i := slices.Index(d.calls, c); i >= 0 && (first.IsZero() || timeOf(d.lines[i]).Before(first)) {
			first = timeOf(d.lines[i])
		}
	}
	return first
}

// steal has somebody use a token of a session, at the end of the log.
func (w *world) steal(c *vaultCall) string {
	victim := w.pick(func(c *vaultCall) bool { return c.by != nil && !c.failed })
	c.by = victim.by
	w.now = w.now.Add(time.Minute)
	w.serve(c)
	return c.by.name
}

// inTrail are tamperings of a trail that need no Vault to be found.
var inTrail = map[string]func(lines []string, rnd *rand.Rand) []string{
	"delete a record": func(lines []string, rnd *rand.Rand) []string {
		i := rnd.IntN(len(lines) - 1)
		return slices.Delete(lines, i, i+1)
	},
	"edit a record": func(lines []string, rnd *rand.Rand) []string {
		i := rnd.IntN(len(lines))
		words := []string{`"role":"`, `"time":"2`, `"requested_by":"a`, `"uid":"`, `"event":"`}
		word := words[rnd.IntN(len(words))]
		lines[i] = strings.Replace(lines[i], word, word+"9", 1)
		return lines
	},
	"duplicate a record": func(lines []string, rnd *rand.Rand) []string {
		i := rnd.IntN(len(lines))
		return slices.Insert(lines, i, lines[i])
	},
	"exchange records": func(lines []string, rnd *rand.Rand) []string {
		i := rnd.IntN(len(lines) - 1)
		lines[i], lines[i+1] = lines[i+1], lines[i]
		return lines
	},
}

// TestTampered: any single change of what two logs share is found.
func TestTampered(t *testing.T) {
	done := map[string]int{}
	for _, headers := range []string{"clear", "none", "hashed"} {
		for _, devices := range []int{1, 2} {
			for name, tamper := range inVault {
				for seed := range uint64(6) {
					w := newWorld(t, seed, devices, headers)
					w.run(1+int(seed)%2, 30)
					now := w.now.Add(time.Minute)
					what := tamper(w)
					if what == "" {
						continue
					}
					done[name]++
					if r := trace(t, w.evidence().config(now)); len(r.Findings) == 0 {
						t.Errorf("headers %s, %d devices, seed %d: %s (%s): nothing was found; totals %+v, notes %+v", headers, devices, seed, name, what, r.Totals, r.Notes)
					}
				}
			}
		}
	}
	for name, tamper := range inTrail {
		for seed := range uint64(15) {
			w := newWorld(t, seed, 1, "clear")
			w.run(1, 30)
			e := w.evidence()
			lines := strings.SplitAfter(strings.TrimSuffix(e.trails[0], "\n"), "\n")
			e.trails[0] = strings.Join(tamper(lines, w.rnd), "")
			done[name]++
			if r := trace(t, e.config(w.now.Add(time.Minute))); len(r.Findings) == 0 || r.Findings[len(r.Findings)-1].Code == "" {
				t.Errorf("seed %d: %s: nothing was found", seed, name)
			}
		}
	}
	for name := range inVault {
		if done[name] == 0 {
			t.Errorf("%s was never tried", name)
		}
	}
}

// rewrite writes a trail anew, as somebody would who can: with a chain and a key that fit. Keep says
// which records to keep, and changes them. With anew, correlation ids name the new chain.
func rewrite(t *testing.T, trail string, anew bool, keep func(e *audit.Entry) bool) string {
	t.Helper()
	var out memory
	var log *audit.Log
	var now time.Time
	moved := map[uint64]uint64{}
	corr := map[string]string{}
	for line := range strings.Lines(trail) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		now = e.Time
		kept := keep(&e)
		if log == nil {
			var err error
			if log, err = audit.New(audit.Config{Sink: &out, Session: e.Session, Pod: e.Pod, Now: func() time.Time { return now }}); err != nil {
				t.Fatal(err)
			}
		}
		if e.Event == audit.SegmentSigned || !kept {
			continue
		}
		if e.Intent != 0 {
			if e.Intent = moved[e.Intent]; e.Intent == 0 {
				continue
			}
		}
		if e.Source != nil && anew && e.Source.CorrelationID != "" {
			if corr[e.Source.CorrelationID] == "" {
				seq, head := log.Anchor()
				corr[e.Source.CorrelationID] = fmt.Sprintf("%s.%d.%.16s", strings.Join(strings.Split(e.Source.CorrelationID, ".")[:2], "."), seq, head)
			}
			e.Source.CorrelationID = corr[e.Source.CorrelationID]
		}
		ref, err := log.Append(e.Record)
		if err != nil {
			t.Fatal(err)
		}
		moved[e.Seq] = ref.Seq
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestRewritten: a trail that was written anew with a chain and a key that fit is found by what
// Vault's log has of the old one, and a trail that was cut too.
func TestRewritten(t *testing.T) {
	for _, tt := range []struct {
		name string
		anew bool
		keep func(e *audit.Entry) bool
		code custody.Code
		what string
	}{
		{"the same", true, func(*audit.Entry) bool { return true }, custody.CallMismatch, "correlation id"},
		{"without denials", false, func(e *audit.Entry) bool { return e.Event != audit.RequestDenied }, custody.TrailTruncated, "its own calls"},
		{"without denials, ids too", true, func(e *audit.Entry) bool { return e.Event != audit.RequestDenied }, custody.TrailTruncated, "with another hash"},
		{"another requester", true, func(e *audit.Entry) bool { e.Session.RequestedBy = "bob"; return true }, custody.CallMismatch, "requested_by"},
		{"without its revocations", true, func(e *audit.Entry) bool {
			return e.Event != audit.VaultCalled || !strings.HasPrefix(e.Source.Path, "sys/leases")
		}, custody.VaultUnrecorded, "sys/leases/revoke"},
		{"without reads of the database", true, func(e *audit.Entry) bool {
			return e.Event != audit.VaultCalled && e.Event != audit.CredentialIssued || e.Source.Path != "database/creds/reader"
		}, custody.VaultUnrecorded, "database/creds/reader"},
	} {
		w := newWorld(t, 4, 1, "clear")
		w.run(1, 80)
		e := w.evidence()
		e.trails[0] = rewrite(t, e.trails[0], tt.anew, tt.keep)
		r := trace(t, e.config(w.now.Add(time.Minute)))
		if !slices.ContainsFunc(r.Findings, func(f custody.Finding) bool { return f.Code == tt.code && strings.Contains(f.What, tt.what) }) {
			t.Errorf("%s: want %s: %s; findings:%s", tt.name, tt.code, tt.what, describe(r.Findings))
		}
	}
}

// TestCut: a trail whose end was cut off is found if Vault was called after the first record that is
// missing.
func TestCut(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, 1, "clear")
		w.run(2, 60)
		e := w.evidence()
		lines := slices.Collect(strings.Lines(e.trails[0]))
		keep := 1 + w.rnd.IntN(len(lines)-1)
		must, may := false, false
		for _, l := range lines[keep:] {
			var r audit.Entry
			if err := json.Unmarshal([]byte(l), &r); err != nil {
				t.Fatal(err)
			}
			if r.Event != audit.VaultCalled {
				continue
			}
			seq := 0
			if _, err := fmt.Sscanf(strings.Split(r.Source.CorrelationID, ".")[2], "%d", &seq); err != nil {
				t.Fatal(err)
			}
			may = may || seq > keep
			must = must || seq > keep && r.Status != 0 && r.Status != 503
		}
		e.trails[0] = strings.Join(lines[:keep], "")
		r := trace(t, e.config(w.now.Add(24*time.Hour)))
		cut := slices.ContainsFunc(r.Findings, func(f custody.Finding) bool { return f.Code == custody.TrailTruncated })
		if cut && !may || !cut && must {
			t.Errorf("seed %d: %d of %d records kept, cut: %v, want %v; findings:%s", seed, keep, len(lines), cut, must, describe(r.Findings))
		}
	}
}
