package main

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/sidekey/sidekey/audit"
)

// maxCopies bounds the copies of records that wait for the OTLP endpoint, in bytes.
const maxCopies = 4 << 20

// A copyQueue holds copies of the trail's lines until they are sent. What does not fit is dropped and
// counted: the trail waits for nobody.
type copyQueue struct {
	dropped counter
	wake    chan struct{} // has a token while there may be something

	mu    sync.Mutex
	lines [][]byte // whole lines, one or more each
	size  int      // bytes
}

// A counter is what of a Prometheus counter is needed.
type counter interface{ Add(n float64) }

func newCopyQueue(dropped counter) *copyQueue {
	return &copyQueue{dropped: dropped, wake: make(chan struct{}, 1)}
}

// add queues a copy of lines.
func (q *copyQueue) add(lines []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size+len(lines) > maxCopies {
		q.drop(lines)
		return
	}
	q.lines = append(q.lines, bytes.Clone(lines))
	q.size += len(lines)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the oldest lines, about most bytes of them, or nil if there are none.
func (q *copyQueue) take(most int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []byte
	for len(q.lines) > 0 && (out == nil || len(out)+len(q.lines[0]) <= most) {
		out = append(out, q.lines[0]...)
		q.lines[0] = nil
		q.lines = q.lines[1:]
	}
	q.size -= len(out)
	return out
}

// drop counts lines that will not be sent.
func (q *copyQueue) drop(lines []byte) { q.dropped.Add(float64(bytes.Count(lines, newline))) }

var newline = []byte{'\n'}

// A copyingSink is the trail's sink. What it has taken, and synced if records wait for that, is queued to
// be sent elsewhere, and nothing else is.
type copyingSink struct {
	audit.Sink
	queue  *copyQueue
	synced bool   // records wait for Sync
	taken  []byte // since the last Sync
}

func (s *copyingSink) Write(p []byte) (int, error) {
	s.taken = s.taken[:0] // without a Sync after it, the last Write was taken back
	n, err := s.Sink.Write(p)
	switch {
	case err != nil || n != len(p):
	case s.synced:
		s.taken = append(s.taken, p...)
	default:
		s.queue.add(p)
	}
	return n, err
}

func (s *copyingSink) Sync() error {
	err := s.Sink.Sync()
	if err == nil && len(s.taken) > 0 {
		s.queue.add(s.taken)
	}
	s.taken = s.taken[:0]
	return err
}

// Truncate and Seek are those of a file; other sinks have none, and [audit.New] finds that out by Seek.
func (s *copyingSink) Truncate(size int64) error {
	if f, ok := s.Sink.(interface{ Truncate(size int64) error }); ok {
		return f.Truncate(size)
	}
	return errors.ErrUnsupported
}

func (s *copyingSink) Seek(offset int64, whence int) (int64, error) {
	if f, ok := s.Sink.(io.Seeker); ok {
		return f.Seek(offset, whence)
	}
	return 0, errors.ErrUnsupported
}

// Rotate sets aside what was written, where the sink can.
func (s *copyingSink) Rotate() error {
	if f, ok := s.Sink.(interface{ Rotate() error }); ok {
		return f.Rotate()
	}
	return nil
}
