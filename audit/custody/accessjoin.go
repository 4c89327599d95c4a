package custody

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// nginxClosed is what nginx logs for a client that went away before the answer; it is sent to nobody.
const nginxClosed = 499

// errRefused is the error of an outcome whose upstream refused the credential.
const errRefused = "credential_refused"

// A used is a use that an access log may have.
type used struct {
	*Use
	s     *session
	iss   *Issuance
	lines []*access
}

// joinAccess joins the uses with the access logs by their request ids.
func (t *tracer) joinAccess(a *accessLog) {
	if len(a.inputs) == 0 {
		return
	}
	t.note(a.bad, fmt.Sprintf("%s of the access logs cannot be read, the first at %s", counted(a.bad, "line"), a.badAt), "say how the lines read with --access-format")
	byID, bare, unnamed := t.usesByID()
	t.note(unnamed, fmt.Sprintf("%s without a request id, not to be found in access logs", counted(unnamed, "use")), "correlate: true on their routes")
	slices.SortStableFunc(a.lines, func(x, y *access) int { return x.Time.Compare(y.Time) })
	hosts := map[string]map[int]bool{} // the files that have lines of a host
	var extra []*access
	for _, l := range a.lines {
		u := nearest(byID[l.id], l)
		if u == nil {
			if l.token && !bare[l.id] {
				extra = append(extra, l)
			}
			continue
		}
		u.lines = append(u.lines, l)
		u.Access = &l.Access
		if hosts[u.Host] == nil {
			hosts[u.Host] = map[int]bool{}
		}
		hosts[u.Host][l.file] = true
	}
	for _, list := range byID {
		for _, u := range list {
			if len(u.lines) > 0 {
				t.checkAccess(u)
			}
		}
	}
	t.checkMissing(a, byID, hosts)
	if len(hosts) == 0 || t.strangers > 0 {
		t.note(len(extra), fmt.Sprintf("%d lines of the access logs are of no given trail, and there are sidecars whose trails were not given", len(extra)), "give their trails to check them too")
		return
	}
	for _, l := range extra {
		t.find(Finding{
			Code: AccessUnrecorded, Time: l.Time, Where: l.Where,
			What: fmt.Sprintf("An upstream served %s %s from %s for a sidecar, request id %s, and no trail has that use.", l.Method, quoted(l.Path), l.Remote, quoted(l.id)),
			Hint: "the trail lacks records; or the request is of a sidecar whose trail was not given; or somebody replays requests",
		})
	}
}

// usesByID returns the uses that have a request id, the ids of requests without a credential, and how many
// uses have no id.
func (t *tracer) usesByID() (byID map[string][]*used, bare map[string]bool, unnamed int) {
	byID, bare = map[string][]*used{}, map[string]bool{}
	for _, s := range t.trails.sessions {
		for _, iss := range s.Issuances {
			for _, u := range iss.Uses {
				if u.RequestID == "" {
					unnamed++
					continue
				}
				byID[u.RequestID] = append(byID[u.RequestID], &used{Use: u, s: s, iss: iss})
			}
		}
		for _, ev := range s.Events {
			if ev.RequestID != "" {
				bare[ev.RequestID] = true
			}
		}
	}
	return byID, bare, unnamed
}

// nearest returns the use that fits l best, of those that have fewer lines than attempts, and of several
// the one that ended nearest to it; an agent may give several requests one id.
func nearest(list []*used, l *access) *used {
	var best *used
	for _, u := range list {
		if len(u.lines) >= max(u.Attempts, 1) {
			continue
		}
		if best == nil || u.fits(l) > best.fits(l) || u.fits(l) == best.fits(l) && u.away(l) < best.away(l) {
			best = u
		}
	}
	return best
}

// fits counts what u and l agree on.
func (u *used) fits(l *access) (n int) {
	for _, same := range []bool{u.Method == l.Method, u.PathSent == "" || u.PathSent == l.Path, !u.answered() || u.Status == l.Status} {
		if same {
			n++
		}
	}
	return n
}

// end is when the answer of u had ended.
func (u *used) end() time.Time {
	return u.Time.Add(time.Duration(u.DurationMS * float64(time.Millisecond)))
}

// away is how far l is from the end of u, which is when most servers write a line.
func (u *used) away(l *access) time.Duration { return u.end().Sub(l.Time).Abs() }

// answered reports whether the status of u is the one that its upstream gave.
func (u *used) answered() bool {
	return u.Outcome != 0 && u.Status != 0 && u.Reason == "" && (u.Error == "" || u.Error == errRefused)
}

// checkAccess checks what a use was joined to.
func (t *tracer) checkAccess(u *used) {
	l := u.Access
	var diff []string
	if u.Method != l.Method {
		diff = append(diff, fmt.Sprintf("the access log says method %s, the trail %s", quoted(l.Method), quoted(u.Method)))
	}
	if u.PathSent != "" && u.PathSent != l.Path {
		diff = append(diff, fmt.Sprintf("the access log says path %s, the trail %s", quoted(l.Path), quoted(u.PathSent)))
	}
	same := func(l *access) bool { return l.Status == u.Status || l.Status == 0 || l.Status == nginxClosed }
	if u.answered() && !slices.ContainsFunc(u.lines, same) {
		diff = append(diff, fmt.Sprintf("the access log says status %d, the trail %d", l.Status, u.Status))
	}
	end := u.end()
	const second = time.Second // what access logs often round to
	if l.Time.Before(u.Time.Add(-t.skew-second)) || u.Outcome != 0 && l.Time.After(end.Add(t.skew+second)) {
		diff = append(diff, fmt.Sprintf("the access log has it at %s, the trail at %s", l.Time.Format(time.RFC3339), u.Time.Format(time.RFC3339)))
	}
	if len(diff) == 0 {
		return
	}
	t.find(Finding{
		Code: AccessMismatch, Session: u.s.ID, Issuance: u.iss.ID, Seq: u.Seq, Time: u.Time, Where: l.Where,
		What: fmt.Sprintf("The access log and the trail do not agree on record %d (%s %s): %s.", u.Seq, u.Method, u.Host, strings.Join(diff, "; ")),
		Hint: "one of the two was edited, or something between the sidecar and the upstream changes requests",
	})
}

// checkMissing looks for uses that were answered and that the log of their host, as far as it reaches,
// does not have.
func (t *tracer) checkMissing(a *accessLog, byID map[string][]*used, hosts map[string]map[int]bool) {
	unknown := 0
	for _, list := range byID {
		for _, u := range list {
			if len(u.lines) > 0 || !u.answered() {
				continue
			}
			files := hosts[u.Host]
			if len(files) == 0 {
				unknown++
				continue
			}
			end := u.end()
			for i := range files {
				if in := a.inputs[i]; !end.Before(in.First) && u.Time.Before(in.Last.Add(time.Second)) {
					t.find(Finding{
						Code: AccessMissing, Session: u.s.ID, Issuance: u.iss.ID, Seq: u.Seq, Time: u.Time, Where: in.Name,
						What: fmt.Sprintf("%s answered record %d (%s, request id %s) with %d, and its access log does not have it.", u.Host, u.Seq, u.Method, quoted(u.RequestID), u.Status),
						Hint: "lines were removed from the access log; or the host has further logs, which were not given",
					})
					break
				}
			}
		}
	}
	t.note(unknown, fmt.Sprintf("%d uses were of hosts whose access logs were not given", unknown), "")
}
