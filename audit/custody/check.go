package custody

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// mustBeThere reports whether Vault's log has to have the call. What was not answered, or by something
// before Vault, or for which Vault had no time, it need not have.
func (target *target) mustBeThere() bool {
	switch target.status {
	case http.StatusRequestTimeout, http.StatusPreconditionFailed, http.StatusTooManyRequests, 472, 473: // the last two are of standbys
		return false
	}
	return target.status >= 200 && target.status < 500
}

// operates reports whether Vault calls a request of the target's method op.
func (target *target) operates(op string) bool {
	switch target.method {
	case http.MethodGet, http.MethodHead:
		return op == "read" || op == "list" || op == "header"
	case "LIST":
		return op == "list"
	case http.MethodPut, http.MethodPost:
		return op == "update" || op == "create"
	case http.MethodPatch:
		return op == "patch"
	case http.MethodDelete:
		return op == "delete"
	}
	return true // not known, as of an issuance that no call led to
}

// agrees reports whether Vault's log and the trail say alike whether the call failed.
func (target *target) agrees(p *pair) bool {
	if p.resp == nil || target.status == 0 {
		return true
	}
	failed, certain := p.failed()
	switch {
	case target.status < 300:
		return !failed || !certain
	case target.status == http.StatusNotFound || target.status >= 500:
		return true // nothing found is no error of Vault's; and a broken answer is none either
	}
	return failed
}

// what names the target for people.
func (target *target) what() string {
	if target.iss != nil {
		return fmt.Sprintf("issuance %s of %s", target.iss.ID, target.iss.Credential)
	}
	return fmt.Sprintf("the call %s %s (record %d)", target.method, target.path, target.seq)
}

// finding is one about the target, of the first code if it issued something.
func (target *target) finding(issuance, call Code) Finding {
	f := Finding{Code: call, Session: target.s.ID, Seq: target.seq, Time: target.at}
	if target.iss != nil {
		f.Code, f.Issuance = issuance, target.iss.ID
	}
	if target.pair != nil {
		f.Where = target.pair.either().where()
	}
	return f
}

// checkJoin checks what a target was joined to.
func (t *tracer) checkJoin(target *target) {
	if target.pair == nil {
		t.missing(target)
		return
	}
	facts := target.facts()
	if target.corr != "" && target.pair.corr() != target.corr && (target.pair.corr() != "" || !t.isBlind(target.pair)) {
		facts = append(facts, fmt.Sprintf("Vault's log says correlation id %s, the trail %s", quoted(target.pair.corr()), quoted(target.corr)))
	}
	diff := append(facts, t.times(target)...)
	if len(diff) == 0 {
		return
	}
	f := target.finding(IssuanceMismatch, CallMismatch)
	f.What = fmt.Sprintf("Vault's log and the trail do not agree on %s: %s.", target.what(), strings.Join(diff, "; "))
	f.Hint = "one of the two was edited: compare both with the copies that were shipped elsewhere"
	if len(facts) == 0 {
		f.Hint = "one of the two was edited, or the clocks differ by more than --skew allows"
	}
	t.find(f)
}

// missing reports a target that Vault's log does not have.
func (t *tracer) missing(target *target) {
	if target.iss == nil && !target.mustBeThere() {
		t.unseen++
		return
	}
	f := target.finding(IssuanceNotInVault, CallNotInVault)
	f.What = fmt.Sprintf("Vault answered %s with %d, and its log does not have it.", target.what(), target.status)
	if target.iss != nil {
		f.What = fmt.Sprintf("Vault's log does not have %s, read at %s.", target.what(), target.path)
	}
	f.Hint = "entries were removed from Vault's log, or the trail's record was invented; or a file of the log, or a device, was not given"
	switch first, last := t.vault.span(); {
	case target.at.Before(first):
		f.Hint = fmt.Sprintf("the log that was given begins at %s: give older files too; else its beginning was cut off", first.Format(time.RFC3339))
	case target.at.After(last.Add(t.skew)):
		f.Hint = fmt.Sprintf("the log that was given ends at %s: give newer files too; else its end was cut off", last.Format(time.RFC3339))
	case len(t.blind) > 0 && target.requestID == "":
		f.Hint += "; without correlation ids in Vault's log this could be looked for by path and time only"
	}
	t.find(f)
}

// span is the time that Vault's log covers.
func (v *vaultLog) span() (first, last time.Time) {
	for _, in := range v.inputs {
		if first.IsZero() || !in.First.IsZero() && in.First.Before(first) {
			first = in.First
		}
		if in.Last.After(last) {
			last = in.Last
		}
	}
	return first, last
}

// facts lists what the trail and Vault's log do not say alike, but for the time. What the records of a
// call and of what it issued both say is listed once.
func (target *target) facts() []string {
	var diff []string
	differ := func(name, vault, trail string) {
		text := fmt.Sprintf("Vault's log says %s %s, the trail %s", name, quoted(vault), quoted(trail))
		if vault != trail && !slices.Contains(diff, text) {
			diff = append(diff, text)
		}
	}
	p := target.pair
	h := p.either()
	differ("path", strings.TrimSuffix(h.Path, "/"), strings.TrimSuffix(target.path, "/"))
	if !target.operates(h.Operation) {
		differ("operation", h.Operation, "method "+target.method)
	}
	if id := target.ownID(); id != "" {
		differ("request id", h.id, id)
	}
	if p.resp != nil && target.status != 0 {
		differ("lease", p.resp.lease, target.lease)
	}
	if target.iss != nil && target.call != nil {
		differ("path", strings.TrimSuffix(h.Path, "/"), strings.TrimSuffix(target.iss.Source.Path, "/"))
		differ("lease", h.lease, target.iss.Source.LeaseID)
	}
	if !target.agrees(p) {
		failed, _ := p.failed()
		differ("that it", map[bool]string{true: "failed", false: "succeeded"}[failed], fmt.Sprintf("status %d", target.status))
	}
	return append(diff, target.who()...)
}

// who compares the metadata of the token that called with the session.
func (target *target) who() []string {
	var diff []string
	s := target.s
	for _, pair := range [...][2]string{{"agent_role", s.Role}, {"session_id", s.ID}, {"requested_by", s.RequestedBy}, {"pod_uid", s.Pod.UID}} {
		got, ok := target.pair.either().metadata[pair[0]]
		if !ok || pair[1] == "" || got == pair[1] || pair[0] == "session_id" && got == givenID(s.ID) {
			continue
		}
		diff = append(diff, fmt.Sprintf("Vault's log says %s %s, the trail %s", pair[0], quoted(got), quoted(pair[1])))
	}
	return diff
}

// givenID is what others call the session with an id: the id without the digits that tell apart the runs
// of one pod. It is the id itself if that has none.
func givenID(id string) string {
	i := strings.LastIndexByte(id, '.')
	if i > 0 && len(id)-i == 9 && strings.Trim(id[i+1:], "0123456789abcdef") == "" {
		return id[:i]
	}
	return id
}

// times lists what is odd about the time of the target.
func (t *tracer) times(target *target) []string {
	var diff []string
	p := target.pair
	for _, h := range [...]*half{p.req, p.resp} {
		if h == nil {
			continue
		}
		if apart := target.apart(h.at); apart > t.skew && (target.took >= 0 || h.at.After(target.at)) {
			diff = append(diff, fmt.Sprintf("the %s in Vault's log is %s off the time of the call", h.kind(), apart.Round(time.Millisecond)))
		}
	}
	if p.req != nil && p.resp != nil && target.took >= 0 && target.status != 0 {
		if took := p.resp.at.Sub(p.req.at); took < -outOfOrder || took > target.took+outOfOrder {
			diff = append(diff, fmt.Sprintf("Vault took %s by its log, and %s by the trail", took.Round(time.Millisecond), target.took.Round(time.Millisecond)))
		}
	}
	return diff
}

// quoted quotes at most 120 bytes of what a log says.
func quoted(s string) string {
	if s == "" {
		return "nothing"
	}
	if len(s) > 120 {
		return fmt.Sprintf("%q...", s[:120])
	}
	return fmt.Sprintf("%q", s)
}
