package redact

import (
	"errors"
	"io"
)

const (
	bufferSize = 32 << 10
	maxEmpty   = 100 // reads in a row that give neither bytes nor an error, as in bufio
)

var errCount = errors.New("read the source: it returned an impossible count")

// Reader masks the secrets in what it reads. Its output is the masked form of the whole source,
// however the source is cut and whatever the size of the caller's buffers, see [Set.String].
// It is for one goroutine at a time. It prints as its address only.
type Reader struct {
	stream func() *stream // a function for the reason given at Set
}

// NewReader returns a Reader of src. It holds a byte back only while that byte belongs to a proper
// prefix of something it looks for; what it holds when src ends or fails comes out before the
// error. Its memory does not grow with the length of src. It does not close src.
func (s *Set) NewReader(src io.Reader) *Reader {
	st := &stream{src: src, table: s.open()}
	return &Reader{func() *stream { return st }}
}

// Read implements [io.Reader]. It reads from the source only when it has nothing to deliver, and
// an error of the source is returned once all bytes before it were. A source that returns neither
// bytes nor an error many times in a row gives [io.ErrNoProgress].
func (r *Reader) Read(p []byte) (int, error) { return r.stream().read(p) }

// Found returns how many masks the output has so far.
func (r *Reader) Found() int { return r.stream().found }

type stream struct {
	src   io.Reader
	err   error  // of src; final
	table *table // nil: nothing to find
	// buffer is nil before the first read and after the last.
	buffer *[]byte
	used   int    // how much of buffer has had bytes in it
	text   []byte // the part of buffer in use, begins with what has not left yet
	cursor cursor // in text
	marks  marks  // of text
	piece  []byte // of text: is on its way to the caller
	mask   string // the rest of a mask that is on its way to the caller
	found  int
}

func (s *stream) read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.table == nil {
		return s.fetch(p)
	}
	for {
		k := copy(p[n:], s.mask)
		s.mask = s.mask[k:]
		n += k
		k = copy(p[n:], s.piece)
		s.piece = s.piece[k:]
		n += k
		switch {
		case n == len(p):
			return n, nil
		case s.produce():
		case n > 0:
			return n, nil
		case s.err != nil:
			s.release()
			return 0, s.err
		default:
			s.fill()
		}
	}
}

// produce puts the next piece of the output on its way. It is false when that takes more of src.
func (s *stream) produce() bool {
	for {
		limit := s.cursor.pos - s.table.held(s.cursor)
		if s.err != nil && s.cursor.pos == len(s.text) {
			limit = len(s.text)
		}
		from, to, mask, ok := s.marks.next(limit)
		if mask {
			s.mask = Mask
			s.found++
		} else {
			s.piece = s.text[from:to]
		}
		if ok {
			return true
		}
		if s.cursor.pos == len(s.text) {
			return false
		}
		if length := advance(s.table, s.text, &s.cursor); length > 0 {
			s.marks.add(s.cursor.pos-length, s.cursor.pos)
		}
	}
}

// fill drops what has left and reads more.
func (s *stream) fill() {
	if s.buffer == nil {
		s.buffer = s.table.buffers.Get().(*[]byte)
	}
	b := *s.buffer
	gone := s.marks.done
	kept := copy(b, s.text[gone:])
	s.marks.shift(gone)
	s.cursor.pos -= gone
	var n int
	n, s.err = s.fetch(b[kept:])
	s.text = b[:kept+n]
	s.used = max(s.used, len(s.text))
}

// fetch reads src until there are bytes or an error.
func (s *stream) fetch(p []byte) (int, error) {
	for range maxEmpty {
		n, err := s.src.Read(p)
		if n < 0 || n > len(p) {
			return 0, errCount
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// release gives the buffer back, without what was in it.
func (s *stream) release() {
	if s.buffer == nil {
		return
	}
	clear((*s.buffer)[:s.used])
	s.table.buffers.Put(s.buffer)
	s.buffer, s.text = nil, nil
	s.cursor, s.marks = cursor{}, marks{}
}
