package custody

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A span is a time in which Vault's log has no correlation ids in clear.
type span struct{ from, to time.Time }

const headerPath = "sys/config/auditing/request-headers/x-correlation-id"

// mendHeaders is what makes Vault's log have correlation ids.
const mendHeaders = "vault write " + headerPath + " hmac=false"

// fewBlind is how many calls without a correlation id, before the first that has one, are taken for a
// setting: fewer were edited.
const fewBlind = 2

// findBlind finds when Vault did not log correlation ids. Whoever changes the list of logged headers
// leaves an entry; Vault itself puts the header back on it when it starts. Where neither explains that
// an entry has none, the entry was edited.
func (t *tracer) findBlind() {
	slices.SortStableFunc(t.vault.pairs, func(a, b *pair) int { return a.at().Compare(b.at()) })
	begin, _ := t.vault.span()
	open, leading, early := begin, true, 0
	for _, p := range t.vault.pairs {
		switch h := p.either(); {
		case strings.HasPrefix(p.corr(), anchorPrefix):
			if !open.IsZero() && (!leading || early >= fewBlind) {
				t.blind = append(t.blind, span{open, p.at()})
			}
			open, leading = time.Time{}, false
		case strings.EqualFold(h.Path, headerPath) && h.Operation != "read" && h.error == "":
			if open.IsZero() || leading {
				open, leading = p.at(), false
			}
		case p.target != nil && leading:
			early++
		}
	}
	if !open.IsZero() {
		t.blind = append(t.blind, span{open, time.Unix(1<<40, 0)})
	}
}

// isBlind reports whether Vault did not log correlation ids when it logged p.
func (t *tracer) isBlind(p *pair) bool {
	return slices.ContainsFunc(t.blind, func(s span) bool { return !p.at().Before(s.from) && p.at().Before(s.to) })
}

// noteBlind says how many calls Vault's log has without their correlation ids.
func (t *tracer) noteBlind() {
	placed, bare := 0, 0
	for _, target := range t.targets {
		switch {
		case target.how == ByPathAndTime:
			placed++
		case target.pair != nil && target.corr != "" && t.isBlind(target.pair):
			bare++
		}
	}
	how := "does not have the correlation ids"
	if t.vault.hashed > 0 {
		how = "has only hashes of the correlation ids"
	}
	t.note(placed+bare, fmt.Sprintf("Vault's log %s of %d calls, and so does not anchor the trail there: %d were joined by request id, and %d by path and time only", how, placed+bare, bare, placed), mendHeaders)
}
