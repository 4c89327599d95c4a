package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A rawUpstream is a TLS server that answers each request with the same bytes, valid or not, and
// hangs up.
type rawUpstream struct {
	ln     net.Listener
	port   string
	config func(*tls.ClientHelloInfo) (*tls.Config, error)
	conns  sync.WaitGroup

	mu       sync.Mutex
	answer   string // the text of the case; once
	arrivals []arrival
}

const usualAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

func newRawUpstream(t testing.TB, count *arrivalCount, config func(*tls.ClientHelloInfo) (*tls.Config, error)) *rawUpstream {
	u := &rawUpstream{ln: countingListener{must(net.Listen("tcp", "127.0.0.1:0"))(t), count}, config: config}
	_, u.port, _ = net.SplitHostPort(u.ln.Addr().String())
	u.conns.Go(func() {
		for {
			conn, err := u.ln.Accept()
			if err != nil {
				return
			}
			u.conns.Go(func() { u.serve(conn) })
		}
	})
	t.Cleanup(func() { u.ln.Close(); u.conns.Wait() })
	return u
}

func (u *rawUpstream) serve(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(agentPatience))
	server := tls.Server(conn, &tls.Config{GetConfigForClient: u.config, MinVersion: tls.VersionTLS10})
	head := &tap{Conn: server}
	br := bufio.NewReader(head)
	req, err := http.ReadRequest(br)
	if err != nil {
		// Whatever came over a connection that is no request is looked through all the same.
		if b := head.bytes(); len(b) > 0 {
			u.note(arrival{line: "unreadable", rest: string(b), from: conn.RemoteAddr().String()})
		}
		return
	}
	body, _ := io.ReadAll(req.Body)
	host, _, _ := net.SplitHostPort(req.Host)
	u.note(arrival{
		line: req.Method + " " + req.RequestURI, host: host, secure: server.ConnectionState().ServerName == host,
		header: req.Header.Clone(), rest: fmt.Sprint(string(body), req.Trailer), from: conn.RemoteAddr().String(),
	})
	for piece := range bytes.SplitSeq(u.answerTo(req), []byte("\x00|")) {
		if _, err := server.Write(piece); err != nil {
			return
		}
	}
	server.CloseWrite()
	io.Copy(io.Discard, br) // so that the close does not cut off what is on its way
}

func (u *rawUpstream) answerTo(req *http.Request) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.answer == "" {
		return []byte(usualAnswer)
	}
	v := vars{"AUTH": req.Header.Get("Authorization"), "T": strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	v["ACCEPT"] = base64.StdEncoding.EncodeToString(sum[:])
	answer := expand(wireLines(u.answer), v)
	u.answer = ""
	return answer
}

func (u *rawUpstream) note(a arrival) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.arrivals = append(u.arrivals, a)
}

func (u *rawUpstream) take() []arrival {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := slices.Clone(u.arrivals)
	u.arrivals = nil
	return out
}

// answerNext sets what the next request is answered.
func (u *rawUpstream) answerNext(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = text
}

// An arrivalCount counts the connections that upstreams accept and have not closed.
type arrivalCount struct{ accepted, open atomic.Int64 }

type countingListener struct {
	net.Listener
	count *arrivalCount
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.count.open.Add(1)
	l.count.accepted.Add(1)
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { l.count.open.Add(-1) })}, nil
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
