package custody

import (
	"fmt"
	"strings"
	"time"
)

// slowest is how long Vault works at a request, at most, by default.
const slowest = 90 * time.Second

// auditPath is where audit devices are enabled, tried and disabled, which leaves one entry of two.
const auditPath = "sys/audit/"

// checkHalves checks that the two entries of each call say the same, and that both are there.
func (t *tracer) checkHalves() {
	open := 0
	for _, p := range t.vault.pairs {
		switch {
		case p.req != nil && p.resp != nil:
			t.halvesAgree(p)
		case p.resp == nil:
			if p.target == nil && !strings.HasPrefix(p.req.Path, auditPath) {
				open++ // Vault may have stopped before it answered
			} else if p.target != nil && p.target.status != 0 && p.req.id != "" {
				t.lone(p, "has no response, and Vault answered it", "the response was removed from Vault's log, or its id edited, or a device was not given")
			}
		case p.target != nil || t.startless(p.resp):
			t.lone(p, "has no request", "the request was removed from Vault's log, or its id edited; or it stands in a file that was not given")
		}
	}
	t.note(open, fmt.Sprintf("%d requests in Vault's log have no response: Vault stopped before it answered, or entries are missing", open), "")
}

// startless reports whether the request of h ought to be in the log: it may have come before the log
// begins, or before the audit device was enabled, which itself has a response only.
func (t *tracer) startless(h *half) bool {
	begin := t.vault.inputs[h.file].First
	return h.at.Sub(begin) > slowest && h.id != "" && !strings.HasPrefix(h.Path, auditPath)
}

func (t *tracer) lone(p *pair, what, hint string) {
	h := p.either()
	f := Finding{
		Code: VaultLogBroken, Time: h.at, Where: h.where(), Hint: hint,
		What: fmt.Sprintf("The %s %s (%s of %s) in Vault's log %s.", h.kind(), h.id, h.Operation, quoted(h.Path), what),
	}
	if p.target != nil {
		f.Session, f.Seq = p.target.s.ID, p.target.seq
	}
	t.find(f)
}

func (t *tracer) halvesAgree(p *pair) {
	diff := differences(p.req, p.resp)
	if p.req.error != "" && p.resp.error == "" {
		diff = append(diff, "error")
	}
	if len(diff) == 0 {
		return
	}
	f := Finding{
		Code: VaultLogBroken, Time: p.resp.at, Where: p.resp.where(),
		What: fmt.Sprintf("The request and the response of %s in Vault's log do not say the same: %s.", p.resp.id, strings.Join(diff, ", ")),
		Hint: "one of the two was edited; the request stands at " + p.req.where(),
	}
	if p.target != nil {
		f.Session, f.Seq = p.target.s.ID, p.target.seq
	}
	t.find(f)
}
