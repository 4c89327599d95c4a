package audit_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
)

// listenUnix returns a socket and its path.
func listenUnix(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, path
}

// connect returns a sink to a socket, its reader's end, and what the reader listens on.
func connect(t *testing.T) (sink audit.Sink, reader net.Conn, ln net.Listener) {
	t.Helper()
	ln, path := listenUnix(t)
	sink, err := audit.OpenSink("unix:"+path, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return sink, reader, ln
}

func TestSocket(t *testing.T) {
	sink, conn, _ := connect(t)
	defer conn.Close()
	l, err := audit.New(audit.Config{Sink: sink, Sync: true, Session: audit.Session{ID: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	mustAppend(t, l, audit.Record{Event: audit.SessionEnded})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if sum := mustVerify(t, string(text)); len(sum.Sessions) != 1 || !sum.Sessions[0].Ended {
		t.Errorf("summary %+v, want a session that has ended", sum)
	}
}

// A second connection would go on in a chain of which nobody knows whether its reader has the rest.
func TestSocketIsNotConnectedAgain(t *testing.T) {
	sink, conn, ln := connect(t)
	l := open(t, sink, "s")
	defer l.Close()
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	conn.Close()
	for range 3 {
		if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); !errors.Is(err, audit.ErrSink) {
			t.Errorf("Append without a reader: %v, want ErrSink", err)
		}
	}
	ln.(*net.UnixListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
	if again, err := ln.Accept(); err == nil {
		again.Close()
		t.Error("it was connected again")
	}
}

func TestSocketRefuses(t *testing.T) {
	dir := t.TempDir()
	ln, path := listenUnix(t)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errors.Join(os.Symlink(path, link), os.WriteFile(file, nil, 0o600), ln.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{filepath.Join(dir, "none"), "no such file"},
		{file, "is not a socket"},
		{link, "is not a socket"},
		{"@abstract", "no such file"},
		{"", "no such file"},
		{path, "connection refused"}, // nobody listens any more
	} {
		if _, err := audit.OpenSink("unix:"+tt.path, 0); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("unix:%s: %v, want %q", tt.path, err, tt.want)
		}
	}
}
