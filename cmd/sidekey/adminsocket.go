package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// maxAdmins bounds the connections of the admin socket.
const maxAdmins = 16

// A peer is a process at the other end of a unix socket.
type peer struct{ uid, pid int }

func (p peer) String() string { return fmt.Sprintf("uid %d, pid %d", p.uid, p.pid) }

// mayAdminister reports whether p is root or the user of this process.
func (p peer) mayAdminister() bool { return p.uid == 0 || p.uid == os.Geteuid() }

// An adminSocket accepts connections of those who may administer this process, and of nobody else.
type adminSocket struct {
	net.Listener
	path string
	made os.FileInfo // the socket as it was made
}

// listenAdmin makes the socket at path, for this user only. A socket that a dead process left there
// is replaced; anything else is left alone.
func listenAdmin(path string, log zerolog.Logger) (*adminSocket, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another process answers at %s", path)
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("see whether somebody answers at %s: %v", path, err)
	}
	// Made beside its place, the socket is nobody's to open before it has its mode, and renaming
	// replaces a stale one without a moment in which there is none.
	made := filepath.Join(filepath.Dir(path), "."+uuid.NewString()[:8])
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	var info os.FileInfo
	if err = os.Chmod(made, 0o600); err == nil {
		if info, err = os.Lstat(made); err == nil {
			err = os.Rename(made, path)
		}
	}
	if err != nil {
		ln.Close()
		os.Remove(made)
		return nil, err
	}
	return &adminSocket{&peerListener{ln, make(chan struct{}, maxAdmins), log}, path, info}, nil
}

// checkSocketPath reports what would keep a socket from being made at path.
func checkSocketPath(path string) error {
	if err := checkPeers(); err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there, and is not a socket", path)
	}
	return nil
}

// Close stops listening and removes the socket, unless another process has put its own there.
func (s *adminSocket) Close() error {
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.made) {
		os.Remove(s.path)
	}
	return s.Listener.Close()
}

// A peerListener closes connections of whoever may not administer this process, and accepts no more
// than places has room for.
type peerListener struct {
	*net.UnixListener
	places chan struct{}
	log    zerolog.Logger
}

func (l *peerListener) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			<-l.places
			return nil, err
		}
		p, err := peerOf(conn)
		if err == nil && p.mayAdminister() {
			return &adminConn{Conn: conn, peer: p, leave: sync.OnceFunc(func() { <-l.places })}, nil
		}
		l.log.Warn().Err(err).Int("uid", p.uid).Int("pid", p.pid).Msg("connection to the admin socket refused")
		conn.Close()
	}
}

// An adminConn knows who is at its other end.
type adminConn struct {
	net.Conn
	peer  peer
	leave func()
}

func (c *adminConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

type peerKey struct{}

// withPeer puts who is at the other end of an [adminConn] into the context of its requests.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*adminConn); ok {
		return context.WithValue(ctx, peerKey{}, c.peer)
	}
	return ctx
}
