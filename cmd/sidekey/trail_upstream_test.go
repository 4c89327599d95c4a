package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sidekey/sidekey/internal/mitmca"
)

// A notingUpstream is an HTTP/1.1 server over TLS that notes a request as soon as it has its first
// line, before anything of it is parsed, and answers each with 200. The name of api.test is its own.
type notingUpstream struct {
	port   string
	caFile string
	ln     net.Listener

	mu        sync.Mutex
	got       map[string]int // by "METHOD PATH"
	fragments int            // connections that ended within a first line
	conns     map[net.Conn]bool
	serving   sync.WaitGroup
}

func newNotingUpstream(t *testing.T) *notingUpstream {
	t.Helper()
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) },
		NextProtos:     []string{"http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	u := &notingUpstream{
		port: port(ln), caFile: filepath.Join(t.TempDir(), "upstream-ca.crt"), ln: ln,
		got: map[string]int{}, conns: map[net.Conn]bool{},
	}
	if err := os.WriteFile(u.caFile, ca.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	u.serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			u.track(conn, true)
			u.serving.Go(func() { defer u.track(conn, false); u.serve(conn) })
		}
	})
	t.Cleanup(u.close)
	return u
}

func (u *notingUpstream) track(conn net.Conn, open bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if open {
		u.conns[conn] = true
		return
	}
	conn.Close()
	delete(u.conns, conn)
}

func (u *notingUpstream) close() {
	u.ln.Close()
	u.mu.Lock()
	for conn := range u.conns {
		conn.Close()
	}
	u.mu.Unlock()
	u.serving.Wait()
}

func (u *notingUpstream) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		u.note(line, err)
		if err != nil {
			return
		}
		header, err := textproto.NewReader(r).ReadMIMEHeader()
		if err != nil {
			return
		}
		length, _ := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
		if _, err := io.CopyN(io.Discard, r, length); err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"); err != nil {
			return
		}
	}
}

// note takes the first line of a request, or what came of it before the connection ended.
func (u *notingUpstream) note(line string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	method, rest, _ := strings.Cut(line, " ")
	path, _, ok := strings.Cut(rest, " ")
	switch {
	case ok:
		u.got[method+" "+path]++
	case line != "":
		u.fragments++
	}
}

// received returns what came so far, by "METHOD PATH".
func (u *notingUpstream) received() map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.got)
}

// total counts what came so far.
func (u *notingUpstream) total() (n int) {
	for _, times := range u.received() {
		n += times
	}
	return n
}

// quiet waits until whoever sent something has closed its connection, so that all that it sent has
// been noted, and fails if a part of a request came.
func (u *notingUpstream) quiet() error {
	open := 0
	if !poll(func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		open = len(u.conns)
		return open == 0
	}) {
		return fmt.Errorf("%d connections are still open", open)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fragments > 0 {
		return fmt.Errorf("%d connections ended within the first line of a request", u.fragments)
	}
	return nil
}

// forget drops what was noted.
func (u *notingUpstream) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.got)
}
