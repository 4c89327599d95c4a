package audit

import (
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// socketPatience bounds connecting to a socket whose owner has no time for it.
	socketPatience = 5 * time.Second

	// socketBuffer bounds what a reader that dies has not read, in bytes: records that were written,
	// and that it took with it.
	socketBuffer = 64 << 10
)

// A socket is a connection to who reads a Unix stream socket. Its first failure is for ever: how much of
// what was written its reader has read before that nobody knows, so that a second connection would go
// on in a chain with a hole in it. A process that begins anew has a chain of its own.
type socket struct {
	conn   *net.UnixConn
	failed error
}

// openSocket connects to the socket at path.
func openSocket(path string) (*socket, error) {
	info, err := os.Lstat(path) // what begins with @ would be no file, but a name that anyone can take
	if err != nil {
		return nil, fmt.Errorf("open the audit trail: %v", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("open the audit trail: %s is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, socketPatience)
	if err != nil {
		return nil, fmt.Errorf("open the audit trail: %v", err)
	}
	s := &socket{conn: conn.(*net.UnixConn)}
	if err := s.conn.SetWriteBuffer(socketBuffer); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open the audit trail: %v", err)
	}
	return s, nil
}

// Write returns when the kernel has p.
func (s *socket) Write(p []byte) (int, error) {
	if s.failed != nil {
		return 0, s.failed
	}
	n, err := s.conn.Write(p)
	if err != nil {
		s.failed = fmt.Errorf("%v; the connection is not made again", err)
	}
	return n, err
}

// Sync does nothing: what the reader does with a record cannot be seen from here.
func (s *socket) Sync() error { return nil }

func (s *socket) Close() error { return s.conn.Close() }
