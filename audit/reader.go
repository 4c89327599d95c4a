package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// A File is a part of a trail: a file, or what else it is read from. Name is for errors and may be "".
type File struct {
	Name string
	io.Reader
}

// A Reader reads a trail record by record and checks each as [Verify] does. It is not safe for
// concurrent use.
type Reader struct {
	// Partial says that the beginning of the trail was given up, as when old files of it are deleted: the
	// first session may begin in the middle, and use what was issued before. It is set before the first
	// Next.
	Partial bool

	files []File
	in    *bufio.Reader
	buf   []byte
	line  int
	v     verifier
}

// NewReader returns a reader of the trail that stands in files, one after another. A chain may go on
// from one to the next.
func NewReader(files ...File) *Reader {
	r := &Reader{files: files, v: verifier{seen: make(map[string]bool), enc: newEncoder(), scanner: newScanner()}}
	if len(files) > 0 {
		r.in = bufio.NewReaderSize(files[0], 256<<10)
	}
	return r
}

// Where names the file and the line of the record that Next returned last.
func (r *Reader) Where() (file string, line int) {
	if len(r.files) == 0 {
		return "", 0
	}
	return r.files[0].Name, r.line
}

// Summary is of the records that were read so far.
func (r *Reader) Summary() Summary { return r.v.summary() }

// Next returns the next record. The error is [io.EOF] at the end; a [*BrokenError], with the record if
// it could be read at all, where the trail is not intact, after which the next call goes on with the
// line after it, from what that one says of itself; any other error is of reading, and final.
func (r *Reader) Next() (*Entry, error) {
	e := new(Entry)
	read, err := r.next(e)
	if !read {
		return nil, err
	}
	if e.Hash == "" {
		e.Prev, e.Hash = string(r.v.link.prev), string(r.v.link.hash)
	}
	return e, err
}

// next is Next into e, but for the hashes, which may be left out.
func (r *Reader) next(e *Entry) (read bool, err error) {
	r.v.partial = r.Partial
	for r.in != nil {
		line, err := readLine(r.in, r.buf[:0])
		r.buf = line
		if err == io.EOF {
			if len(line) > 0 {
				r.v.cut()
			}
			if r.files = r.files[1:]; len(r.files) == 0 {
				r.in = nil
				break
			}
			r.in.Reset(r.files[0])
			r.line = 0
			continue
		}
		r.line++
		if errors.Is(err, errTooLong) {
			r.in = nil
			return false, r.broken(&Entry{}, err.Error())
		}
		if err != nil {
			r.in = nil
			return false, fmt.Errorf("read the audit trail: %w", err)
		}
		read, what := r.v.check(line, e)
		if what != "" {
			return read, r.broken(e, what)
		}
		if read {
			return true, nil
		}
	}
	return false, io.EOF
}

func (r *Reader) broken(e *Entry, what string) error {
	name, line := r.Where()
	return &BrokenError{File: name, Line: line, Seq: e.Seq, What: what}
}
