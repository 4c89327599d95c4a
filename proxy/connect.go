package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/elazarl/goproxy"
)

// newFront returns the forward-proxy front: a handler of CONNECT requests that hands each
// connection, stripped of HTTP, to tunnel. This is goproxy's whole part: it neither intercepts,
// nor dials, nor sees what travels inside (docs/design.md section 2 says why).
func newFront(tunnel func(r *http.Request, client net.Conn)) http.Handler {
	gp := goproxy.NewProxyHttpServer()
	gp.Logger = log.New(io.Discard, "", 0)
	// Nothing below is ever called; were it called, it must not dial.
	gp.ConnectDial = func(string, string) (net.Conn, error) { return nil, errors.New("goproxy does not dial") }
	gp.Tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return gp.ConnectDial("", "") }}
	hijack := &goproxy.ConnectAction{
		Action: goproxy.ConnectHijack,
		Hijack: func(r *http.Request, client net.Conn, _ *goproxy.ProxyCtx) { tunnel(r, client) },
	}
	gp.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return hijack, host
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gp.ServeHTTP(keepEarlyBytes{w}, r)
	})
}

// keepEarlyBytes is a ResponseWriter whose hijacked connection still yields the bytes that
// arrived together with the CONNECT. goproxy drops the buffered reader that holds them, and a
// client that sends its ClientHello without waiting for the 200 would hang.
type keepEarlyBytes struct{ http.ResponseWriter }

func (k keepEarlyBytes) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(k.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("hijack: %v", err)
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("read early bytes: %v", err)
	}
	if len(early) > 0 {
		conn = &prefixedConn{Conn: conn, prefix: bytes.NewReader(bytes.Clone(early))}
	}
	return conn, rw, nil
}

// A prefixedConn yields prefix before what the connection yields.
type prefixedConn struct {
	net.Conn
	prefix *bytes.Reader
}

func (c *prefixedConn) Read(p []byte) (int, error) {
	if c.prefix.Len() > 0 {
		return c.prefix.Read(p)
	}
	return c.Conn.Read(p)
}
