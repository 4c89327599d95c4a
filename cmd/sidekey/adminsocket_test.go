package main

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// socketPath returns a path that is short enough for a socket, which those of t.TempDir may not be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "admin.sock")
}

func TestListenAdmin(t *testing.T) {
	path := socketPath(t)
	s, err := listenAdmin(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v: %v, want a socket of mode 0600", info.Mode(), err)
	}
	go func() {
		conn, err := net.Dial("unix", path)
		if err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	conn, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if who, want := conn.(*adminConn).peer, (peer{os.Geteuid(), os.Getpid()}); who != want {
		t.Errorf("the peer is %v, want %v", who, want)
	}
	conn.Close()
	if _, err := listenAdmin(path, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second socket: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A socket that a dead process left is replaced; one of another process is not removed.
func TestStaleSocket(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	s, err := listenAdmin(path, zerolog.Nop())
	if err != nil {
		t.Fatalf("in the place of a stale socket: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := listenAdmin(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the next process's socket was removed: %v", err)
	}
	next.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its own socket is left: %v", err)
	}
}

func TestCheckSocketPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, want string }{
		{filepath.Join(dir, "new"), ""},
		{file, "is there, and is not a socket"},
		{filepath.Join(dir, "link"), "is there, and is not a socket"},
		{dir, "is there, and is not a socket"},
		{filepath.Join(dir, "none", "s"), "no such file"},
		{filepath.Join(file, "s"), "file is not a directory"},
	} {
		err := checkSocketPath(tc.path)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.path, err, tc.want)
		}
		if tc.want != "" {
			if _, err := listenAdmin(tc.path, zerolog.Nop()); err == nil {
				t.Errorf("%s: a socket was made", tc.path)
			}
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestMayAdminister(t *testing.T) {
	own := os.Geteuid()
	for _, tc := range []struct {
		peer peer
		want bool
	}{{peer{0, 1}, true}, {peer{own, 1}, true}, {peer{own + 1, 1}, false}, {peer{65534, 1}, own == 65534}, {peer{-1, 0}, false}} {
		if got := tc.peer.mayAdminister(); got != tc.want {
			t.Errorf("%v: %t, want %t", tc.peer, got, tc.want)
		}
	}
}

// More connections than places wait.
func TestAdminConnectionsAreBounded(t *testing.T) {
	path := socketPath(t)
	s, err := listenAdmin(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, maxAdmins+1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	for range maxAdmins + 1 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	var first net.Conn
	for i := range maxAdmins {
		conn := <-accepted
		if i == 0 {
			first = conn
		} else {
			defer conn.Close()
		}
	}
	if places := s.Listener.(*peerListener).places; len(places) != cap(places) {
		t.Errorf("%d of %d places are taken", len(places), cap(places))
	}
	first.Close()
	first.Close() // must not give back a second place
	(<-accepted).Close()
	s.Close()
	<-ended
}
