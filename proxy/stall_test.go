package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

const (
	stall    = 300 * time.Millisecond
	patience = time.Minute // with a machine that has other things to do
)

func stallsSoon(c *proxy.Config, _ *rigOptions) { c.StallTimeout, c.MaxRequests = stall, 1 }

// zeros is an upload that would not end for a while, and ends with the test.
type zeros struct{ done <-chan struct{} }

func (z zeros) Read(p []byte) (int, error) {
	select {
	case <-z.done:
		return 0, io.EOF
	default:
		clear(p)
		return len(p), nil
	}
}

// I12: an upstream that does not read a body does not hold a request's place for ever, whether or
// not it has answered.
func TestStuckUpload(t *testing.T) {
	for _, answers := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			release := make(chan struct{})
			r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodGet {
					return
				}
				if answers {
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush()
				}
				<-release
			}, stallsSoon)
			c := r.client(h2)
			r.inTheOnlyPlace(c) // so that the upload's tunnel has left it
			req, _ := http.NewRequestWithContext(t.Context(), "POST", r.at("api.test", "/v1/items"), zeros{t.Context().Done()})
			req.ContentLength = 1 << 30
			if resp, err := c.Do(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			r.inTheOnlyPlace(r.client(h2))
			if n := len(r.trail.records(audit.RequestIntent)); n != 3 {
				t.Errorf("answers=%v h2=%v: %d requests were let in, want the upload and one before and after it", answers, h2, n)
			}
			close(release)
			r.stopAndWait()
		}
	}
}

// inTheOnlyPlace makes a short request, when the place for it is free. A tunnel that is being set up
// has one too, and gives it back a moment after its first request can come.
func (r *rig) inTheOnlyPlace(c *http.Client) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		resp, err := c.Get(r.at("api.test", "/v1/x"))
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		switch {
		case err == nil && resp.StatusCode == 200:
			return
		case err == nil && resp.Header.Get("Sidekey-Refusal") != "overloaded",
			err != nil && !strings.Contains(err.Error(), "Service Unavailable"): // what the client makes of it at CONNECT
			r.t.Fatal(resp, err)
		case time.Now().After(deadline):
			r.t.Fatal("the place was not given back")
		}
	}
}

// I12: an agent that does not read gives its place back over TCP too, which by itself keeps some
// megabytes. [TestUnreadAnswerIsBounded] holds when, in HTTP/1.1 too.
func TestAgentThatDoesNotRead(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		piece := make([]byte, 1<<20)
		for req.URL.Path == "/v1/long" {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}, stallsSoon)
	c := r.client(true)
	r.inTheOnlyPlace(c)
	resp, err := c.Get(r.at("api.test", "/v1/long"))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	r.inTheOnlyPlace(r.client(true))
	r.stopAndWait()
	errs := map[any]int{}
	for _, rec := range r.trail.records(audit.RequestOutcome) {
		errs[rec["error"]]++
	}
	if errs["agent_gone"] != 1 || errs[nil] != 2 {
		t.Errorf("outcomes by error: %v", errs)
	}
}

// A stream that is silent for longer than one write may take goes on.
func TestSilentStream(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
			for i := range 2 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-time.After(2 * stall)
			}
			io.WriteString(w, "end")
		}, func(c *proxy.Config, _ *rigOptions) { c.StallTimeout = stall })
		resp, body := r.do(r.client(h2), "GET", r.at("api.test", "/v1/x"), nil, nil)
		if resp.StatusCode != 200 || !strings.HasSuffix(body, "end") {
			t.Errorf("h2=%v: %s %q", h2, resp.Status, body)
		}
	}
}

// A handshake that was begun before the drain does not outlive it, intercepted or passed through.
func TestDrainEndsHandshakes(t *testing.T) {
	for _, text := range []string{standardPolicy, tunnelPolicy} {
		r := newRig(t, text, ok, func(c *proxy.Config, _ *rigOptions) { c.DrainGrace = time.Minute })
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "CONNECT api.test:%s HTTP/1.1\r\n\r\n", r.port)
		if _, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.stopAndWait()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the drain took %v", d)
		}
		if len(r.got()) != 0 {
			t.Error("the upstream was reached")
		}
	}
}

// A connection or a tunnel on which nothing was asked does not hold the drain up.
func TestDrainEndsUnasked(t *testing.T) {
	r := newRig(t, standardPolicy, ok, func(c *proxy.Config, _ *rigOptions) { c.DrainGrace = time.Minute })
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := r.tunnel("api.test:"+r.port, "api.test", "http/1.1"); err != nil {
		t.Fatal(err)
	}
	h2, err := r.tunnel("api.test:"+r.port, "api.test", "h2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h2.Read(make([]byte, 1)); err != nil { // the server's preface: it waits for ours
		t.Fatal(err)
	}
	began := time.Now()
	r.stopAndWait()
	if d := time.Since(began); d > 4*time.Second { // net/http gives them 5 s
		t.Errorf("the drain took %v", d)
	}
	reasons := map[any]int{}
	for _, rec := range r.trail.records(audit.ConnectionRefused) {
		reasons[rec["reason"]]++
	}
	// The agent sees the end of the handshake before the server does.
	if reasons["idle_tunnel"] < 1 || reasons["idle_tunnel"]+reasons["handshake_failed"] != 2 {
		t.Errorf("records of refused connections: %v, want both tunnels", reasons)
	}
}

// I6: request trailers go nowhere, whatever the agent calls the request.
func TestRequestTrailersAreDropped(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		fmt.Fprint(w, len(req.Trailer))
	})
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	got := exchangeRaw(t, conn, "POST /v1/items HTTP/1.1\r\nHost: api.test:"+r.port+"\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n"+
		"Trailer: Authorization, X-Http-Method-Override\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nAuthorization: Bearer agent\r\nX-Http-Method-Override: DELETE\r\n\r\n")
	if got != "200  0" {
		t.Errorf("got %q", got)
	}
}

// I3: what net/url would escape goes as it came.
func TestTargetBytesAreKept(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/v1/Users('x')", "/v1/a!", "/v1/a*b(c)", "/v1/a%20b", "/v1/~x@y:z&w=1,2+3$", "/v1/x?", "/v1/x?a=%20&b=c/d?e"} {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: api.test:%s\r\n\r\n", target, r.port)
	}
	r.stopAndWaitFor(7)
	for i, s := range r.got() {
		if want := []string{"/v1/Users('x')", "/v1/a!", "/v1/a*b(c)", "/v1/a%20b", "/v1/~x@y:z&w=1,2+3$", "/v1/x?", "/v1/x?a=%20&b=c/d?e"}[i]; s.line != "GET "+want {
			t.Errorf("the upstream got %q, want %q", s.line, want)
		}
	}
}

// stopAndWaitFor stops the proxy when it has served n requests.
func (r *rig) stopAndWaitFor(n int) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); len(r.trail.records(audit.RequestOutcome)) < n; {
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d requests were served", len(r.trail.records(audit.RequestOutcome)), n)
		}
		<-time.After(5 * time.Millisecond)
	}
	r.stopAndWait()
}

// An upstream cannot speak for Sidekey.
func TestUpstreamCannotForgeRefusal(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Sidekey-Refusal", "session_ended")
		w.Header().Set(http.TrailerPrefix+"Sidekey-Refusal", "x")
		io.WriteString(w, "x")
	})
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.Header.Get("Sidekey-Refusal") != "" || resp.Trailer.Get("Sidekey-Refusal") != "" {
		t.Errorf("got %v %v", resp.Header, resp.Trailer)
	}
}
