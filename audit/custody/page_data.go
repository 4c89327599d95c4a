package custody

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A pageData is a report as the page reads it: tables of columns. That is a tenth of the bytes of
// the report's own JSON, and it becomes typed arrays at once.
type pageData struct {
	Generated int64                 `json:"generated"` // times are microseconds since 1970
	Totals    Totals                `json:"totals"`
	Notes     []Note                `json:"notes"`
	Strings   []string              `json:"strings"`
	Tables    map[string]*pageTable `json:"tables"`
}

// A pageRow is one line of the page's table of records, and one mark on its timeline.
type pageRow struct {
	kind     int64
	time     time.Time
	seq      uint64
	issuance int // index + 1
	call     int // index + 1
	event    *Event
	use      *Use
	of       *Issuance
	to       *Call
}

// The kinds of a pageRow, as data.js knows them.
const (
	rowUse int64 = iota
	rowEvent
	rowCall
	rowIssuance
)

// A pageBuilder makes the tables of a report.
type pageBuilder struct {
	words                                                          *pageWords
	inputs, sessions, issuances, calls, vault, access, rows, finds *pageTable
	rowOf                                                          map[pageKey]int // row index + 1
	rowOfIssuance                                                  map[string]int
}

// A pageKey names a record of a trail.
type pageKey struct {
	session string
	seq     uint64
}

func newPageData(r *Report) *pageData {
	words := newPageWords()
	b := &pageBuilder{
		words: words, rowOf: map[pageKey]int{}, rowOfIssuance: map[string]int{},
		inputs: words.table(), sessions: words.table(), issuances: words.table(), calls: words.table(),
		vault: words.table(), access: words.table(), rows: words.table(), finds: words.table(),
	}
	for kind, list := range [][]Input{r.Trails, r.VaultLogs, r.AccessLogs} {
		for _, in := range list {
			b.input(int64(kind), in)
		}
	}
	for i, s := range r.Sessions {
		b.session(i, s)
	}
	for i := range r.Findings {
		b.finding(&r.Findings[i])
	}
	return &pageData{
		Generated: micros(r.Generated), Totals: r.Totals, Notes: r.Notes, Strings: words.list,
		Tables: map[string]*pageTable{
			"inputs": b.inputs, "sessions": b.sessions, "issuances": b.issuances, "calls": b.calls,
			"vault": b.vault, "access": b.access, "rows": b.rows, "findings": b.finds,
		},
	}
}

func (b *pageBuilder) input(kind int64, in Input) {
	t := b.inputs.row()
	t.number("kind", kind)
	t.text("name", in.Name)
	t.number("records", int64(in.Records))
	t.number("first", micros(in.First))
	t.number("last", micros(in.Last))
}

// session adds s, and all its records in the order of their times.
func (b *pageBuilder) session(index int, s *Session) {
	t := b.sessions.row()
	t.text("id", s.ID)
	t.text("role", s.Role)
	t.text("requester", s.RequestedBy)
	t.text("attribution", s.Attribution)
	t.text("namespace", s.Pod.Namespace)
	t.text("pod", s.Pod.Name)
	t.text("node", s.Pod.Node)
	t.text("account", s.Pod.ServiceAccount)
	t.text("version", s.Version)
	t.text("reason", s.EndReason)
	t.number("began", micros(s.Began))
	t.number("last", micros(s.Last))
	t.number("ended", micros(s.Ended))
	t.number("records", int64(s.Records))

	var rows []pageRow
	for _, c := range s.Calls {
		b.call(c)
		rows = append(rows, pageRow{kind: rowCall, time: c.Time, seq: c.Seq, call: b.calls.N, to: c})
	}
	for _, i := range s.Issuances {
		b.issuance(index, i)
		rows = append(rows, pageRow{kind: rowIssuance, time: i.IssuedAt, seq: i.Seq, issuance: b.issuances.N, of: i})
		for _, u := range i.Uses {
			rows = append(rows, pageRow{kind: rowUse, time: u.Time, seq: u.Seq, issuance: b.issuances.N, event: &u.Event, use: u, of: i})
		}
	}
	for _, e := range s.Events {
		rows = append(rows, pageRow{kind: rowEvent, time: e.Time, seq: e.Seq, event: e})
	}
	slices.SortStableFunc(rows, func(x, y pageRow) int {
		return cmp.Or(x.time.Compare(y.time), cmp.Compare(x.seq, y.seq))
	})
	for i := range rows {
		b.row(index, s, &rows[i])
	}
}

func (b *pageBuilder) call(c *Call) {
	t := b.calls.row()
	t.text("correlation", c.CorrelationID)
	t.text("joined", string(c.Joined))
	t.number("vault", b.vaultEntry(c.Vault))
}

func (b *pageBuilder) issuance(session int, i *Issuance) {
	t := b.issuances.row()
	t.number("session", int64(session))
	t.text("id", i.ID)
	t.text("credential", i.Credential)
	t.text("kind", i.Source.Kind)
	t.text("path", i.Source.Path)
	t.text("request", i.Source.RequestID)
	t.text("correlation", i.Source.CorrelationID)
	t.text("lease", i.Source.LeaseID)
	t.number("version", int64(i.Source.Version))
	t.text("fingerprint", i.Fingerprint)
	t.text("replaces", i.Replaces)
	t.number("issued", micros(i.IssuedAt))
	t.number("expires", micros(i.ExpiresAt))
	t.number("revoked", micros(i.RevokedAt))
	t.text("end", i.End)
	t.text("joined", string(i.Joined))
	t.number("vault", b.vaultEntry(i.Vault))
	t.number("uses", int64(len(i.Uses)))
}

// row adds one record to the table that the page shows, filters and draws.
func (b *pageBuilder) row(session int, s *Session, row *pageRow) {
	t := b.rows.row()
	t.number("kind", row.kind)
	t.number("session", int64(session))
	t.step("time", micros(row.time))
	t.step("seq", int64(row.seq))
	t.number("issuance", int64(row.issuance))
	t.number("call", int64(row.call))
	b.rowOf[pageKey{s.ID, row.seq}] = b.rows.N
	if row.event != nil {
		b.event(row.event)
	}
	if u := row.use; u != nil {
		b.rowOf[pageKey{s.ID, u.Outcome}] = b.rows.N
		if u.Outcome != 0 {
			t.number("answered", int64(u.Outcome-u.Seq)) // records later
		}
		t.number("attempts", int64(u.Attempts))
		t.number("in", u.BytesIn)
		t.number("out", u.BytesOut)
		t.number("duration", int64(u.DurationMS*1000))
		t.flag("reflected", u.Reflected)
		t.flag("access", u.Access != nil) // its lines are in the order of the rows
		b.accessLine(u)
	}
	switch {
	case row.kind == rowIssuance:
		t.text("path", row.of.Source.Path)
		t.text("request", row.of.Source.RequestID)
		t.text("lease", row.of.Source.LeaseID)
		b.rowOfIssuance[row.of.ID] = b.rows.N
	case row.to != nil:
		t.text("method", row.to.Method)
		t.text("path", row.to.Path)
		t.text("request", row.to.RequestID)
		t.text("lease", row.to.LeaseID)
		t.text("error", row.to.Error)
		t.number("status", int64(row.to.Status))
		t.number("duration", int64(row.to.DurationMS*1000))
	}
}

func (b *pageBuilder) event(e *Event) {
	t := b.rows
	t.text("event", string(e.Event))
	t.text("method", e.Method)
	t.text("host", e.Host)
	t.text("path", e.Path)
	t.text("sent", e.PathSent)
	t.text("hmac", e.PathHMAC)
	t.text("route", e.Route)
	t.text("request", e.RequestID)
	t.text("reason", e.Reason)
	t.text("would", e.WouldDeny)
	t.text("error", e.Error)
	t.text("detail", e.Detail)
	t.text("by", e.By)
	t.number("status", int64(e.Status))
}

// vaultEntry adds v and returns its index + 1, or 0 if there is none.
func (b *pageBuilder) vaultEntry(v *VaultEntry) int64 {
	if v == nil {
		return 0
	}
	t := b.vault.row()
	t.step("time", micros(v.Time))
	t.text("request", v.RequestID)
	t.text("operation", v.Operation)
	t.text("path", v.Path)
	t.text("namespace", v.Namespace)
	t.text("display", v.DisplayName)
	t.text("entity", v.EntityID)
	t.text("remote", v.RemoteAddress)
	t.text("correlation", v.CorrelationID)
	t.text("lease", v.LeaseID)
	t.text("error", v.Error)
	b.where(t, v.Where)
	t.text("metadata", metadataText(v.Metadata))
	return int64(t.N)
}

// accessLine adds what an access log has of u, if it has anything.
func (b *pageBuilder) accessLine(u *Use) {
	a := u.Access
	if a == nil {
		return
	}
	t := b.access.row()
	if !a.Time.IsZero() {
		t.flag("timed", true)
		t.number("later", a.Time.Sub(u.Time).Microseconds())
	}
	t.text("method", a.Method)
	t.text("path", a.Path)
	t.number("status", int64(a.Status))
	t.text("remote", a.Remote)
	b.where(t, a.Where)
}

// where sets the place in a log: its file, and its line if it ends in one.
func (b *pageBuilder) where(t *pageTable, place string) {
	if at := strings.LastIndexByte(place, ':'); at >= 0 {
		if line, err := strconv.ParseInt(place[at+1:], 10, 48); err == nil && line > 0 && strconv.FormatInt(line, 10) == place[at+1:] {
			t.text("file", place[:at])
			t.step("line", line)
			return
		}
	}
	t.text("file", place)
}

func (b *pageBuilder) finding(f *Finding) {
	t := b.finds.row()
	t.text("code", string(f.Code))
	t.text("session", f.Session)
	t.text("issuance", f.Issuance)
	t.number("seq", int64(f.Seq))
	t.number("time", micros(f.Time))
	t.text("where", f.Where)
	t.text("what", f.What)
	t.text("hint", f.Hint)
	var at int
	if f.Seq != 0 {
		at = b.rowOf[pageKey{f.Session, f.Seq}]
	}
	if at == 0 && f.Issuance != "" {
		at = b.rowOfIssuance[f.Issuance]
	}
	t.number("row", int64(at))
}
