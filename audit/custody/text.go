package custody

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sidekey/sidekey/audit"
)

// TextOptions say how [Report.WriteText] writes.
type TextOptions struct {
	// Uses shows each use and each event, not only how many there were.
	Uses bool

	// Color uses the escape sequences of terminals.
	Color bool
}

// shownFindings is how many findings of one code are shown.
const shownFindings = 20

// A writer writes text for people.
type writer struct {
	*bufio.Writer
	opts TextOptions
}

// WriteText writes the report for people: its sessions with their issuances and the uses of those, the
// findings, and in the last line how many there are. Whatever agents and logs wrote is shown without
// control characters. The error is w's.
func (r *Report) WriteText(w io.Writer, opts TextOptions) error {
	out := &writer{bufio.NewWriter(w), opts}
	for _, s := range r.Sessions {
		out.session(s, len(r.VaultLogs) > 0)
	}
	out.findings(r.Findings)
	if len(r.Notes) > 0 {
		out.line(0, "%s", out.paint("1", "not checked"))
		for _, n := range r.Notes {
			out.line(1, "%s", n.What)
			if n.Mend != "" {
				out.line(2, "hint: %s", n.Mend)
			}
		}
		out.line(0, "")
	}
	out.verdict(r)
	return out.Flush()
}

// line writes one line. Strings are cleaned, unless they were painted.
func (w *writer) line(depth int, format string, args ...any) {
	for i, a := range args {
		switch a := a.(type) {
		case painted:
			args[i] = string(a)
		case string:
			args[i] = clean(a)
		}
	}
	w.WriteString(strings.Repeat("  ", depth))
	w.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	w.WriteByte('\n')
}

// clean replaces what could do something to a terminal or mislead a reader.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// A painted text is clean.
type painted string

func (w *writer) paint(code, s string) painted {
	if !w.opts.Color {
		return painted(clean(s))
	}
	return painted("\x1b[" + code + "m" + clean(s) + "\x1b[0m")
}

// The colors.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func (w *writer) session(s *Session, vault bool) {
	w.line(0, "%s, role %s, requested by %s (%s)%s", w.paint(bold, "session "+s.ID), s.Role, cmp.Or(s.RequestedBy, "nobody known"), cmp.Or(s.Attribution, "not attributed"), podOf(s.Pod))
	end := "no end in the trail"
	if !s.Ended.IsZero() {
		end = fmt.Sprintf("ended %s (%s)", stamp(s.Ended), s.EndReason)
	}
	w.line(1, "began %s, last record %s, %s; %s", stamp(s.Began), stamp(s.Last), end, counted(s.Records, "record"))
	if len(s.Calls) > 0 {
		found := ""
		if vault {
			n := 0
			for _, c := range s.Calls {
				if c.Vault != nil {
					n++
				}
			}
			found = fmt.Sprintf(", %d of them in its log", n)
		}
		w.line(1, "%s to Vault%s", counted(len(s.Calls), "call"), found)
	}
	for _, iss := range s.Issuances {
		w.issuance(iss, vault)
	}
	w.events(s.Events)
	w.line(0, "")
}

func podOf(p audit.Pod) string {
	if p.Name == "" {
		return ""
	}
	return ", pod " + p.Namespace + "/" + p.Name
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (w *writer) issuance(iss *Issuance, vault bool) {
	end := fmt.Sprintf("%s, valid until %s", iss.End, stamp(iss.ExpiresAt))
	if !iss.RevokedAt.IsZero() {
		end = fmt.Sprintf("%s %s", iss.End, stamp(iss.RevokedAt))
	}
	w.line(1, "%s issuance %s, issued %s, %s", w.paint(cyan, iss.Credential), iss.ID, stamp(iss.IssuedAt), end)
	if iss.Replaces != "" {
		w.line(2, "replaces %s, which an upstream refused", iss.Replaces)
	}
	lease := ""
	if iss.Source.LeaseID != "" {
		lease = ", lease " + iss.Source.LeaseID
	}
	switch v := iss.Vault; {
	case v != nil:
		w.line(2, "%s %s of %s, request %s%s, from %s (%s, by %s)", w.paint(green, "vault"), v.Operation, v.Path, v.RequestID, lease,
			cmp.Or(v.RemoteAddress, "an unknown address"), v.Where, strings.ReplaceAll(string(iss.Joined), "_", " "))
	case vault && iss.Source.Kind == kindVault:
		w.line(2, "%s: %s, request %s%s", w.paint(red, "not in Vault's log"), iss.Source.Path, cmp.Or(iss.Source.RequestID, "unknown"), lease)
	default:
		w.line(2, "from %s %s%s", iss.Source.Kind, iss.Source.Path, lease)
	}
	w.uses(iss.Uses)
}

// uses writes how many uses had which outcome, and each if that is asked for.
func (w *writer) uses(uses []*Use) {
	if len(uses) == 0 {
		w.line(2, "never used")
		return
	}
	count := map[string]int{}
	reached := 0
	for _, u := range uses {
		count[u.result()]++
		if u.Access != nil {
			reached++
		}
	}
	var parts []string
	for _, result := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d x %s", count[result], result))
	}
	access := ""
	if reached > 0 {
		access = fmt.Sprintf(", %d in access logs", reached)
	}
	last := uses[len(uses)-1]
	span := stamp(uses[0].Time)
	if end := stamp(last.Time); end != span {
		span += " to " + end
	}
	w.line(2, "%s: %s (%s)%s", counted(len(uses), "use"), strings.Join(parts, ", "), span, access)
	if !w.opts.Uses {
		return
	}
	for _, u := range uses {
		at := ""
		if u.Access != nil {
			at = ", " + u.Access.Where
		}
		w.line(3, "#%d %s %s %s%s: %s%s", u.Seq, stamp(u.Time), u.Method, u.Host, cmp.Or(u.PathSent, u.Path), w.paint(colorOf(u), u.result()), at)
	}
}

// result is what came of a use.
func (u *Use) result() string {
	text := "indeterminate"
	if u.Outcome != 0 {
		text = fmt.Sprint(u.Status)
		if u.Status == 0 || u.Error != "" {
			text = strings.TrimSpace(strings.TrimPrefix(text, "0") + " " + cmp.Or(u.Error, "no answer"))
		}
	}
	if u.Reflected {
		text += " (credential reflected, masked)"
	}
	return text
}

func colorOf(u *Use) string {
	switch {
	case u.Outcome == 0 || u.Reflected:
		return yellow
	case u.Status >= 200 && u.Status < 400 && u.Error == "":
		return green
	}
	return red
}

// events writes how many events there were, and each if that is asked for.
func (w *writer) events(events []*Event) {
	var order []string
	count := map[string]int{}
	for _, e := range events {
		name := e.name()
		if count[name]++; count[name] == 1 {
			order = append(order, name)
		}
	}
	var parts []string
	for _, name := range order {
		parts = append(parts, fmt.Sprintf("%d x %s", count[name], name))
	}
	if len(parts) > 0 {
		w.line(1, "other records: %s", strings.Join(parts, ", "))
	}
	if !w.opts.Uses {
		return
	}
	for _, e := range events {
		words := []string{e.name(), e.Method, e.Host + cmp.Or(e.PathSent, e.Path), e.Reason, e.Error, e.Detail, e.By}
		if e.Status != 0 {
			words = append(words, fmt.Sprint(e.Status))
		}
		words = slices.DeleteFunc(words, func(s string) bool { return s == "" })
		w.line(2, "#%d %s %s", e.Seq, stamp(e.Time), strings.Join(words, " "))
	}
}

func (e *Event) name() string {
	if e.Event == audit.RequestIntent {
		return "request without a credential"
	}
	return string(e.Event)
}

// findings writes the findings by code, of each the first.
func (w *writer) findings(all []Finding) {
	for _, code := range gravity {
		n := 0
		for _, f := range all {
			if f.Code != code {
				continue
			}
			if n++; n == 1 {
				w.line(0, "%s", w.paint(red, string(code)))
			}
			if n > shownFindings {
				continue
			}
			w.line(1, "%s", f.What)
			w.place(f)
			if f.Hint != "" {
				w.line(2, "hint: %s", f.Hint)
			}
		}
		if n > shownFindings {
			w.line(1, "and %d more of these; --json has all", n-shownFindings)
		}
		if n > 0 {
			w.line(0, "")
		}
	}
}

// place writes where a finding stands.
func (w *writer) place(f Finding) {
	var words []string
	if f.Where != "" {
		words = append(words, "at "+f.Where)
	}
	if f.Session != "" {
		words = append(words, "session "+f.Session)
	}
	if f.Seq != 0 {
		words = append(words, fmt.Sprintf("record %d", f.Seq))
	}
	if !f.Time.IsZero() {
		words = append(words, stamp(f.Time))
	}
	if len(words) > 0 {
		w.line(2, "%s", strings.Join(words, ", "))
	}
}

// verdict writes the last line.
func (w *writer) verdict(r *Report) {
	n := r.Totals
	what := fmt.Sprintf("looked at %s, %s of %s (%d indeterminate), %s, %s to Vault", counted(n.Sessions, "session"),
		counted(n.Uses, "use"), counted(n.Issuances, "issuance"), n.Indeterminate, counted(n.Denials, "denial"), counted(n.VaultCalls, "call"))
	if len(r.VaultLogs) > 0 {
		what += fmt.Sprintf(" (joined: %d by request id, %d by correlation id, %d by path and time)", n.JoinedByID, n.JoinedByCorr, n.JoinedByPlace)
	}
	if len(r.AccessLogs) > 0 {
		what += fmt.Sprintf(", %s in access logs", counted(n.AccessJoined, "use"))
	}
	if len(r.Findings) == 0 {
		w.line(0, "%s; %s", w.paint(green, "0 findings"), what)
		return
	}
	w.line(0, "%s; %s", w.paint(red, counted(len(r.Findings), "finding")), what)
}
