package audit

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// maxKeep bounds the buffer that is kept from one batch to the next, in bytes.
const maxKeep = 1 << 20

// postDelay is for how long a posted record may wait for another whose write it shares.
const postDelay = 5 * time.Millisecond

// An entry is a record on its way to the sink.
type entry struct {
	enc    *encoder
	event  Event
	fields []byte // owned by enc
	at     time.Time
	policy []byte
	raises []byte // the session and pod that this record and all after it carry; nil leaves them
	posted bool   // nobody waits for it
	seq    uint64 // set by the leader
}

func newEntry() *entry { return &entry{enc: newEncoder()} }

// A batch is what one Write takes to the sink. The first Append that joins it is its leader; the others
// wait on done, after which err and the entries' seq are set. A batch of posted records has the timer
// for its leader if no Append comes before.
type batch struct {
	entries []*entry
	led     bool
	done    chan struct{} // nil while nobody but the leader waits
	err     error
}

// Append adds r to the trail. It returns only after r's whole line was written to the sink, and
// synced if [Config.Sync] is set; it may block for as long as the sink does. Concurrent calls
// share one Write.
//
// The error wraps [ErrSink] if the sink failed, in which case no record of that batch is part of
// the trail, or is [ErrClosed]. Any other error means that r itself cannot be recorded: its event
// is unknown or one that only the log itself appends, an outcome names no intent, a [CredentialIssued] has no id or expiry,
// a number or a time has no JSON form. After the sink failed, the next Append tries again, unless bytes reached
// the sink that could not be taken back; then every later Append fails.
func (l *Log) Append(r Record) (Ref, error) {
	if err := r.appendable(); err != nil {
		return Ref{}, err
	}
	return l.append(r, nil)
}

// appendable is an error for a record that no caller may append.
func (r *Record) appendable() error {
	switch r.Event {
	case SessionVerified:
		return errors.New("append to the audit trail: only SetAttribution appends a " + string(r.Event))
	case SegmentSigned:
		return errors.New("append to the audit trail: only the log itself appends a " + string(r.Event))
	}
	return nil
}

// SetAttribution appends r as a [SessionVerified]; it and all records after it carry attribution,
// which must be [Kubernetes] or [VaultVerified] and higher than what it was. Records that are
// appended at the same time come before or after. Its errors are those of [Log.Append]; then the
// attribution is what it was.
func (l *Log) SetAttribution(attribution string, r Record) (Ref, error) {
	l.raising.Lock()
	defer l.raising.Unlock()
	raised := l.session
	raised.Attribution = attribution
	if level(attribution) <= level(l.session.Attribution) {
		return Ref{}, fmt.Errorf("append to the audit trail: attribution %.40q is not above %.40q", attribution, l.session.Attribution)
	}
	context, err := encodeContext(newEncoder(), raised, l.pod)
	if err != nil {
		return Ref{}, fmt.Errorf("append to the audit trail: %v", err)
	}
	r.Event = SessionVerified
	ref, err := l.append(r, context)
	if err == nil {
		l.session = raised
	}
	return ref, err
}

// Post adds r to the trail as Append does, but does not wait for it: r is written with the next record
// that is appended, or else within a few milliseconds. So when an Append returns without an error, what
// was posted before it is in the trail as well, or could not be written, which [Config.Posted] is told.
// The error of Post is that of a record that cannot be recorded, or [ErrClosed]. Close waits for r.
//
// It is for records that nothing depends on: a process that is killed loses the last of them.
func (l *Log) Post(r Record) error {
	if err := r.appendable(); err != nil {
		return err
	}
	e, err := l.encode(&r, nil)
	if err == nil {
		e.posted = true
		if _, _, err = l.join(e, &r); err == nil {
			return nil // who commits it releases it
		}
	}
	l.release(e)
	return err
}

func (l *Log) append(r Record, raises []byte) (Ref, error) {
	e, err := l.encode(&r, raises)
	defer l.release(e)
	if err != nil {
		return Ref{}, err
	}
	b, leads, err := l.join(e, &r)
	switch {
	case err != nil:
		return Ref{}, err
	case leads:
		l.commit(b)
	default:
		<-b.done
	}
	if b.err != nil {
		return Ref{}, b.err
	}
	return Ref{Seq: e.seq, urn: l.urn}, nil
}

// encode returns r as an entry, which the caller must release even if there is an error.
func (l *Log) encode(r *Record, raises []byte) (*entry, error) {
	e := l.entries.Get().(*entry)
	if err := r.check(); err != nil {
		return e, fmt.Errorf("append to the audit trail: %v", err)
	}
	r.SigningKey, r.Signature = "", ""
	if r.Event == SessionStarted {
		r.SigningKey = l.segment.public
	}
	e.event, e.raises = r.Event, raises
	var err error
	e.enc.fields, err = e.enc.appendFields(e.enc.fields[:0], r)
	if e.fields = e.enc.fields; err != nil {
		return e, fmt.Errorf("append to the audit trail: %v", err)
	}
	return e, nil
}

func (l *Log) release(e *entry) {
	e.posted = false
	l.entries.Put(e)
}

// join adds e to the next batch and reports whether the caller must commit it. Nobody waits for an
// entry that is posted.
func (l *Log) join(e *entry, r *Record) (b *batch, leads bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false, ErrClosed
	}
	// Under the lock, so that times and policies go by in the order of the records.
	e.at, e.policy = l.now(), l.policy
	if decided, ok := l.policies[r.Generation]; ok && r.Generation != 0 {
		e.policy = decided
	}
	if !r.NotAfter.IsZero() && !e.at.Before(r.NotAfter.Round(0)) { // by the wall clock, as who verifies it
		return nil, false, ErrLate
	}
	if l.next == nil {
		l.next = &batch{entries: l.spare}
		l.spare = nil
		l.batches.Add(1)
	}
	b = l.next
	b.entries = append(b.entries, e)
	switch {
	case !e.posted && !b.led:
		b.led, leads = true, true
	case !e.posted && b.done == nil:
		b.done = make(chan struct{})
	case e.posted && !b.led && !l.armed:
		l.armed = true
		time.AfterFunc(postDelay, l.flush)
	}
	return b, leads, nil
}

// flush commits the next batch if it has no leader.
func (l *Log) flush() {
	defer func() {
		if p := recover(); p != nil { // there is no caller to pass it on to; the log takes nothing any more
			l.problem(fmt.Errorf("append to the audit trail: %w: panic: %v", ErrSink, p))
		}
	}()
	l.mu.Lock()
	l.armed = false
	b := l.next
	leads := b != nil && !b.led
	if leads {
		b.led = true
	}
	l.mu.Unlock()
	if leads {
		l.commit(b)
	}
}

// commit waits for the batch before b, closes b to newcomers, and writes it. The chain moves on
// only after the sink took everything, so that a failed batch leaves no gap.
func (l *Log) commit(b *batch) {
	defer l.batches.Done()
	l.writing <- struct{}{}
	b.err = ErrSink // what the others see if the sink panics
	defer l.settle(b)
	defer func() { <-l.writing }()
	runtime.Gosched() // whoever is about to append as well shares the write
	l.mu.Lock()
	l.next = nil
	head := l.head
	l.mu.Unlock()

	buf, context, ends := l.buf[:0], l.context, false
	for _, e := range b.entries {
		if e.raises != nil {
			context = e.raises
		}
		buf, head = appendLine(buf, head, e.at, e.event, context, e.policy, e.fields)
		e.seq = head.seq
		ends = ends || e.event == SessionEnded
		l.segment.told = l.segment.told || e.event == SessionStarted
	}
	last := b.entries[len(b.entries)-1]
	ends = ends || l.segment.size+int64(len(buf)) >= l.segment.limit
	if ends && l.segment.told {
		buf, head = l.segment.sign(buf, l.id, head, last.at, context, last.policy)
	}
	if cap(buf) <= maxKeep {
		l.buf = buf
	}
	if err := l.write(buf); err != nil {
		b.err = fmt.Errorf("append to the audit trail: %w: %v", ErrSink, err)
		return
	}
	l.context = context
	l.advance(head, len(buf), ends)
	b.err = nil
}

// settle tells everybody what became of b, which nobody can join any more. Who waited owns its entry
// from then on.
func (l *Log) settle(b *batch) {
	defer func() {
		clear(b.entries)
		if b.done != nil {
			close(b.done)
		}
		l.mu.Lock()
		l.spare, b.entries = b.entries[:0], nil
		l.mu.Unlock()
	}()
	for _, e := range b.entries {
		if e.posted {
			l.posted(e.event, b.err)
			l.release(e)
		}
	}
}

// advance moves the chain on to head, after size bytes were written, which end a segment if signed is
// set. The caller holds l.writing.
func (l *Log) advance(head position, size int, signed bool) {
	l.mu.Lock()
	l.head = head
	l.mu.Unlock()
	l.segment.size += int64(size)
	l.segment.open = !signed
	if !signed || l.segment.size < l.segment.limit {
		return
	}
	l.segment.size = 0
	if l.rotate == nil {
		return
	}
	if err := l.rotate.Rotate(); err != nil {
		l.problem(fmt.Errorf("rotate the audit trail, which goes on in the same file: %v", err))
		return
	}
	l.size = 0
}

// signRest signs what is not signed yet. The caller holds l.writing, and nobody appends any more.
func (l *Log) signRest() error {
	if !l.segment.open || !l.segment.told || l.broken != nil {
		return nil
	}
	buf, head := l.segment.sign(nil, l.id, l.head, l.now(), l.context, l.policy)
	if err := l.write(buf); err != nil {
		return err
	}
	l.advance(head, len(buf), false)
	return nil
}

// write hands p to the sink whole, or takes back what reached it. The caller holds l.writing.
func (l *Log) write(p []byte) error {
	if l.broken != nil {
		return l.broken
	}
	l.broken = errUnknown
	n, err := l.sink.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	if err == nil && l.sync {
		err = l.sink.Sync()
	}
	switch {
	case err == nil:
		l.size += int64(n)
		l.broken = nil
	case n == 0 || l.takeBack(n) == nil:
		l.broken = nil
	default:
		l.broken = fmt.Errorf("%v; part of a record is in the trail", err)
	}
	return err
}

// takeBack cuts off the n bytes of a batch that reached the sink although it failed.
func (l *Log) takeBack(n int) error {
	if l.rewind == nil {
		return errUnknown
	}
	// If the size is not what this log left and added, somebody else writes to the file, and
	// cutting would take their records.
	if size, err := l.rewind.Seek(0, io.SeekEnd); err != nil || size != l.size+int64(n) {
		return errUnknown
	}
	if err := l.rewind.Truncate(l.size); err != nil {
		return err
	}
	_, err := l.rewind.Seek(l.size, io.SeekStart)
	return err
}
