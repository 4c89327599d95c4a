package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidekey/sidekey/internal/mitmca"
)

// A hostileUpstream is two servers with proper certificates: one answers in HTTP/1.1 with bytes that
// no server library writes, one in HTTP/2.
type hostileUpstream struct {
	ca     *mitmca.CA
	h1, h2 net.Listener
	server *http.Server
	bomb   []byte // a gzip member of 64 MiB of zeros

	closed  chan struct{}
	serving sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool // of h1
}

func newHostileUpstream() (*hostileUpstream, error) {
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		return nil, err
	}
	u := &hostileUpstream{ca: ca, conns: map[net.Conn]bool{}, closed: make(chan struct{})}
	leaf := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) }
	cfg := &tls.Config{GetCertificate: leaf, NextProtos: []string{"http/1.1"}}
	if u.h1, err = tls.Listen("tcp", "127.0.0.1:0", cfg); err != nil {
		return nil, err
	}
	if u.h2, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	io.CopyN(zw, zeros{}, 64<<20)
	if err := zw.Close(); err != nil {
		return nil, err
	}
	u.bomb = b.Bytes()
	u.server = &http.Server{
		Handler: http.HandlerFunc(u.serveH2), TLSConfig: &tls.Config{GetCertificate: leaf}, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000},
	}
	u.serving.Go(func() { u.server.ServeTLS(u.h2, "", "") })
	u.serving.Go(func() {
		for {
			conn, err := u.h1.Accept()
			if err != nil {
				return
			}
			u.serving.Go(func() { u.serveH1(conn) })
		}
	})
	return u, nil
}

// close drops all connections and waits for their ends.
func (u *hostileUpstream) close() {
	close(u.closed)
	u.server.Close()
	u.h1.Close()
	u.mu.Lock()
	for conn := range u.conns {
		conn.Close()
	}
	u.mu.Unlock()
	u.serving.Wait()
}

// track notes an open connection until it has ended.
func (u *hostileUpstream) track(conn net.Conn) (ended func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns[conn] = true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.conns, conn)
		conn.Close()
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (u *hostileUpstream) serveH2(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ok":
		io.WriteString(w, "ok\n")
	case "/endless":
		io.Copy(w, zeros{})
	case "/stuck":
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
}

// serveH1 answers until the proxy hangs up.
func (u *hostileUpstream) serveH1(conn net.Conn) {
	defer u.track(conn)()
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		switch path := req.URL.Path; path {
		case "/ok":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
			continue
		case "/gzip":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
			forever(conn, u.bomb)
		case "/header":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			forever(conn, []byte("X-More: "+strings.Repeat("x", 1000)+"\r\n"))
		case "/line":
			forever(conn, []byte("HTTP/1.1 200 OK"+strings.Repeat(" and so on", 100)))
		case "/1xx":
			forever(conn, []byte(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 100)))
		case "/trailer":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
			forever(conn, []byte("X-More: "+strings.Repeat("x", 1000)+"\r\n"))
		case "/endless":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			forever(conn, make([]byte, 32<<10))
		default: // stuck: it reads nothing and says nothing
			<-u.closed
		}
		return
	}
}

// forever writes text until the proxy hangs up, or for a minute.
func forever(conn net.Conn, text []byte) {
	conn.SetDeadline(time.Now().Add(time.Minute))
	for {
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

// answers asks h1.test for a path from 16 agents at once, again and again, and says what came.
func (s *siege) answers(ctx context.Context, total int, path string) (*count, error) {
	const workers = 16
	client, done, err := s.client().http()
	if err != nil {
		return nil, err
	}
	defer done()
	var seen count
	var started atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil && started.Add(1) <= int64(total) {
				seen.add(outcome(ctx, client, "https://"+s.h1Host+path))
			}
		})
	}
	all.Wait()
	return &seen, nil
}

// outcome is the status of an answer, and how its body ends.
func outcome(ctx context.Context, client *http.Client, url string) string {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return "bad_url"
	}
	resp, err := client.Do(req)
	if err != nil {
		return "no_answer"
	}
	defer resp.Body.Close()
	end := "whole"
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		end = "broken"
	}
	return fmt.Sprintf("%d_%s_%s", resp.StatusCode, refusalOf(resp), end)
}

// only wants total answers of one kind.
func only(seen *count, total int, kind string) (string, error) {
	if seen.get(kind) != total {
		return seen.String(), fmt.Errorf("want %d times %s", total, kind)
	}
	return seen.String(), nil
}

// gzipBomb gets bodies that grow a thousandfold, without end.
func gzipBomb(ctx context.Context, s *siege) (string, error) {
	const total = 200
	seen, err := s.answers(ctx, total, "/gzip")
	if err != nil {
		return "", err
	}
	return only(seen, total, "200_-_broken")
}

// endlessHeader gets answers whose head never ends, in its fields or in its first line.
func endlessHeader(ctx context.Context, s *siege) (string, error) {
	const total = 1000
	for _, path := range []string{"/line", "/header"} {
		seen, err := s.answers(ctx, total, path)
		if err != nil {
			return "", err
		}
		if did, err := only(seen, total, "502_upstream_protocol_whole"); err != nil || path == "/header" {
			return did + " (twice)", err
		}
	}
	return "", nil
}

// endless1xx gets informational responses and never a final one.
func endless1xx(ctx context.Context, s *siege) (string, error) {
	const total = 300
	seen, err := s.answers(ctx, total, "/1xx")
	if err != nil {
		return "", err
	}
	return only(seen, total, "502_upstream_protocol_whole")
}

// endlessTrailer gets a body of two bytes and trailers without end.
func endlessTrailer(ctx context.Context, s *siege) (string, error) {
	const total = 1000
	seen, err := s.answers(ctx, total, "/trailer")
	if err != nil {
		return "", err
	}
	return only(seen, total, "200_-_broken")
}
