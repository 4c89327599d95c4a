package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
)

// maxLine bounds a line in bytes. No record comes near it.
const maxLine = 1 << 20

// An Entry is a record as it stands in a trail. A line is decoded with [json.Unmarshal].
type Entry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Prev    string    `json:"prev"`
	Hash    string    `json:"hash"`
	Session Session   `json:"session"`
	Pod     Pod       `json:"pod"`
	Policy  Policy    `json:"policy"`
	Record
}

// A Summary is what [Verify] read.
type Summary struct {
	// Sessions are in the order of the trail.
	Sessions []SessionSummary

	// TornTail says that a chain ends in a part of a line: its process died while it wrote. Nobody
	// was told that this record was written.
	TornTail bool
}

// A SessionSummary counts the records of one session.
type SessionSummary struct {
	ID, Role string

	// Records counts all of them, Denied the requests that were denied. Indeterminate are the
	// intents without an outcome: requests that may or may not have reached their upstream.
	Records, Intents, Outcomes, Indeterminate, Denied int

	// Head is the hash of the last record, to compare with an anchor kept elsewhere.
	Head string

	// Ended says that the last record is a [SessionEnded], but for its signature. If not, the process
	// died, is still running, or records are missing at the end.
	Ended bool

	// SigningKey is the public key that the session was signed with, in hex; "" if it has none.
	SigningKey string

	// Segments are signed. Unsigned counts the records after the last of them, which whoever can write
	// to the trail could have written.
	Segments, Unsigned int
}

// A BrokenError names the first record that does not fit.
type BrokenError struct {
	File string // "" if it has no name
	Line int    // of that file; counts from 1
	Seq  uint64 // what the record says, 0 if it cannot be read
	What string // holds nothing of the record's content
}

// Error implements error.
func (e *BrokenError) Error() string {
	where := "line " + strconv.Itoa(e.Line)
	if e.File != "" {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return fmt.Sprintf("audit trail broken at %s (seq %d): %s", where, e.Seq, e.What)
}

// Verify reads a trail to its end and checks every record: its form, hash, predecessor and place
// in the sequence, that a chain is about one session and a session has one chain, that the
// session's attribution rises at a [SessionVerified] and nothing else of it changes, that an
// intent uses an issuance recorded before it, neither revoked nor expired, that an outcome names
// an open intent, that after the end of a session nothing is issued or used, and that each signature
// is by the key that the session began with.
//
// The error is a [*BrokenError] if the trail is not intact, and then the summary is of the records
// before; any other error comes from r. An incomplete last line, at the end of the trail or before
// the next session, is no error but [Summary.TornTail].
//
// Besides the summary, Verify needs memory for one line, the issuances in use and the open
// intents only.
func Verify(r io.Reader) (Summary, error) { return NewReader(File{Reader: r}).Verify() }

// Verify reads the rest of the trail, as the function does.
func (r *Reader) Verify() (Summary, error) {
	var e Entry
	for {
		if _, err := r.next(&e); err == io.EOF {
			return r.Summary(), nil
		} else if err != nil {
			return r.Summary(), err
		}
	}
}

var errTooLong = fmt.Errorf("longer than %d bytes", maxLine)

// readLine appends the next line without its newline to buf. With io.EOF it returns what was left.
func readLine(br *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		part, err := br.ReadSlice('\n')
		if len(buf)+len(part) > maxLine {
			return buf, errTooLong
		}
		buf = append(buf, part...)
		if err == nil {
			return buf[:len(buf)-1], nil
		}
		if err != bufio.ErrBufferFull {
			return buf, err
		}
	}
}

// A verifier holds what the next record must fit to.
type verifier struct {
	sum  Summary
	seen map[string]bool // session ids
	enc  *encoder
	out  []byte

	scanner *scanner
	link    link // of the line that it read last

	chain   *chain // the current session's; nil before the first record
	partial bool   // the first chain may begin in the middle
	torn    bool   // the line before is incomplete, so the next must begin a chain
	broken  bool   // the line before did not fit, so the next is taken as it is
}

// summary returns what was read so far.
func (v *verifier) summary() Summary {
	sum := v.sum
	if v.chain != nil && v.chain.records > 0 {
		sum.Sessions = append(sum.Sessions[:len(sum.Sessions):len(sum.Sessions)], v.chain.summary())
	}
	return sum
}

func (v *verifier) endChain() {
	v.sum, v.chain = v.summary(), nil
}

// cut notes that the line before the next one is incomplete.
func (v *verifier) cut() { v.torn, v.sum.TornTail = true, true }

// check reads the next line into e and returns what is wrong with it, or "". Without a read there is
// nothing in e; if there is nothing wrong with that, the line was cut.
func (v *verifier) check(line []byte, e *Entry) (read bool, what string) {
	if v.chain != nil && !v.broken && !v.torn {
		if l, ok := v.scanner.scan(line, v.chain, e); ok {
			v.link = l
			what = v.follows(e, l, true)
			v.broken = what != ""
			return true, what
		}
		*e = Entry{}
	}
	if err := json.Unmarshal(line, e); err != nil {
		*e = Entry{}
		if isCut(line) {
			v.cut()
			return false, ""
		}
		v.broken = true
		return false, "not a record"
	}
	if v.broken {
		v.resume(e)
	}
	what = v.place(line, e)
	v.broken = what != ""
	return true, what
}

// resume takes e, which follows a record that did not fit, for the next of its session's chain.
func (v *verifier) resume(e *Entry) {
	v.broken, v.torn = false, false
	context, err := encodeContext(v.enc, e.Session, e.Pod)
	if err != nil || e.Session.ID == "" {
		return // place will say so
	}
	if v.chain == nil || v.chain.session.ID != e.Session.ID {
		v.endChain()
		v.chain = newChain(e, context)
		v.seen[e.Session.ID] = true
	}
	v.chain.session, v.chain.pod, v.chain.context = e.Session, e.Pod, context
	v.chain.beginAt(e)
}

// isCut reports whether line is the beginning of a JSON text.
func isCut(line []byte) bool {
	var v json.RawMessage
	return json.NewDecoder(bytes.NewReader(line)).Decode(&v) == io.ErrUnexpectedEOF
}

// place checks e, decoded from line, against the chain it must continue or begin.
func (v *verifier) place(line []byte, e *Entry) string {
	begins := v.chain == nil || e.Session.ID != v.chain.session.ID
	switch {
	case begins && e.Seq != 1 && !v.startsPartial(e):
		return "the records before it are missing"
	case begins && v.seen[e.Session.ID]:
		return "a session appears again"
	case !begins && v.torn:
		return "follows a line that was cut"
	case begins:
		if err := v.begin(e); err != nil {
			return "not a record"
		}
		if e.Seq != 1 {
			v.chain.beginAt(e)
		}
	}
	v.torn = false
	verified := !begins && v.chain.verified(v.enc, e)
	next, form := v.rebuild(line, e)
	switch {
	case e.Session != v.chain.session || e.Event == SessionVerified && !verified:
		return "the session's particulars changed"
	case e.Pod != v.chain.pod:
		return "the pod changed"
	}
	return v.follows(e, link{prev: []byte(e.Prev), hash: []byte(e.Hash), next: next}, form)
}

// follows checks that e, which is about the current chain's session, comes next in it. Form says whether
// its line is as it ought to be but for the hash.
func (v *verifier) follows(e *Entry, l link, form bool) string {
	c := v.chain
	switch {
	case e.Seq != c.at.seq+1:
		return fmt.Sprintf("out of sequence: want seq %d", c.at.seq+1)
	case string(l.prev) != string(c.at.hash[:]):
		return "prev is not the hash of the record before it"
	case !form:
		return "not in the form that this version writes"
	case string(l.hash) != string(l.next.hash[:]):
		return "the hash does not match"
	}
	if what := c.apply(e); what != "" {
		return what
	}
	c.at = l.next
	return ""
}

// startsPartial reports whether e may be the first record that there is of its chain.
func (v *verifier) startsPartial(e *Entry) bool {
	return v.partial && v.chain == nil && len(v.sum.Sessions) == 0 && e.Seq > 1 && len(e.Prev) == len(noDigest)
}

// begin ends the current chain and begins e's.
func (v *verifier) begin(e *Entry) error {
	v.endChain()
	context, err := encodeContext(v.enc, e.Session, e.Pod)
	if err != nil {
		return err
	}
	v.seen[e.Session.ID] = true
	v.chain = newChain(e, context)
	return nil
}

// rebuild writes e anew after the current chain. It returns the position e ought to have and
// whether line is byte for byte what [Log.Append] would have written, but for the hash. That is
// the whole check of a line's form: no member twice or unknown or in other case or order, no other
// white space or escapes, which two readers could take for different things.
func (v *verifier) rebuild(line []byte, e *Entry) (next position, form bool) {
	policy, err := v.chain.encodePolicy(v.enc, e.Policy)
	if err != nil {
		return position{}, false
	}
	r := e.Record
	r.Event = ""
	fields, err := v.enc.encode(&r)
	if err != nil || !e.Event.known() {
		return position{}, false
	}
	v.out, next = appendLine(v.out[:0], v.chain.at, e.Time, e.Event, v.chain.context, policy, fields)
	want := v.out[:len(v.out)-1]
	at := bytes.Index(want, next.hash[:]) // the first: prev differs from it
	if len(line) != len(want) || at < 0 {
		return next, false
	}
	end := at + len(next.hash)
	return next, bytes.Equal(line[:at], want[:at]) && bytes.Equal(line[end:], want[end:])
}
