package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

// goodbye is how long crypto/tls tries to send its last alert to a peer that does not read. net/http
// lets it before it says that a write has failed.
const goodbye = 5 * time.Second

// endless is an upstream that answers /v1/long without end, /v1/sized in a few bytes that it counts,
// and everything else in a few bytes.
func endless(req *http.Request) (*http.Response, error) {
	resp := answering(req, strings.NewReader("short"))
	switch req.URL.Path {
	case "/v1/long":
		resp.Body = io.NopCloser(zeros{req.Context().Done()})
	case "/v1/sized":
		resp.ContentLength = int64(len("short"))
		resp.Header.Set("Content-Length", "5")
	}
	return resp, nil
}

// I12: an agent that does not read its answer is given up when StallTimeout is over, and no sooner,
// however it goes about not reading. Its place is free again.
func TestUnreadAnswerIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ask   func(p *piped) // asks for /v1/long and leaves the answer unread
		bound time.Duration
	}{
		{"listener", func(p *piped) { askH1(p.listener(), "http://plain.test/v1/long") }, stall},
		{"listener, in drips", func(p *piped) { p.drip(askH1(p.listener(), "http://plain.test/v1/long")) }, stall},
		{"h1", func(p *piped) { askH1(p.tunnel("api.test", "http/1.1"), "/v1/long") }, stall + goodbye},
		{"h1, in drips", func(p *piped) { p.drip(askH1(p.tunnel("api.test", "http/1.1"), "/v1/long")) }, stall + goodbye},
		{"h2", func(p *piped) { askH2(p.h2("api.test")) }, stall + goodbye},
		{"h2, in drips", func(p *piped) { p.drip(askH2(p.h2("api.test"))) }, stall + goodbye},
		{"h2, no window at all", func(p *piped) { readOn(askH2(p.h2("api.test", window(0)))) }, stall},
		{"h2, the stream's window stays shut", func(p *piped) { readOn(askH2(p.h2("api.test", window(1000)))) }, stall},
		{"h2, the connection's window stays shut", func(p *piped) { readOn(askH2(p.h2("api.test", window(1<<20)))) }, stall},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkUnread(t, tt.ask, tt.bound) })
		})
	}
}

func checkUnread(t *testing.T, ask func(*piped), bound time.Duration) {
	p := newPiped(t, roundTrip(endless), func(c *proxy.Config) { c.StallTimeout, c.MaxRequests = stall, 1 })
	begin := time.Now()
	ask(p)
	time.Sleep(stall - 1 - time.Since(begin))
	synctest.Wait()
	if out := p.trail.records(audit.RequestOutcome); len(out) != 0 || len(p.trail.records(audit.RequestIntent)) != 1 {
		t.Fatalf("before the bound: the request is not in flight: %s", p.trail.text())
	}
	time.Sleep(bound - time.Since(begin))
	synctest.Wait()
	if out := p.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "agent_gone" {
		t.Errorf("after %v: outcomes %v", bound, out)
	}
	if got := p.next(); got != 200 {
		t.Errorf("the next request, in the only place: got %d", got)
	}
}

// next makes a short request that needs a place, and returns the status of its answer.
func (p *piped) next() int {
	p.t.Helper()
	conn := askH1(p.listener(), "http://plain.test/v1/short")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	conn.Close()
	return resp.StatusCode
}

// The same for what is left to say when a request is over and recorded: an agent that does not read
// that keeps its place meanwhile, so that it cannot have any number of them.
func TestUnreadTailIsBounded(t *testing.T) {
	for _, path := range []string{"/v1/sized", "/denied"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPiped(t, roundTrip(endless), func(c *proxy.Config) { c.StallTimeout, c.MaxRequests = stall, 1 })
			a := p.h2("api.test", window(0))
			synctest.Wait()
			a.send("GET", path)
			readOn(a.conn)
			synctest.Wait()
			if n := len(p.trail.records(audit.RequestOutcome)) + len(p.trail.records(audit.RequestDenied)); n != 1 {
				t.Fatalf("%s is not over: %s", path, p.trail.text())
			}
			time.Sleep(stall - 1)
			if got := p.next(); got != 503 {
				t.Errorf("%s: the place was given away: got %d", path, got)
			}
			time.Sleep(1 * time.Nanosecond)
			if got := p.next(); got != 200 {
				t.Errorf("%s: the place is not free: got %d", path, got)
			}
		})
	}
}

// A stream that is not read ends alone: the others of its connection go on.
func TestUnreadStreamEndsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, roundTrip(endless), func(c *proxy.Config) { c.StallTimeout = stall })
		a := p.h2("api.test", window(1000))
		long := a.send("GET", "/v1/long")
		if got := a.status(long); got != "200" {
			t.Fatalf("the head of the long answer: %s", got)
		}
		for i := range 5 {
			short := a.send("GET", fmt.Sprint("/v1/short/", i))
			if got := a.status(short); got != "200" {
				t.Fatalf("request %d beside it: %s", i, got)
			}
			time.Sleep(stall / 2)
		}
		synctest.Wait()
		out := p.trail.records(audit.RequestOutcome)
		if len(out) != 6 {
			t.Fatalf("%d outcomes, want 6", len(out))
		}
		for _, rec := range out {
			if gone := rec["error"] == "agent_gone"; gone == (rec["bytes_out"] == float64(len("short"))) {
				t.Errorf("outcome %v", rec)
			}
		}
	})
}

// askH1 sends a request on conn. Nothing else is at work then, so that a tunnel has left its place.
func askH1(conn net.Conn, target string) net.Conn {
	synctest.Wait()
	host := "api.test"
	if strings.HasPrefix(target, "http:") {
		host = "plain.test"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, host)
	return conn
}

// askH2 does the same on a.
func askH2(a *pipedH2) net.Conn {
	synctest.Wait()
	a.send("GET", "/v1/long")
	return a.conn
}

func window(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }

// readOn reads all that comes, and opens no window.
func readOn(conn net.Conn) { go io.Copy(io.Discard, conn) }

// drip reads one byte of what is on the wire at a time, sooner than would be too late for one write.
func (p *piped) drip(conn net.Conn) {
	conn = below(conn)
	go func() {
		for tick := time.Tick(stall * 9 / 10); ; {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				return
			}
			select {
			case <-tick:
			case <-p.t.Context().Done():
				return
			}
		}
	}()
}
