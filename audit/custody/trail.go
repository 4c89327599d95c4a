package custody

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sidekey/sidekey/audit"
)

const kindVault = "vault"

// The tallies of trails that were read.
type trails struct {
	find     func(Finding)
	sessions []*session
	byID     map[string]*session
	inputs   []Input
	torn     bool
	partial  bool
	words    interner
}

func newTrails(find func(Finding), partial bool) *trails {
	return &trails{find: find, partial: partial, byID: map[string]*session{}, words: interner{}}
}

// A session is a [Session] while it is read.
type session struct {
	*Session
	first     uint64   // the sequence number of the first record
	heads     []uint64 // of each record's hash from there on, the first 16 digits; 0 if there is no such record
	times     []int64  // of the same records, in nanoseconds since 1970
	issuances map[string]*Issuance
	intents   map[uint64]*Use   // without an outcome yet
	bare      map[uint64]*Event // the same of those without a credential
	latest    map[reflecting]*Use
	links     map[*Call]*Issuance
	calls     map[string]*Call // by request id, and by correlation id and path
	loose     []*target        // issuances from Vault that no call led to
	orphans   []orphan
	unrevoked map[string]bool
	tokenLeft bool // the end of the session did not revoke its token

	cut, altered misfit
	lent         int // calls by others with a token that the session was lent
	foreign      int // calls that look like those of other sessions of the same name
}

// A reflecting names the uses that a reflected credential may be of: the record names no intent.
type reflecting struct{ conn, route, issuance string }

// read reads one trail.
func (t *trails) read(files []audit.File) error {
	r := audit.NewReader(files...)
	r.Partial = t.partial
	var in *Input
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		file, line := r.Where()
		if in == nil || in.Name != file {
			t.inputs = append(t.inputs, Input{Name: file})
			in = &t.inputs[len(t.inputs)-1]
		}
		if b, ok := errors.AsType[*audit.BrokenError](err); ok {
			t.broken(b, e)
		} else if err != nil {
			return err
		}
		if e != nil {
			in.saw(e.Time)
			t.add(e, file, line)
		}
	}
	t.torn = t.torn || r.Summary().TornTail
	for _, f := range files {
		t.named(f.Name)
	}
	return nil
}

// named lists a file that was read and has no record.
func (t *trails) named(name string) {
	for _, in := range t.inputs {
		if in.Name == name {
			return
		}
	}
	t.inputs = append(t.inputs, Input{Name: name})
}

// saw counts a record.
func (in *Input) saw(at time.Time) {
	in.Records++
	if in.First.IsZero() || at.Before(in.First) {
		in.First = at.UTC()
	}
	if at.After(in.Last) {
		in.Last = at.UTC()
	}
}

func (t *trails) broken(b *audit.BrokenError, e *audit.Entry) {
	f := Finding{
		Code: TrailBroken, Seq: b.Seq, Where: place(b.File, b.Line),
		What: fmt.Sprintf("The trail is not as it was written: record %d %s.", b.Seq, b.What),
		Hint: "compare the file with the copy that was shipped elsewhere; what follows the place can be trusted only as far as Vault's log agrees",
	}
	if b.Seq == 0 {
		f.What = "The trail is not as it was written: a line is " + b.What + "."
	}
	if e != nil {
		f.Session, f.Time = e.Session.ID, e.Time.UTC()
	}
	t.find(f)
}

func place(file string, line int) string { return file + ":" + strconv.Itoa(line) }

func (t *trails) add(e *audit.Entry, file string, line int) {
	s := t.byID[e.Session.ID]
	switch {
	case s == nil:
		s = t.begin(e)
	case e.Seq == 1 && len(s.heads) > 0:
		t.find(Finding{
			Code: TrailBroken, Session: s.ID, Seq: 1, Time: e.Time.UTC(), Where: place(file, line),
			What: fmt.Sprintf("Session %s begins twice.", s.ID),
			Hint: "give each trail once; if it is in two files, one of them is not what a sidecar wrote",
		})
		return
	}
	s.Records++
	s.Attribution = e.Session.Attribution
	if at := e.Time.UTC(); at.After(s.Last) {
		s.Last = at
	}
	s.keepHead(e)
	t.words.entry(e)
	s.record(e)
}

func (t *trails) begin(e *audit.Entry) *session {
	s := &session{
		Session: &Session{
			ID: e.Session.ID, Role: e.Session.Role, RequestedBy: e.Session.RequestedBy, Pod: e.Pod,
			Began: e.Time.UTC(), Last: e.Time.UTC(),
		},
		first:     e.Seq,
		issuances: map[string]*Issuance{}, intents: map[uint64]*Use{}, bare: map[uint64]*Event{}, latest: map[reflecting]*Use{},
		links: map[*Call]*Issuance{}, calls: map[string]*Call{}, unrevoked: map[string]bool{},
	}
	t.sessions = append(t.sessions, s)
	t.byID[s.ID] = s
	return s
}

// maxGap bounds how many records may be missing in a row; what follows a larger gap has no head.
const maxGap = 1 << 20

func (s *session) keepHead(e *audit.Entry) {
	next := s.last() + 1
	if e.Seq < next || e.Seq-next > maxGap || len(e.Hash) < 16 {
		return
	}
	for ; next < e.Seq; next++ {
		s.heads, s.times = append(s.heads, 0), append(s.times, e.Time.UnixNano())
	}
	head, _ := strconv.ParseUint(e.Hash[:16], 16, 64) // 0, which no anchor has, if it is none
	s.heads, s.times = append(s.heads, head), append(s.times, e.Time.UnixNano())
}

// last is the sequence number of the last record.
func (s *session) last() uint64 { return s.first + uint64(len(s.heads)) - 1 }

// has reports whether the record that a names is one of the session's.
func (s *session) has(a anchor) bool {
	return a.seq >= s.first && a.seq <= s.last() && s.heads[a.seq-s.first] == a.head && a.head != 0
}

// An interner keeps one copy of each word that a log repeats.
type interner map[string]string

func (in interner) word(s string) string {
	if w, ok := in[s]; ok {
		return w
	}
	if len(in) < 1<<16 {
		in[s] = s
	}
	return s
}

func (in interner) entry(e *audit.Entry) {
	for _, p := range [...]*string{&e.Method, &e.Host, &e.Path, &e.Route, &e.Credential, &e.Issuance, &e.Reason, &e.WouldDeny, &e.Error, &e.Conn} {
		*p = in.word(*p)
	}
}
