package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

const conditionedPolicy = `
version: 1
role: tester
credentials:
  api: {from: {env: {name: X}}, inject: {bearer: {}}}
routes:
  - {name: short, host: "api.test:PORT", methods: [POST], paths: [/json], credential: api, replay: safe, when: size(request.json.text) < 10}
  - {name: header, host: "api.test:PORT", methods: [GET], paths: [/header], credential: api, headers: {X-Env: prod}}
  - {name: absent, host: "api.test:PORT", methods: [GET], paths: [/absent], credential: api, when: '!("x-env" in request.headers)'}
  - {name: query, host: "api.test:PORT", methods: [GET], paths: [/query], credential: api, query: {state: [open, closed]}}
  - {name: who, host: "api.test:PORT", methods: [GET], paths: [/who], when: 'session.id == "run-7" && session.role == "tester" && session.requested_by == "ann"'}
  - {name: now, host: "api.test:PORT", methods: [GET], paths: [/now], when: 'now > timestamp("2026-01-01T00:00:00Z")'}
  - {name: fallback, host: "api.test:PORT", methods: [GET], paths: [/who/**, /open]}
`

// echoBody answers with what it got, and in which framing.
func echoBody(w http.ResponseWriter, req *http.Request) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Length", fmt.Sprint(req.ContentLength))
	w.Write(b)
}

func asAnn(c *proxy.Config, _ *rigOptions) {
	c.Session = policy.Session{ID: "run-7", Role: "tester", RequestedBy: "ann"}
}

func TestConditions(t *testing.T) {
	r := newRig(t, conditionedPolicy, echoBody, asAnn)
	env := func(values ...string) http.Header { return http.Header{"X-Env": values} }
	for _, tt := range []struct {
		path   string
		header http.Header
		want   string
	}{
		{"/header", env("prod"), "200 "},
		{"/header", env("dev"), "403 condition_not_met"},
		{"/header", nil, "403 condition_not_met"},
		{"/header", env("prod", "dev"), "403 condition_not_met"},
		{"/header", http.Header{"X_Env": {"prod"}}, "400 bad_request"}, // some servers take it for the same, some do not
		{"/header", http.Header{"X-Env": {"prod"}, "X_Env": {"dev"}}, "400 bad_request"},
		{"/header", http.Header{"X.env": {"prod"}}, "400 bad_request"},
		{"/absent", nil, "200 "},
		{"/absent", env("prod"), "403 condition_not_met"},
		{"/absent", http.Header{"X_Env": {"prod"}}, "400 bad_request"},
		{"/query?state=open", nil, "200 "},
		{"/query?state=all", nil, "403 condition_not_met"},
		{"/query?state=open&state=all", nil, "403 condition_not_met"},
		{"/query", nil, "403 condition_not_met"},
		{"/who", nil, "200 "},
		{"/now", nil, "200 "},
		{"/open", http.Header{"X-Env": {"prod"}, "X_Env": {"dev"}}, "400 bad_request"},
	} {
		for _, h2 := range []bool{false, true} {
			resp, _ := r.do(r.client(h2), "GET", r.at("api.test", tt.path), tt.header, nil)
			if got := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Sidekey-Refusal")); got != tt.want {
				t.Errorf("h2=%v %s %v: %q, want %q", h2, tt.path, tt.header, got, tt.want)
			}
		}
	}
}

// A header that does not go on is not there for a condition.
func TestConditionOnNominatedHeader(t *testing.T) {
	r := newRig(t, conditionedPolicy, ok)
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	got := exchangeRaw(t, conn, "GET /header HTTP/1.1\r\nHost: api.test:"+r.port+"\r\nX-Env: prod\r\nConnection: close, x-env\r\n\r\n")
	if !strings.HasPrefix(got, "403 condition_not_met") {
		t.Error(got)
	}
	if len(r.got()) != 0 {
		t.Error("the upstream was reached")
	}
}

// jsonOf returns a body that the route short allows, or not, of about n bytes.
func jsonOf(n int, allowed bool) string {
	text := "short"
	if !allowed {
		text = "much too long"
	}
	return fmt.Sprintf(`{"text":%q,"pad":%q}`, text, strings.Repeat("x", n))
}

// I7: nothing is sent before the whole body was judged, and then those bytes are sent.
func TestConditionsOnBodies(t *testing.T) {
	r := newRig(t, conditionedPolicy, echoBody)
	isJSON := http.Header{"Content-Type": {"application/json"}}
	for _, tt := range []struct {
		name, body string
		header     http.Header
		want       string
	}{
		{"small", jsonOf(0, true), isJSON, "200 "},
		{"of some size", jsonOf(300<<10, true), isJSON, "200 "},
		{"at the bound", jsonOf(1<<20-len(jsonOf(0, true)), true), isJSON, "200 "},
		{"above the bound", jsonOf(1<<20-len(jsonOf(0, true))+1, true), isJSON, "413 body_not_acceptable"},
		{"far above", jsonOf(3<<20, true), isJSON, "413 body_not_acceptable"},
		{"that denies", jsonOf(0, false), isJSON, "403 condition_not_met"},
		{"of a duplicate name", `{"text":"a","text":"much too long"}`, isJSON, "403 body_not_acceptable"},
		{"with more after it", `{"text":"a"}{"text":"much too long"}`, isJSON, "403 body_not_acceptable"},
		{"of another type", jsonOf(0, true), http.Header{"Content-Type": {"text/plain"}}, "403 body_not_acceptable"},
		{"without a type", jsonOf(0, true), nil, "403 body_not_acceptable"},
		{"of two types", jsonOf(0, true), http.Header{"Content-Type": {"application/json", "text/plain"}}, "403 body_not_acceptable"},
		{"of two charsets", jsonOf(0, true), http.Header{"Content-Type": {"application/json; charset=gbk; charset*=utf-8''utf-8"}}, "403 body_not_acceptable"},
		{"with the name in another case", `{"text":"a","pad":{"Text":"much too long"}}`, isJSON, "403 body_not_acceptable"},
		{"with a coding", jsonOf(0, true), http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, "403 body_not_acceptable"},
		{"without the key", `{}`, isJSON, "403 condition_failed"},
		{"of nothing", ``, isJSON, "403 body_not_acceptable"},
	} {
		for _, h2 := range []bool{false, true} {
			for _, sized := range []bool{true, false} {
				var body io.Reader = strings.NewReader(tt.body)
				if !sized {
					body = unsized{body}
				}
				before := len(r.got())
				resp, got := r.do(r.client(h2), "POST", r.at("api.test", "/json"), tt.header, body)
				status := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Sidekey-Refusal"))
				if status != tt.want {
					t.Errorf("a body %s, h2=%v sized=%v: %q, want %q", tt.name, h2, sized, status, tt.want)
				}
				if resp.StatusCode == 200 && (got != tt.body || resp.Header.Get("X-Length") != fmt.Sprint(len(tt.body))) {
					t.Errorf("a body %s, h2=%v sized=%v: upstream got %d bytes, said to be %s; want %d", tt.name, h2, sized, len(got), resp.Header.Get("X-Length"), len(tt.body))
				}
				if resp.StatusCode != 200 && len(r.got()) != before {
					t.Errorf("a body %s, h2=%v sized=%v: the upstream was reached", tt.name, h2, sized)
				}
			}
		}
	}
	for _, rec := range r.trail.records(audit.RequestDenied) {
		if rec["reason"] == "condition_failed" && rec["detail"] == nil {
			t.Errorf("a record does not say what failed: %v", rec)
		}
	}
}

// An agent that waits to be asked for its body is asked, and one that breaks off gets nothing sent.
func TestConditionReadsWhatComes(t *testing.T) {
	r := newRig(t, conditionedPolicy, echoBody)
	head := "POST /json HTTP/1.1\r\nHost: api.test:" + r.port + "\r\nContent-Type: application/json\r\nContent-Length: 14\r\n"
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, head+"Expect: 100-continue\r\nConnection: close\r\n\r\n")
	line := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	if _, err := io.ReadFull(conn, line); err != nil || !bytes.HasPrefix(line, []byte("HTTP/1.1 100 ")) {
		t.Fatalf("%q %v", line, err)
	}
	if got := exchangeRaw(t, conn, `{"text":"abc"}`); !strings.HasPrefix(got, "200 ") {
		t.Error(got)
	}
	if conn, err = r.tunnel("api.test:"+r.port, "api.test"); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, head+"\r\n"+`{"text":"a`)
	conn.CloseWrite()
	io.Copy(io.Discard, conn)
	r.stopAndWait()
	if len(r.got()) != 1 || len(r.trail.records(audit.RequestDenied)) != 1 {
		t.Errorf("the upstream got %d requests, want that of before; %d denials, want one", len(r.got()), len(r.trail.records(audit.RequestDenied)))
	}
}

// A role that only reports lets a body through whole that it could not check.
func TestReportedBody(t *testing.T) {
	r := newRig(t, strings.Replace(conditionedPolicy, "role: tester", "role: tester\nmode: report", 1), echoBody)
	for _, sized := range []bool{true, false} {
		want := jsonOf(3<<20, true)
		var body io.Reader = strings.NewReader(want)
		if !sized {
			body = unsized{body}
		}
		resp, got := r.do(r.client(false), "POST", r.at("api.test", "/json"), http.Header{"Content-Type": {"application/json"}}, body)
		if resp.StatusCode != 200 || got != want {
			t.Errorf("sized=%v: %s, %d bytes of %d", sized, resp.Status, len(got), len(want))
		}
	}
	for _, seen := range r.got() {
		if seen.header.Get("Authorization") != "" {
			t.Error("a request that is only reported carries the credential")
		}
	}
	if rec := r.trail.records(audit.RequestIntent); len(rec) != 2 || rec[0]["would_deny"] != "body_not_acceptable" {
		t.Errorf("intents: %v", rec)
	}
}

// A body that was checked is sent again like one that was kept for that.
func TestCheckedBodyIsReplayed(t *testing.T) {
	var bodies []string
	r := newRig(t, conditionedPolicy, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		bodies = append(bodies, string(b))
		if len(bodies) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}, func(_ *proxy.Config, o *rigOptions) { o.source = &minting{} })
	resp, _ := r.do(r.client(false), "POST", r.at("api.test", "/json"), http.Header{"Content-Type": {"application/json"}}, unsized{strings.NewReader(jsonOf(10, true))})
	if resp.StatusCode != 200 || len(bodies) != 2 || bodies[0] != bodies[1] || bodies[0] != jsonOf(10, true) {
		t.Errorf("%s, bodies %q", resp.Status, bodies)
	}
}

// What agents keep unsent takes room, and no more than there is; what was taken is given back.
func TestRoomForCheckedBodies(t *testing.T) {
	r := newRig(t, conditionedPolicy, echoBody)
	head := "POST /json HTTP/1.1\r\nHost: api.test:" + r.port + "\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n"
	var waiting []net.Conn
	for range 33 { // more than 32 MiB
		conn, err := r.tunnel("api.test:"+r.port, "api.test")
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(conn, head+strings.Repeat(" ", 1<<20-1))
		waiting = append(waiting, conn)
	}
	c, isJSON := r.client(false), http.Header{"Content-Type": {"application/json"}}
	for {
		resp, _ := r.do(c, "POST", r.at("api.test", "/json"), isJSON, strings.NewReader(jsonOf(0, true)))
		if resp.StatusCode == 503 && resp.Header.Get("Sidekey-Refusal") == "overloaded" {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("there is room without end")
		}
	}
	for _, conn := range waiting {
		conn.Close()
	}
	for {
		resp, _ := r.do(c, "POST", r.at("api.test", "/json"), isJSON, strings.NewReader(jsonOf(0, true)))
		if resp.StatusCode == 200 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the room is not given back")
		}
	}
}

// Whatever the bytes and however they arrive, the proxy decides as the policy does on those bytes,
// and the upstream gets them as they are.
func TestCheckedBodyIsTheSentOne(t *testing.T) {
	r := newRig(t, conditionedPolicy, echoBody)
	pol := must(policy.Parse("policy.yaml", []byte(strings.ReplaceAll(conditionedPolicy, "PORT", r.port))))(t)
	target := must(policy.ParseURL(r.at("api.test", "/json")))(t)
	clients := []*http.Client{r.client(false), r.client(true)}
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(rapid.OneOf(rapid.Map(rapid.MapOf(rapid.SampledFrom([]string{"text", "TEXT", "a"}), rapid.StringN(0, 20, 40)), func(m map[string]string) string {
			b, _ := json.Marshal(m)
			return string(b)
		}), rapid.SampledFrom([]string{`{"text":"a"}`, `{"text":["a"]}`, `{"text":"a","text":"b"}`, `[]`, ` `}), rapid.String()).Draw(t, "body"))
		header := http.Header{"Content-Type": {rapid.SampledFrom([]string{"application/json", "application/x+json; charset=utf-8", "text/json", ""}).Draw(t, "type")}}
		d := pol.Decide(policy.Request{Method: "POST", Target: target, Header: header, Body: whole(b)})
		req := must(http.NewRequest("POST", r.at("api.test", "/json"), unsized{iotest.OneByteReader(bytes.NewReader(b))}))(r.t)
		req.Header = header
		resp, err := rapid.SampledFrom(clients).Draw(t, "client").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, _ := io.ReadAll(resp.Body)
		if d.Allow && (resp.StatusCode != 200 || !bytes.Equal(got, b)) || !d.Allow && resp.Header.Get("Sidekey-Refusal") != string(d.Reason) {
			t.Errorf("%q of %v: %s %s with %q; the policy says %v %s", b, header, resp.Status, resp.Header.Get("Sidekey-Refusal"), got, d.Allow, d.Reason)
		}
	})
}

// whole is a body that is there.
type whole []byte

func (w whole) Bytes() ([]byte, error) { return w, nil }

// An agent that promises a body and sends none does not keep room for it.
func TestCheckedBodyThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, roundTrip(attentive), deciding(t, strings.ReplaceAll(conditionedPolicy, ":PORT", "")), func(c *proxy.Config) { c.StallTimeout = stall })
		conn := p.tunnel("api.test", "http/1.1")
		go io.WriteString(conn, "POST /json HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
		began := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.Header.Get("Sidekey-Refusal") != "agent_gone" || time.Since(began) < stall || time.Since(began) > 2*stall {
			t.Errorf("%v %v after %v", resp, err, time.Since(began))
		}
	})
}
