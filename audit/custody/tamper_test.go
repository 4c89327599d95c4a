package custody_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
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

// An edit changes a field.
type edit struct {
	field  string
	change func(old any) any
	shared bool // the trail has it too
}

// edits are the fields that are checked, each with a change. Those that only the two halves of a call
// state are changed in one of them.
var edits = []edit{
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

// one edits the field in one line of a call.
func (e edit) one(w *world) string {
	if len(w.devices) > 1 && !e.shared && e.field != "request/remote_address" {
		return "" // the other device may have the other half, or the same once more
	}
	if add := e.change; e.field == "error" {
		e.change = func(old any) any { // a request need not have the error that its response has
			if old != nil {
				return old
			}
			return add(nil)
		}
	}
	return e.in(w, false)
}

// all edits the field in all lines of a call.
func (e edit) all(w *world) string {
	if !e.shared || w.headers != "clear" && strings.HasPrefix(e.field, "request/headers") {
		return ""
	}
	return e.in(w, true)
}

// in draws calls until one has the field, but not for ever.
func (e edit) in(w *world, all bool) string {
	for range 30 {
		if c := w.pick(nil); w.edit(c, all, e.field, e.change) {
			return e.field + " of " + c.path
		}
	}
	return ""
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

// rounds is how often a property is tried by default, times SIDEKEY_ROUNDS.
func rounds(t *testing.T, n uint64) uint64 {
	t.Helper()
	text := os.Getenv("SIDEKEY_ROUNDS")
	if text == "" {
		return n
	}
	times, err := strconv.ParseUint(text, 10, 16)
	if err != nil || times < 1 {
		t.Fatalf("SIDEKEY_ROUNDS=%s is no number of rounds", text)
	}
	return n * times
}

// A tamperer tries tamperings, each in a copy of one of its worlds.
type tamperer struct {
	t      *testing.T
	worlds []*world // of one seed, as Vault's logs may be: with or without correlation ids, of one device or two
	seed   uint64
	tried  uint64
	done   map[string]int
}

// next makes worlds of the next seed.
func (x *tamperer) next(seed uint64) {
	x.seed, x.worlds = seed, nil
	for _, headers := range []string{"clear", "none", "hashed"} {
		for _, devices := range []int{1, 2} {
			w := newWorld(x.t, seed, devices, headers)
			w.run(1+int(seed)%2, 20)
			x.worlds = append(x.worlds, w)
		}
	}
}

// try does one thing to the logs of a world, and reports whether there was something to do it to.
func (x *tamperer) try(world int, name string, tamper tampering) bool {
	w := *x.worlds[world]
	x.tried++
	w.rnd = rand.New(rand.NewPCG(x.tried, 2))
	w.devices = nil
	for _, d := range x.worlds[world].devices {
		w.devices = append(w.devices, &device{d.key, slices.Clone(d.lines), slices.Clone(d.calls)})
	}
	now := w.now.Add(time.Minute)
	what := tamper(&w)
	if what == "" {
		return false
	}
	x.done[name]++
	if r := trace(x.t, w.evidence().config(now)); len(r.Findings) == 0 {
		x.t.Errorf("headers %s, %d devices, seed %d: %s (%s): nothing was found; totals %+v, notes %+v", w.headers, len(w.devices), x.seed, name, what, r.Totals, r.Notes)
	}
	return true
}

// TestTampered: any single change of what two logs share is found. Each is made in half of the worlds of a
// seed, and in the other half of those of the next; where there is nothing to change, in one more.
func TestTampered(t *testing.T) {
	type trial struct {
		name   string
		tamper tampering
	}
	var trials []trial
	for _, name := range slices.Sorted(maps.Keys(inVault)) {
		trials = append(trials, trial{name, inVault[name]})
	}
	for i, e := range edits {
		trials = append(trials, trial{fmt.Sprint("edit one line, ", i), e.one})
		if e.shared {
			trials = append(trials, trial{fmt.Sprint("edit a call, ", i), e.all})
		}
	}
	x := &tamperer{t: t, done: map[string]int{}}
	for seed := range rounds(t, 2) {
		x.next(seed)
		half := len(x.worlds) / 2
		for i, trial := range trials {
			for k, done := 0, 0; k < len(x.worlds) && done < half; k++ {
				if x.try((i+half*int(seed)+k)%len(x.worlds), trial.name, trial.tamper) {
					done++
				}
			}
		}
	}
	for _, trial := range trials {
		if x.done[trial.name] == 0 {
			t.Errorf("%s was never tried", trial.name)
		}
	}
}
