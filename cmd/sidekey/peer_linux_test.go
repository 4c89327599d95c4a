package main

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// The kernel, and not only the socket's mode, keeps other users out.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to connect as another user")
	}
	path := socketPath(t)
	s, err := listenAdmin(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if conn := dialAs(t, path, 65533); conn != nil {
		t.Fatal("a socket of mode 0600 let another user in")
	}
	for name, mode := range map[string]os.FileMode{path[:len(path)-len("/admin.sock")]: 0o755, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := s.Accept(); err == nil {
			accepted <- conn
		}
		close(accepted)
	}()
	conn := dialAs(t, path, 65533)
	if conn == nil {
		t.Fatal("another user could not connect, though the mode lets him")
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("another user got %d bytes, %v; want the connection closed", n, err)
	}
	s.Close()
	if conn, ok := <-accepted; ok {
		t.Errorf("the connection of %v was accepted", conn.(*adminConn).peer)
		conn.Close()
	}
}

// dialAs connects as another user; nil if that is not allowed. Only one thread changes its user, and
// it ends with the goroutine that does not let go of it.
func dialAs(t *testing.T, path string, uid uintptr) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			done <- result{nil, errno}
			return
		}
		conn, err := net.Dial("unix", path)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil && !errors.Is(r.err, os.ErrPermission) {
		t.Fatal(r.err)
	}
	return r.conn
}
