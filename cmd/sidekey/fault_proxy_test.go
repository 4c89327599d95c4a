package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A faultProxy stands between one sidecar and Vault. It reads each request, one a connection, so
// that it knows what was asked when, and passes it on or fails as it is told.
type faultProxy struct {
	addr string // host:port
	to   string // the same of Vault

	// The test's goroutine alone uses these.
	ln        *net.TCPListener
	accepting chan struct{} // closed when nobody accepts from ln any more
	filler    net.Conn      // fills the queue of ln while it is unplugged

	all sync.WaitGroup // connections

	mu     sync.Mutex
	reply  faultReply // what becomes of a request; nil: it is passed on
	seen   []vaultAsked
	conns  map[net.Conn]struct{}
	closed bool
}

// A vaultAsked is one request that came.
type vaultAsked struct {
	at   time.Time
	path string
}

// A faultReply deals with one request. ctx ends when the sidecar has gone away.
type faultReply func(ctx context.Context, p *faultProxy, conn net.Conn, req *http.Request)

// newFaultProxy starts a proxy before the Vault at url that ends with the test.
func newFaultProxy(t *testing.T, url string) *faultProxy {
	t.Helper()
	port, err := freePort() // not one of the kernel's: while it is not listened on, nobody takes it
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{addr: "127.0.0.1:" + port, to: strings.TrimPrefix(url, "http://"), conns: map[net.Conn]struct{}{}}
	p.listen(t)
	t.Cleanup(func() {
		p.refuse(t)
		p.mu.Lock()
		p.closed = true
		for conn := range p.conns {
			conn.Close()
		}
		p.mu.Unlock()
		p.all.Wait()
	})
	return p
}

// listen undoes refuse.
func (p *faultProxy) listen(t *testing.T) {
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.ln = ln.(*net.TCPListener)
	p.accept()
}

// refuse has the kernel refuse connections.
func (p *faultProxy) refuse(t *testing.T) {
	p.ln.Close()
	<-p.accepting
}

// unplug has the kernel answer nothing to who wants to connect, as if the cable were out: the
// queue of the listener is full, and SYNs are dropped.
func (p *faultProxy) unplug(t *testing.T) {
	p.ln.SetDeadline(time.Now())
	<-p.accepting
	p.backlog(t, 0)
	var err error
	if p.filler, err = net.Dial("tcp", p.addr); err != nil {
		t.Fatal(err)
	}
}

// plug undoes unplug.
func (p *faultProxy) plug(t *testing.T) {
	p.filler.Close()
	p.ln.SetDeadline(time.Time{})
	p.backlog(t, 128)
	p.accept()
}

// backlog sets how many connections wait to be accepted at most, but for one.
func (p *faultProxy) backlog(t *testing.T, n int) {
	raw, err := p.ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), n) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// accept serves the listener until it is closed or past its deadline.
func (p *faultProxy) accept() {
	done := make(chan struct{})
	p.accepting = done
	ln := p.ln
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if p.keep(conn) {
				go p.serve(conn)
			}
		}
	}()
}

func (p *faultProxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return false
	}
	p.all.Add(1)
	p.conns[conn] = struct{}{}
	return true
}

func (p *faultProxy) serve(conn net.Conn) {
	defer p.all.Done()
	defer func() {
		conn.Close()
		p.mu.Lock()
		delete(p.conns, conn)
		p.mu.Unlock()
	}()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	p.mu.Lock()
	p.seen = append(p.seen, vaultAsked{time.Now(), req.URL.Path})
	do := p.reply
	p.mu.Unlock()
	if do == nil {
		do = faultNone
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { io.Copy(io.Discard, conn); cancel() }()
	do(ctx, p, conn, req)
}

// set makes r what becomes of requests that come from now on; nil ends that.
func (p *faultProxy) set(r faultReply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reply = r
}

func (p *faultProxy) failing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reply != nil
}

// during returns the requests of the time between two moments.
func (p *faultProxy) during(from, to time.Time) (all []vaultAsked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.seen {
		if a.at.After(from) && a.at.Before(to) {
			all = append(all, a)
		}
	}
	return all
}

// forward makes the request and returns the connection on which Vault answers.
func (p *faultProxy) forward(ctx context.Context, req *http.Request) (up net.Conn, done func(), err error) {
	var d net.Dialer
	if up, err = d.DialContext(ctx, "tcp", p.to); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { up.Close() })
	return up, func() { stop(); up.Close() }, req.Write(up)
}

// answer returns all that Vault answers; nil if that is nothing.
func (p *faultProxy) answer(ctx context.Context, req *http.Request) []byte {
	up, done, err := p.forward(ctx, req)
	if err != nil {
		return nil
	}
	defer done()
	b, _ := io.ReadAll(up) // what there is
	return b
}

// resetConn ends a connection by RST.
func resetConn(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// faultWait waits for d, and reports false if ctx ends before.
func faultWait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// faultNone does nothing to a request. If there is no Vault it resets the connection.
func faultNone(ctx context.Context, p *faultProxy, conn net.Conn, req *http.Request) {
	up, done, err := p.forward(ctx, req)
	if err != nil {
		resetConn(conn)
		return
	}
	defer done()
	io.Copy(conn, up)
}

// faultHalfOpen never answers, not even when the fault is over.
func faultHalfOpen(ctx context.Context, _ *faultProxy, _ net.Conn, _ *http.Request) { <-ctx.Done() }

// faultCutOff sends half of what Vault answers, and resets the connection.
func faultCutOff(ctx context.Context, p *faultProxy, conn net.Conn, req *http.Request) {
	b := p.answer(ctx, req)
	conn.Write(b[:len(b)/2])
	faultWait(ctx, 20*time.Millisecond) // the reset would overtake it
	resetConn(conn)
}

// faultLate answers half a second late.
func faultLate(ctx context.Context, p *faultProxy, conn net.Conn, req *http.Request) {
	if faultWait(ctx, 500*time.Millisecond) {
		faultNone(ctx, p, conn, req)
	}
}

// faultDribble sends 40 bytes a second of what Vault answers, and the rest at once when the fault is over.
func faultDribble(ctx context.Context, p *faultProxy, conn net.Conn, req *http.Request) {
	b := p.answer(ctx, req)
	for len(b) > 0 && p.failing() && faultWait(ctx, 25*time.Millisecond) {
		conn.Write(b[:1])
		b = b[1:]
	}
	conn.Write(b)
}

// faultCanned answers by itself, with each of the bodies in turn. header is further lines, each with its
// end.
func faultCanned(status, header string, bodies ...string) faultReply {
	return func(_ context.Context, p *faultProxy, conn net.Conn, _ *http.Request) {
		p.mu.Lock()
		body := bodies[len(p.seen)%len(bodies)]
		p.mu.Unlock()
		fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			status, header, len(body), body)
	}
}
