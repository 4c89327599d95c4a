package custody_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

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

// TestTamperedTrail: any single change of a trail is found without Vault.
func TestTamperedTrail(t *testing.T) {
	for seed := range rounds(t, 8) {
		w := newWorld(t, seed, 1, "clear")
		w.run(1, 20)
		for _, name := range slices.Sorted(maps.Keys(inTrail)) {
			e := w.evidence()
			lines := slices.Collect(strings.Lines(e.trails[0]))
			e.trails[0] = strings.Join(inTrail[name](lines, w.rnd), "")
			if r := trace(t, e.config(w.now.Add(time.Minute))); len(r.Findings) == 0 || r.Findings[len(r.Findings)-1].Code == "" {
				t.Errorf("seed %d: %s: nothing was found", seed, name)
			}
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
