package proxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/sidekey/sidekey/redact"
)

var errReflected = errors.New("secret_reflected")

// A frameScanner looks for secrets in a stream of frames and ends the stream where it finds one: a
// mask would not fit the frame's length. Nothing is held back across the end of a frame, so that
// two parties that answer each other frame by frame are not kept waiting; a secret that is cut in
// two by a border between frames is not found.
type frameScanner struct {
	ex     *exchange
	where  string // for the record
	src    *bufio.Reader
	header func(*bufio.Reader) (head []byte, payload int64, err error)

	head    []byte         // of the current frame, not handed on yet
	payload *redact.Reader // of the current frame; nil before the first
}

func newFrameScanner(ex *exchange, where string, src io.Reader, header func(*bufio.Reader) ([]byte, int64, error)) *frameScanner {
	return &frameScanner{ex: ex, where: where, src: bufio.NewReaderSize(src, 32<<10), header: header}
}

func (s *frameScanner) Read(p []byte) (int, error) {
	for {
		if len(s.head) > 0 {
			n := copy(p, s.head)
			s.head = s.head[n:]
			return n, nil
		}
		if s.payload != nil {
			n, err := s.payload.Read(p)
			if s.payload.Found() > 0 {
				if err := s.ex.recordReflection(s.where); err != nil {
					return 0, err
				}
				return 0, errReflected
			}
			if err == io.EOF {
				s.payload, err = nil, nil
			}
			if n > 0 || err != nil {
				return n, err
			}
		}
		head, length, err := s.header(s.src)
		if err != nil {
			return 0, err
		}
		s.head, s.payload = head, s.ex.secrets.values.NewReader(io.LimitReader(s.src, length))
	}
}

// grpcHeader reads the prefix of a message: a flag and four bytes of length (gRPC over HTTP/2,
// "Length-Prefixed-Message").
func grpcHeader(r *bufio.Reader) ([]byte, int64, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, 0, err
	}
	return head, int64(binary.BigEndian.Uint32(head[1:])), nil
}

// webSocketHeader reads the header of a frame from a server, which is not masked (RFC 6455
// sections 5.1 and 5.2).
func webSocketHeader(r *bufio.Reader) ([]byte, int64, error) {
	head := make([]byte, 2, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, 0, err
	}
	size := map[byte]int{126: 2, 127: 8}[head[1]&0x7f]
	if head[1]&0x80 != 0 {
		return nil, 0, errors.New("masked frame from a server")
	}
	if size == 0 {
		return head, int64(head[1]), nil
	}
	head = head[:2+size]
	if _, err := io.ReadFull(r, head[2:]); err != nil {
		return nil, 0, err
	}
	length := uint64(binary.BigEndian.Uint16(head[2:]))
	if size == 8 {
		length = binary.BigEndian.Uint64(head[2:])
	}
	if length > 1<<62 {
		return nil, 0, errors.New("frame too long")
	}
	return head, int64(length), nil
}
