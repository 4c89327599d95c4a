package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
)

const limitedPolicy = `
version: 1
role: tester
budget: {requests: 30}
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
routes:
  - {name: rate, host: api.test, methods: [GET], paths: [/rate], credential: api, limits: {rate: 2/s}}
  - {name: slow, host: api.test, methods: [GET], paths: [/slow], limits: {rate: 600/h}}
  - {name: two, host: api.test, methods: [GET], paths: [/two], limits: {concurrency: 2}}
  - {name: body, host: api.test, methods: [POST], paths: [/body], credential: api, replay: safe, limits: {body: 10B}}
  - {name: answer, host: api.test, methods: [GET, HEAD], paths: [/answer/*], credential: api, limits: {response: 10B}}
  - {name: timed, host: api.test, methods: [GET], paths: [/timed/*], limits: {timeout: 10s}}
  - {name: requests, host: api.test, methods: [GET], paths: [/requests], limits: {budget: {requests: 2}}}
  - {name: bytes, host: api.test, methods: [POST], paths: [/bytes], limits: {budget: {bytes: 100B}}}
  - {name: tried, host: api.test, methods: [GET, POST], paths: [/tried/*], mode: report, credential: api, limits: {rate: 1/h, body: 1B, response: 1B, timeout: 1s, concurrency: 1, budget: {bytes: 1B}}}
  - {name: tried-body, host: api.test, methods: [POST], paths: [/tried-body], mode: report, limits: {body: 10B}}
  - {name: tried-answer, host: api.test, methods: [GET, HEAD], paths: [/tried-answer/*], mode: report, limits: {response: 10B}}
  - {name: tried-time, host: api.test, methods: [GET], paths: [/tried-time/*], mode: report, limits: {timeout: 10s}}
  - {name: tried-bytes, host: api.test, methods: [POST], paths: [/tried-bytes], mode: report, limits: {budget: {bytes: 100B}}}
  - {name: tried-ws, host: api.test, methods: [GET], paths: [/tried-ws], mode: report, websocket: true, limits: {timeout: 10s, response: 1B, budget: {bytes: 100B}}}
  - {name: ws, host: api.test, methods: [GET], paths: [/ws], websocket: true, limits: {timeout: 10s, response: 1B, concurrency: 1, budget: {bytes: 100B}}}
  - {name: free, host: api.test, methods: [GET], paths: [/free]}
`

// sized answers with n bytes, and says so or not.
func sized(req *http.Request, n int, said bool) *http.Response {
	resp := answering(req, strings.NewReader(strings.Repeat("x", n)))
	if req.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	if said {
		resp.ContentLength = int64(n)
		resp.Header.Set("Content-Length", fmt.Sprint(n))
	}
	return resp
}

// limitedUpstream answers each path of limitedPolicy in a way that meets its limit.
func limitedUpstream(req *http.Request) (*http.Response, error) {
	n, said := 0, false
	switch path := req.URL.Path; {
	case path == "/two":
		time.Sleep(time.Second)
	case path == "/timed/late":
		select {
		case <-time.After(time.Hour):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	case path == "/timed/long", path == "/tried/long", path == "/tried-time/long":
		r, w := io.Pipe()
		context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) }) // while one is written
		go func() {
			defer w.Close()
			for range 30 {
				if _, err := w.Write([]byte("xxxxxxxxxx")); err != nil {
					return
				}
				select {
				case <-time.After(time.Second):
				case <-req.Context().Done():
					w.CloseWithError(req.Context().Err()) // as a transport ends a body
				}
			}
		}()
		return answering(req, r), nil
	case strings.HasPrefix(path, "/answer/"):
		fmt.Sscanf(path, "/answer/%d%t", &n, &said)
	case strings.HasPrefix(path, "/tried-answer/"):
		fmt.Sscanf(path, "/tried-answer/%d%t", &n, &said)
	case path == "/tried-time/late":
		time.Sleep(time.Minute)
	}
	if req.Body != nil {
		got, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			return nil, err
		}
		n = int(got)
	}
	return sized(req, n, said), nil
}

// limited is an agent behind limitedPolicy.
func limited(t *testing.T, text string) (*piped, func(method, path, body string) string) {
	p := newPiped(t, roundTrip(limitedUpstream), deciding(t, text))
	c := clientOf(p)
	return p, func(method, path, body string) string {
		t.Helper()
		var r io.Reader
		if body != "" {
			r = strings.NewReader(body)
			if strings.HasPrefix(body, "?") { // of no known length
				r = unsized{r}
			}
		}
		req, err := http.NewRequest(method, "https://api.test"+path, r)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return "broken"
		}
		return strings.Join(strings.Fields(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Sidekey-Refusal"), " ", resp.Header.Get("Retry-After"))), " ")
	}
}

func TestLimits(t *testing.T) {
	const body = "a body of more than ten bytes"
	for _, tt := range []struct{ name, method, path, body, want string }{
		{"a body that fits", "POST", "/body", "ten bytes.", "200"},
		{"a body that fits, of no known length", "POST", "/body", "?en bytes.", "200"},
		{"a body", "POST", "/body", body, "413 body_too_large"},
		{"a body of no known length", "POST", "/body", "?" + body, "413 body_too_large"},
		{"an answer that fits", "GET", "/answer/10true", "", "200"},
		{"an answer that fits, of no known length", "GET", "/answer/10false", "", "200"},
		{"an answer", "GET", "/answer/11true", "", "502 response_too_large"},
		{"an answer of no known length", "GET", "/answer/11false", "", "broken"},
		{"the head of an answer", "HEAD", "/answer/11true", "", "200"},
		{"a late head", "GET", "/timed/late", "", "504 route_timeout"},
		{"a long answer", "GET", "/timed/long", "", "broken"},
		{"an answer in time", "GET", "/timed/now", "", "200"},
		{"a budget of bytes", "POST", "/bytes", strings.Repeat("x", 50), "200"}, // sent and echoed
		{"a budget of bytes, by the body", "POST", "/bytes", strings.Repeat("x", 101), "429 budget_exhausted"},
		{"a budget of bytes, by the answer", "POST", "/bytes", strings.Repeat("x", 51), "broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, send := limited(t, limitedPolicy)
				if got := send(tt.method, tt.path, tt.body); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
				synctest.Wait()
				out := append(p.trail.records(audit.RequestOutcome), p.trail.records(audit.RequestDenied)...)
				if len(out) != 1 {
					t.Fatalf("records: %v", out)
				}
				if code, _ := out[0]["error"].(string); tt.want == "broken" && !strings.Contains("response_too_large route_timeout budget_exhausted", code) || tt.want == "200" && code != "" {
					t.Errorf("the outcome has error %q", code)
				}
			})
		})
	}
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unbudgeted := strings.Replace(limitedPolicy, "requests: 30", "requests: 1000000", 1)
		p, send := limited(t, unbudgeted)
		want := func(path, want string) {
			t.Helper()
			if got := send("GET", path, ""); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		want("/rate", "200")
		want("/rate", "200")
		want("/rate", "429 rate_exceeded 1")
		time.Sleep(500*time.Millisecond - 1)
		want("/rate", "429 rate_exceeded 1")
		time.Sleep(1 * time.Nanosecond)
		want("/rate", "200")
		want("/rate", "429 rate_exceeded 1")
		time.Sleep(time.Hour) // two come back, not more
		want("/rate", "200")
		want("/rate", "200")
		want("/rate", "429 rate_exceeded 1")
		for range 100 {
			want("/slow", "200")
		}
		want("/slow", "429 rate_exceeded 6")
		must(p.srv.SetGeneration(p.generation(strings.Replace(unbudgeted, "600/h", "100/s", 1), canary)))(t)
		want("/slow", "429 rate_exceeded 1")
		time.Sleep(10 * time.Millisecond) // what was spent at the old rate is not owed at the new one
		want("/slow", "200")
	})
}

// What is refused is not counted; places come back when answers end.
func TestConcurrencyAndBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, send := limited(t, limitedPolicy)
		got := make(chan string, 3)
		for range 3 {
			go func() { got <- send("GET", "/two", "") }()
			synctest.Wait()
		}
		if a, b, c := <-got, <-got, <-got; a != "429 concurrency_exceeded 1" || b != "200" || c != "200" {
			t.Errorf("%s, %s, %s", a, b, c)
		}
		for _, want := range []string{"200", "200", "429 budget_exhausted", "429 budget_exhausted"} {
			if got := send("GET", "/requests", ""); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		// A generation with the same route goes on counting.
		must(p.srv.SetGeneration(p.generation(limitedPolicy, canary)))(t)
		if got := send("GET", "/requests", ""); got != "429 budget_exhausted" {
			t.Errorf("after a reload: %s", got)
		}
		for i := range 27 { // 4 were sent before
			if got, want := send("GET", "/free", ""), map[bool]string{true: "200", false: "429 budget_exhausted"}[i < 26]; got != want {
				t.Errorf("%d: %s, want %s", i, got, want)
			}
		}
	})
}

// A route on trial lets through what its limits would refuse, and says so.
func TestReportedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, send := limited(t, limitedPolicy)
		for _, r := range []struct{ method, path, body, want string }{
			{"POST", "/tried/a", "more", "body_too_large"},
			{"GET", "/tried/b", "", "budget_exhausted"},
			{"GET", "/tried/long", "", "budget_exhausted"},
		} {
			if got := send(r.method, r.path, r.body); got != "200" {
				t.Errorf("%s: %s", r.path, got)
			}
			out := p.trail.records(audit.RequestOutcome)
			if rec := out[len(out)-1]; rec["would_deny"] != r.want {
				t.Errorf("%s: %v, want %s", r.path, rec["would_deny"], r.want)
			}
		}
	})
}

// What only shows while bytes flow is let through like the rest, and stands in the outcome.
func TestReportedLimitsUnderWay(t *testing.T) {
	const body = "a body of more than ten bytes"
	for _, tt := range []struct{ name, method, path, body, want string }{
		{"a body that fits, of no known length", "POST", "/tried-body", "?en bytes.", ""},
		{"a body of no known length", "POST", "/tried-body", "?" + body, "body_too_large"},
		{"an answer that fits", "GET", "/tried-answer/10true", "", ""},
		{"an answer that fits, of no known length", "GET", "/tried-answer/10false", "", ""},
		{"an answer", "GET", "/tried-answer/11true", "", "response_too_large"},
		{"an answer of no known length", "GET", "/tried-answer/11false", "", "response_too_large"},
		{"the head of an answer", "HEAD", "/tried-answer/11true", "", ""},
		{"an answer in time", "GET", "/tried-time/now", "", ""},
		{"a late head", "GET", "/tried-time/late", "", "route_timeout"},
		{"a long answer", "GET", "/tried-time/long", "", "route_timeout"},
		{"a budget that is kept", "POST", "/tried-bytes", strings.Repeat("x", 50), ""},
		{"a budget, by the body", "POST", "/tried-bytes", strings.Repeat("x", 101), "budget_exhausted"},
		{"a budget, by the answer", "POST", "/tried-bytes", strings.Repeat("x", 51), "budget_exhausted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, send := limited(t, limitedPolicy)
				if got := send(tt.method, tt.path, tt.body); got != "200" {
					t.Errorf("%s, want 200", got)
				}
				synctest.Wait()
				intents, outcomes := p.trail.records(audit.RequestIntent), p.trail.records(audit.RequestOutcome)
				if len(intents) != 1 || len(outcomes) != 1 {
					t.Fatalf("intents %v, outcomes %v", intents, outcomes)
				}
				if got, _ := outcomes[0]["would_deny"].(string); got != tt.want || outcomes[0]["error"] != nil {
					t.Errorf("the outcome has would_deny %q and error %v, want %q and none", got, outcomes[0]["error"], tt.want)
				}
				if got := intents[0]["would_deny"]; got != nil {
					t.Errorf("the intent has would_deny %v before anything was exceeded", got)
				}
			})
		})
	}
}

// A WebSocket on trial goes on beyond its budget; of time and answers it has none.
func TestReportedLimitsOfWebSocket(t *testing.T) {
	for bytes, want := range map[int]any{40: nil, 120: "budget_exhausted"} {
		synctest.Test(t, func(t *testing.T) {
			ends := make(chan net.Conn, 1)
			p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) { return upgraded(ends)(req) }), deciding(t, limitedPolicy))
			s := openSocket(t, p, ends, "api.test", "/tried-ws")
			time.Sleep(time.Hour)
			go s.agent.Write(make([]byte, bytes))
			if _, err := io.ReadFull(s.upstream, make([]byte, bytes)); err != nil {
				t.Error(err)
			}
			s.agent.Close()
			<-s.ended
			synctest.Wait()
			out := p.trail.records(audit.RequestOutcome)
			if len(out) != 1 || out[0]["would_deny"] != want || out[0]["error"] != nil {
				t.Errorf("%d bytes: outcomes %v, want would_deny %v", bytes, out, want)
			}
		})
	}
}

// A WebSocket counts while it is open, has all the time in the world, and ends with its budget.
func TestLimitedWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan net.Conn, 1)
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) { return upgraded(ends)(req) }), deciding(t, limitedPolicy))
		s := openSocket(t, p, ends, "api.test", "/ws")
		time.Sleep(time.Hour)
		agent := p.tunnel("api.test", "http/1.1")
		go fmt.Fprintf(agent, "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5a2V5a2V5a2V5a2V5aw==\r\nSec-WebSocket-Version: 13\r\n\r\n")
		line := make([]byte, len("HTTP/1.1 429"))
		if _, err := io.ReadFull(agent, line); err != nil || string(line) != "HTTP/1.1 429" {
			t.Errorf("a second one: %q %v", line, err)
		}
		got := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, s.upstream); got <- err }()
		for range 3 { // the third is more than there is left
			if _, err := io.WriteString(s.agent, strings.Repeat("x", 40)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		}
		<-s.ended
		<-got
		synctest.Wait()
		out := p.trail.records(audit.RequestOutcome)
		if len(out) != 1 || out[0]["error"] != "budget_exhausted" {
			t.Errorf("outcomes: %v", out)
		}
	})
}
