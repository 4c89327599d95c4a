package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sidekey/sidekey/audit"
)

// earlyConn sends head together with the first bytes written, and drops the answer to head.
type earlyConn struct {
	net.Conn
	head string
	br   *bufio.Reader
}

func (c *earlyConn) Write(p []byte) (int, error) {
	if c.head != "" {
		_, err := c.Conn.Write(append([]byte(c.head), p...))
		c.head = ""
		return len(p), err
	}
	return c.Conn.Write(p)
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if c.br == nil {
		c.br = bufio.NewReader(c.Conn)
		if _, err := http.ReadResponse(c.br, &http.Request{Method: http.MethodConnect}); err != nil {
			return 0, err
		}
	}
	return c.br.Read(p)
}

func handshakeAndGet(t *testing.T, r *rig, conn net.Conn) string {
	t.Helper()
	tc := tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: r.roots})
	fmt.Fprintf(tc, "GET /v1/x HTTP/1.1\r\nHost: api.test:%s\r\n\r\n", r.port)
	line, err := bufio.NewReader(tc).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// Events reach the agent one by one: the upstream sends the second only when the test has seen
// the first.
func TestServerSentEvents(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		next := make(chan struct{})
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next
			}
		})
		resp, err := r.client(h2).Get(r.at("api.test", "/v1/stream"))
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := br.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("h2=%v: event %d: %q %v", h2, i, line, err)
			}
			br.ReadString('\n')
			next <- struct{}{}
		}
		if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
			t.Errorf("h2=%v: rest %q %v", h2, rest, err)
		}
		resp.Body.Close()
	}
}

// An upload starts before it ends, and an answer may begin before the upload has ended.
func TestUploadStreams(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			br := bufio.NewReader(req.Body)
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(w, "got "+line)
				w.(http.Flusher).Flush()
			}
		})
		pr, pw := io.Pipe()
		go io.WriteString(pw, "one\n")
		req, _ := http.NewRequestWithContext(t.Context(), "PUT", r.at("api.test", "/v1/items"), pr)
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatalf("h2=%v: %v", h2, err)
		}
		br := bufio.NewReader(resp.Body)
		if line, err := br.ReadString('\n'); err != nil || line != "got one\n" {
			t.Fatalf("h2=%v: %q %v", h2, line, err)
		}
		io.WriteString(pw, "two\n")
		pw.Close()
		if rest, err := io.ReadAll(br); err != nil || string(rest) != "got two\n" {
			t.Fatalf("h2=%v: %q %v", h2, rest, err)
		}
		resp.Body.Close()
		r.stopAndWait()
		if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["bytes_in"] != 8.0 {
			t.Errorf("h2=%v: outcomes %v", h2, out)
		}
	}
}

// Trailers arrive, announced or not, and gRPC's "te: trailers" is kept.
func TestTrailers(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			w.Header().Set("Trailer", "Grpc-Status")
			w.Header().Set("Content-Type", "application/grpc")
			io.WriteString(w, "message")
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", "late")
		})
		resp, body := r.do(r.client(h2), "POST", r.at("api.test", "/pkg.Service/Call"),
			http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}, strings.NewReader("request"))
		if body != "message" || resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "late" {
			t.Errorf("h2=%v: %s %q trailer %v", h2, resp.Status, body, resp.Trailer)
		}
		if te := r.got()[0].header.Get("Te"); te != "trailers" {
			t.Errorf("h2=%v: te %q", h2, te)
		}
	}
}

// A refused gRPC call is answered in gRPC's own words.
func TestGRPCRefusal(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	resp, body := r.do(r.client(true), "POST", r.at("api.test", "/other.Service/Call"), http.Header{"Content-Type": {"application/grpc"}}, strings.NewReader("x"))
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "7" || !strings.Contains(resp.Header.Get("Grpc-Message"), "path_not_allowed") || body != "" {
		t.Errorf("got %s %v %q", resp.Status, resp.Header, body)
	}
}

// An answer that breaks off arrives broken, not short.
func TestBrokenResponse(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := r.client(h2).Get(r.at("api.test", "/v1/x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("h2=%v: a broken answer ended well", h2)
		}
		resp.Body.Close()
		r.stopAndWait()
		if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "upstream_broke_off" {
			t.Errorf("h2=%v: outcomes %v", h2, out)
		}
	}
}

// An agent that goes away ends the upstream's work, and the outcome says so.
func TestAgentGone(t *testing.T) {
	gone := make(chan struct{})
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", r.at("api.test", "/v1/x"), nil)
	resp, err := r.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	<-gone
	r.stopAndWait()
	if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "agent_gone" {
		t.Errorf("outcomes %v", out)
	}
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(req.Context())
			if err != nil {
				return
			}
			c.Write(req.Context(), kind, append([]byte("echo "), b...))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err != nil {
		t.Fatalf("%v %v", err, resp)
	}
	defer c.CloseNow()
	for _, word := range []string{"one", "two"} {
		c.Write(ctx, websocket.MessageText, []byte(word))
		if _, b, err := c.Read(ctx); err != nil || string(b) != "echo "+word {
			t.Fatalf("%q %v", b, err)
		}
	}
	if got := r.got(); got[0].header.Get("Authorization") != "Bearer "+canary || got[0].header.Get("Sec-Websocket-Extensions") != "" {
		t.Error("the handshake went up without the credential, or with extensions")
	}
	r.stopAndWait() // the drain closes it
	if _, _, err := c.Read(ctx); err == nil {
		t.Error("the WebSocket outlived the drain")
	}
	if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["status"] != 101.0 {
		t.Errorf("outcomes %v", out)
	}
}

func TestWebSocketOnlyWhereTheRouteSays(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	_, resp, err := websocket.Dial(t.Context(), strings.Replace(r.at("api.test", "/v1/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err == nil || resp.StatusCode != 403 || resp.Header.Get("Sidekey-Refusal") != "websocket_not_allowed" || len(r.got()) != 0 {
		t.Errorf("got %v %v", resp, err)
	}
}

// 101 is taken only from an upstream that proves it read the handshake.
func TestFalseUpgrade(t *testing.T) {
	for _, accept := range []string{"", "bm90IHRoZSBrZXk="} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			conn, rw, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\nraw", accept)
			rw.Flush()
		})
		_, resp, err := websocket.Dial(t.Context(), strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
		if err == nil || resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "upstream_protocol" {
			t.Errorf("accept %q: %v %v", accept, resp, err)
		}
	}
}

// On the way out, requests in flight finish, new ones are refused, and nothing is left running.
func TestDrain(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		reached, finish := make(chan struct{}), make(chan struct{})
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			io.WriteString(w, "first ")
			w.(http.Flusher).Flush()
			close(reached)
			<-finish
			io.WriteString(w, "last")
		})
		resp, err := r.client(h2).Get(r.at("api.test", "/v1/x"))
		if err != nil {
			t.Fatal(err)
		}
		<-reached
		r.stop()
		for { // the drain has begun when CONNECT is refused; before that it may cut a handshake
			if _, err := r.tunnel("api.test:"+r.port, "api.test"); err != nil && strings.Contains(err.Error(), "503") {
				break
			}
			if t.Context().Err() != nil {
				t.Fatal("no new tunnel was refused")
			}
		}
		close(finish)
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "first last" {
			t.Errorf("h2=%v: %q %v", h2, b, err)
		}
		r.stopAndWait()
	}
}
