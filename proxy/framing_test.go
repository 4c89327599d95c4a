package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/proxy"
)

// A wire is an upstream that speaks HTTP/1.1 over TLS and keeps the bytes that reach it.
type wire struct {
	*http.Transport
	answer string

	mu    sync.Mutex
	conns []*tap
}

func newWire(t *testing.T, answer string) *wire {
	ca := must(mitmca.New(mitmca.Config{}))(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertificatePEM())
	w := &wire{answer: answer, Transport: proxy.NewTransport(proxy.UpstreamConfig{Roots: roots})}
	var serving sync.WaitGroup
	w.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		inside := &tap{Conn: tls.Server(far, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return ca.Leaf(h.ServerName)
		}})}
		w.mu.Lock()
		w.conns = append(w.conns, inside)
		w.mu.Unlock()
		serving.Go(func() { w.serve(inside) })
		return near, nil
	}
	t.Cleanup(func() { w.CloseIdleConnections(); serving.Wait() })
	return w
}

func (w *wire) serve(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(conn, w.answer)
	}
}

// got returns all bytes that have come.
func (w *wire) got() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, c := range w.conns {
		b.Write(c.bytes())
	}
	return b.String()
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// I5: how a request is framed upstream is what we make of it, byte for byte: its lengths, chunks and
// connection options are not the agent's.
func TestFramingIsRecomputed(t *testing.T) {
	const (
		head = "Host: api.test\r\n"
		tail = "Accept-Encoding: identity\r\nAuthorization: Bearer " + canary + "\r\n\r\n"
		post = "POST /v1/items HTTP/1.1\r\n"
		get  = "GET /v1/x HTTP/1.1\r\n"
		sent = post + head + "Transfer-Encoding: chunked\r\n" + tail
	)
	for _, tt := range []struct{ name, agent, want string }{
		{"no body", get + head + "\r\n", get + head + tail},
		{"no body, of length 0", get + head + "Content-Length: 0\r\n\r\n", get + head + tail},
		{"no body where one is usual", post + head + "\r\n", post + head + "Content-Length: 0\r\n" + tail},
		{"length", post + head + "Content-Length: 5\r\n\r\nhello", post + head + "Content-Length: 5\r\n" + tail + "hello"},
		{"length with zeros", post + head + "Content-Length: 0005\r\n\r\nhello", post + head + "Content-Length: 5\r\n" + tail + "hello"},
		{"length twice", post + head + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", post + head + "Content-Length: 5\r\n" + tail + "hello"},
		{"length that is an option of the connection", post + head + "Connection: content-length\r\nContent-Length: 5\r\n\r\nhello", post + head + "Content-Length: 5\r\n" + tail + "hello"},
		{"chunked", post + head + "transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", sent + "5\r\nhello\r\n0\r\n\r\n"},
		{"chunk with zeros", post + head + "Transfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n", sent + "5\r\nhello\r\n0\r\n\r\n"},
		{"chunk extension", post + head + "Transfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", sent + "5\r\nhello\r\n0\r\n\r\n"},
		{"trailer", post + head + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", sent + "5\r\nhello\r\n0\r\n\r\n"},
		{"chunks before a length", post + head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", sent + "5\r\nhello\r\n0\r\n\r\n"},
		{"options of the connection", get + head + "Connection: close, x-gone\r\nX-Gone: 1\r\nKeep-Alive: 1\r\nTE: trailers\r\nProxy-Connection: x\r\n\r\n", get + head + tail},
		{"HTTP/1.0", "GET /v1/x HTTP/1.0\r\n" + head + "Connection: keep-alive\r\n\r\n", get + head + tail},
		{"100-continue", post + head + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", post + head + "Content-Length: 5\r\n" + tail + "hello"},
		{"CONNECT", "CONNECT api.test:443 HTTP/1.1\r\n" + head + "\r\n", ""},
		{"PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		{"TRACE", "TRACE /v1/x HTTP/1.1\r\n" + head + "\r\n", ""},
		{"h2c", get + head + "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", ""},
		{"unequal lengths", post + head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ""},
		{"length with a sign", post + head + "Content-Length: +5\r\n\r\nhello", ""},
		{"list of lengths", post + head + "Content-Length: 5, 5\r\n\r\nhello", ""},
		{"unknown encoding", post + head + "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ""},
		{"chunked twice", post + head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
	} {
		w := newWire(t, plainAnswer)
		p := newPiped(t, w)
		conn := p.tunnel("api.test", "http/1.1")
		conn.SetDeadline(time.Now().Add(patience))
		go io.WriteString(conn, tt.agent)
		status := answerH1(bufio.NewReader(conn), "GET")
		if allowed := status == "200"; allowed != (tt.want != "") {
			t.Errorf("%s: got %s", tt.name, status)
		}
		below(conn).Close()
		if got := w.got(); got != tt.want {
			t.Errorf("%s: the upstream got\n%q, want\n%q", tt.name, redacted(got), redacted(tt.want))
		}
	}
}

// redacted keeps the credential out of a failing test's output.
func redacted(s string) string { return strings.ReplaceAll(s, canary, "CREDENTIAL") }

// I5: the same for HTTP/2, whose frames say how long a body is.
func TestFramingFromHTTP2IsRecomputed(t *testing.T) {
	const head = "POST /v1/items HTTP/1.1\r\nHost: api.test\r\n"
	const tail = "Accept-Encoding: identity\r\nAuthorization: Bearer " + canary + "\r\n\r\n"
	for _, tt := range []struct{ name, length, body, want string }{
		{"no length", "", "hello", head + "Transfer-Encoding: chunked\r\n" + tail + "5\r\nhello\r\n0\r\n\r\n"},
		{"length", "5", "hello", head + "Content-Length: 5\r\n" + tail + "hello"},
		{"no body", "", "", head + "Content-Length: 0\r\n" + tail},
		{"a request in the body", "", "0\r\n\r\nGET /admin", head + "Transfer-Encoding: chunked\r\n" + tail + "f\r\n0\r\n\r\nGET /admin\r\n0\r\n\r\n"},
	} {
		w := newWire(t, plainAnswer)
		a := newPiped(t, w).h2("api.test")
		a.conn.SetDeadline(time.Now().Add(patience))
		var block strings.Builder
		enc := hpack.NewEncoder(&block)
		for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "api.test"}, {":path", "/v1/items"}, {"content-length", tt.length}} {
			if f[1] != "" {
				enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
		}
		go func() {
			a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: tt.body == "", EndHeaders: true})
			if tt.body != "" {
				a.WriteData(1, true, []byte(tt.body))
			}
		}()
		if got := a.status(1); got != "200" {
			t.Errorf("%s: got %s", tt.name, got)
		}
		below(a.conn).Close()
		if got := w.got(); got != tt.want {
			t.Errorf("%s: the upstream got\n%q, want\n%q", tt.name, redacted(got), redacted(tt.want))
		}
	}
}

// I5: nor is the framing of an answer the upstream's.
func TestFramingOfAnswersIsRecomputed(t *testing.T) {
	for _, tt := range []struct{ name, upstream, want string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 005\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n05;x=y\r\nhello\r\n00\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"options of the connection", "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
		{"1xx before it", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + plainAnswer, plainAnswer},
	} {
		p := newPiped(t, newWire(t, tt.upstream))
		conn := p.tunnel("api.test", "http/1.1")
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, "GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n")
		got := make([]byte, len(tt.want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != tt.want {
			t.Errorf("%s: the agent got\n%q %v, want\n%q", tt.name, got, err, tt.want)
		}
		below(conn).Close()
	}
}
