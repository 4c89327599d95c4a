package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A siege is a serve under attack, with the connections that the attack has open.
type siege struct {
	*served
	h1Host   string // an upstream that is hostile in HTTP/1.1; with its port
	h2Host   string // an upstream that speaks HTTP/2
	bareHost string // the same, without a credential

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// dial opens a connection to the listener. It is closed, by a reset that leaves nothing behind, at
// the latest when the siege ends.
func (s *siege) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", s.proxy)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	tcp.SetLinger(0)
	tcp.SetReadBuffer(16 << 10) // who does not read makes the other side wait soon
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[net.Conn]bool{}
	}
	s.conns[conn] = true
	return conn, nil
}

func (s *siege) hangUp(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// retreat closes what the attack left open.
func (s *siege) retreat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
	clear(s.conns)
}

func connectTo(host string) string {
	return "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// tunnel opens a tunnel, up to the end of the answer to CONNECT.
func (s *siege) tunnel(ctx context.Context, host string) (net.Conn, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(connectTo(host))); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), &http.Request{Method: "CONNECT"})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &refusedConnect{resp.Status, refusalOf(resp)}
	}
	return conn, conn.SetDeadline(time.Time{})
}

// secure opens a tunnel and makes the agent's TLS connection in it.
func (s *siege) secure(ctx context.Context, host, protocol string) (*tls.Conn, error) {
	conn, err := s.tunnel(ctx, host)
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(host, ":")
	// Whom an attacker talks to is no matter here.
	c := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{protocol}})
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != protocol {
		return nil, fmt.Errorf("ALPN gave %q, want %q", got, protocol)
	}
	return c, nil
}

// A framed is an HTTP/2 connection whose frames are written by hand. It is for one goroutine, but
// for drain.
type framed struct {
	*http2.Framer
	conn  *tls.Conn
	out   *bufio.Writer
	host  string
	block bytes.Buffer
	hpack *hpack.Encoder
	next  uint32
}

func (s *siege) framed(ctx context.Context, host string, settings ...http2.Setting) (*framed, error) {
	conn, err := s.secure(ctx, host, "h2")
	if err != nil {
		return nil, err
	}
	f := &framed{conn: conn, out: bufio.NewWriterSize(conn, 32<<10), host: host, next: 1}
	f.Framer = http2.NewFramer(f.out, bufio.NewReader(conn))
	f.AllowIllegalWrites = true
	f.hpack = hpack.NewEncoder(&f.block)
	f.out.WriteString(http2.ClientPreface)
	return f, errors.Join(f.WriteSettings(settings...), f.flush())
}

// flush sends what was written. A peer that does not read makes it fail, not wait.
func (f *framed) flush() error {
	f.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return f.out.Flush()
}

// request writes the head of a request and returns its stream.
func (f *framed) request(method, path string, end bool, extra ...hpack.HeaderField) (uint32, error) {
	id := f.next
	f.next += 2
	return id, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head(method, path, extra...), EndStream: end, EndHeaders: true})
}

// head encodes the head of a request. What it returns is good until the next call.
func (f *framed) head(method, path string, extra ...hpack.HeaderField) []byte {
	f.block.Reset()
	for _, field := range append([]hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: f.host}, {Name: ":path", Value: path},
	}, extra...) {
		f.hpack.WriteField(field)
	}
	return f.block.Bytes()
}

// drain reads until the connection ends. each gets every answer's head; it may be nil.
func (f *framed) drain(each func(*http2.MetaHeadersFrame)) {
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		var stream http2.StreamError
		switch {
		case errors.As(err, &stream):
			continue
		case err != nil:
			return
		}
		if head, ok := frame.(*http2.MetaHeadersFrame); ok && each != nil {
			each(head)
		}
	}
}

// A count is kept by several goroutines, by what was counted.
type count struct {
	mu sync.Mutex
	of map[string]int
}

func (c *count) add(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[what]++
	return c.of[what]
}

func (c *count) get(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[what]
}

// String lists what was counted, sorted.
func (c *count) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(c.of), "map["), "]")
}

// waitFor returns after d, or when ctx ends.
func waitFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
