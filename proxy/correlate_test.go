package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/proxy"
)

// correlatedPolicy is [reissuePolicy] with everything correlated but one host.
var correlatedPolicy = strings.NewReplacer("credential: api}", "credential: api, correlate: true}", "websocket: true}", "websocket: true, correlate: true}",
	"replay: safe}", "replay: safe, correlate: true}").Replace(reissuePolicy) +
	`  - {name: bare, host: "other.test:PORT", access: read-write, paths: [/**], correlate: true}` + "\n"

var uuid7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// Of a correlated route the upstream gets one id and a User-Agent that ends in it, and the trail has it.
func TestCorrelate(t *testing.T) {
	const fresh = "" // in place of an id: one of Sidekey's own
	long := strings.Repeat("x", 128)
	type header = map[string][]string
	id := func(values ...string) header { return header{"X-Request-Id": values} }
	for _, tt := range []struct {
		name string
		in   header
		id   string
		ua   string // what stands before the suffix
	}{
		{"nothing", nil, fresh, ""},
		{"an id", id("req_7.A-b~9"), "req_7.A-b~9", ""},
		{"the shortest id", id("12345678"), "12345678", ""},
		{"a short id", id("1234567"), fresh, ""},
		{"the longest id", id(long), long, ""},
		{"a long id", id(long + "x"), fresh, ""},
		{"an empty id", id(""), fresh, ""},
		{"two ids", id("12345678", "12345678"), fresh, ""},
		{"a list", id("12345678,12345678"), fresh, ""},
		{"a blank", id("1234 5678"), fresh, ""},
		{"a quote", id(`1234"5678`), fresh, ""},
		{"a slash", id("1234/5678"), fresh, ""},
		{"a bracket", id("1234(5678"), fresh, ""},
		{"not ASCII", id("1234567\u00e9"), fresh, ""},
		{"aliases", header{"X_request_id": {"12345678"}, "X.Request.Id": {"12345678"}, "X-Request-Id-": {"12345678"}, "-X_request.id": {"12345678"}, "User_agent": {"sidekey/12345678"}}, fresh, ""},
		{"an alias beside an id", header{"X-Request-Id": {"abcdefgh"}, "X_Request_Id": {"12345678"}, "User.Agent": {"x"}, "User-Agent": {"curl/8"}}, "abcdefgh", "curl/8 "},
		{"a user agent", header{"User-Agent": {"curl/8.5 (x; y) z"}}, fresh, "curl/8.5 (x; y) z "},
		{"nominated", header{"X-Request-Id": {"12345678"}, "Connection": {"x-request-id"}}, fresh, ""},
	} {
		for _, h2 := range []bool{false, true} {
			for _, host := range []string{"api.test", "other.test"} {
				if h2 && tt.in["Connection"] != nil {
					continue // not of HTTP/2
				}
				r := newRig(t, correlatedPolicy, ok)
				name := fmt.Sprintf("%s, %s, h2=%v", tt.name, host, h2)
				in := http.Header{"User-Agent": {""}}
				for k, v := range tt.in {
					in[k] = v
				}
				if resp, _ := r.do(r.client(h2), "GET", r.at(host, "/v1/x?q=hidden-query"), in, nil); resp.StatusCode != 200 {
					t.Errorf("%s: %s", name, resp.Status)
					continue
				}
				r.stopAndWait()
				got := r.got()[0].header
				sent := correlation(t, got)
				if tt.id == fresh && !uuid7.MatchString(sent) || tt.id != fresh && sent != tt.id {
					t.Errorf("%s: the upstream got %q, want %q", name, sent, tt.id)
				}
				if want := tt.ua + "sidekey/" + sent; got.Get("User-Agent") != want {
					t.Errorf("%s: User-Agent %q, want %q", name, got.Get("User-Agent"), want)
				}
				intent, outcome := r.trail.records(audit.RequestIntent)[0], r.trail.records(audit.RequestOutcome)[0]
				if intent["request_id"] != sent || outcome["request_id"] != sent || intent["path_hmac"] == nil {
					t.Errorf("%s: intent %v, outcome %v, want id %s", name, intent, outcome, sent)
				}
				if strings.Contains(r.trail.text(), "hidden-query") || strings.Contains(r.trail.text(), "curl/8") || strings.Contains(fmt.Sprint(got), "s-1") {
					t.Errorf("%s: the trail has a query or a header, or the upstream the session", name)
				}
			}
		}
	}
}

// correlation returns the one id in a header, under whatever name a server may see it.
func correlation(t *testing.T, h http.Header) string {
	t.Helper()
	fold := func(s string) string {
		return strings.Trim(strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(s)), "-")
	}
	var ids []string
	agents := 0
	for name, values := range h {
		switch fold(name) {
		case "x-request-id":
			ids = append(ids, values...)
		case "user-agent":
			agents += len(values)
		}
	}
	if len(ids) != 1 || agents != 1 {
		t.Fatalf("ids %q and %d user agents in %v", ids, agents, h)
	}
	return ids[0]
}

// An agent cannot write what Sidekey does.
func TestCorrelateForged(t *testing.T) {
	for _, agents := range [][]string{{"sidekey/12345678"}, {"curl/8 sidekey/12345678"}, {"curl/8 (SideKey/1)"}, {"a\tsidekey/1 b"}, {"a", "b"}, {"", "sidekey/12345678"}} {
		for _, h2 := range []bool{false, true} {
			r := newRig(t, correlatedPolicy, ok)
			raw, err := r.tunnel("api.test:"+r.port, "api.test", "http/1.1")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if h2 {
				if len(agents) > 1 {
					continue // net/http's client sends the first only
				}
				resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), http.Header{"User-Agent": agents}, nil)
				got = fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Sidekey-Refusal"))
			} else {
				got = exchangeRaw(t, raw, "GET /v1/x HTTP/1.1\r\nHost: api.test:"+r.port+"\r\nUser-Agent: "+strings.Join(agents, "\r\nUser-Agent: ")+"\r\n\r\n")
			}
			if !strings.HasPrefix(got, "400 bad_request") || len(r.got()) != 0 || len(r.trail.records(audit.RequestIntent)) != 0 {
				t.Errorf("%q h2=%v: %s; the upstream got %v", agents, h2, got, r.got())
			}
			if denied := r.trail.records(audit.RequestDenied); len(denied) != 1 || denied[0]["request_id"] != nil {
				t.Errorf("%q h2=%v: denials %v", agents, h2, denied)
			}
			// What does not say correlate: true is left alone.
			if resp, _ := r.do(r.client(h2), "GET", r.at("open.test", "/"), http.Header{"User-Agent": agents[:1], "X-Request-Id": {"short"}}, nil); resp.StatusCode != 200 {
				t.Errorf("%q: an open route answers %s", agents, resp.Status)
			}
			if h := r.got()[0].header; h.Get("X-Request-Id") != "short" || h.Get("User-Agent") != agents[0] && agents[0] != "" || strings.Contains(r.trail.text(), "request_id") {
				t.Errorf("%q: the upstream of an open route got %v", agents, h)
			}
		}
	}
}

// A request that is sent again has an id for each time, unless the agent gave it one.
func TestCorrelateReplay(t *testing.T) {
	for own, same := range map[string]bool{"": false, "agents-own-1": true} {
		r := newRig(t, correlatedPolicy, revoked(2), source(&minting{}))
		h := http.Header{}
		if own != "" {
			h.Set("X-Request-Id", own)
		}
		if resp, _ := r.do(r.client(true), "POST", r.at("api.test", "/safe/x"), h, strings.NewReader("body")); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		r.stopAndWait()
		got, in, out := r.got(), r.trail.records(audit.RequestIntent), r.trail.records(audit.RequestOutcome)
		if len(got) != 2 || len(in) != 2 || len(out) != 2 {
			t.Fatalf("the upstream got %v, intents %v, outcomes %v", got, in, out)
		}
		for i := range 2 {
			if id := correlation(t, got[i].header); in[i]["request_id"] != id || out[i]["request_id"] != id || own != "" && id != own {
				t.Errorf("%d: the upstream got %s, intent %v, outcome %v", i, id, in[i]["request_id"], out[i]["request_id"])
			}
		}
		if (in[0]["request_id"] == in[1]["request_id"]) != same {
			t.Errorf("%q: ids %v and %v", own, in[0]["request_id"], in[1]["request_id"])
		}
	}
}

func TestCorrelateWebSocket(t *testing.T) {
	r := newRig(t, correlatedPolicy, func(w http.ResponseWriter, req *http.Request) {
		if c, err := websocket.Accept(w, req, nil); err == nil {
			c.Close(websocket.StatusNormalClosure, "")
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	c.Read(ctx)
	r.stopAndWait()
	id := correlation(t, r.got()[0].header)
	in, out := r.trail.records(audit.RequestIntent), r.trail.records(audit.RequestOutcome)
	if !uuid7.MatchString(id) || len(in) != 1 || len(out) != 1 || in[0]["request_id"] != id || out[0]["request_id"] != id {
		t.Errorf("the upstream got %s, intents %v, outcomes %v", id, in, out)
	}
}

// I6: a credential that would stand where the id does is not sent.
func TestCorrelateAndCarrier(t *testing.T) {
	for _, name := range []string{"X-Request-Id", "X_request_id", "User-Agent", "User.Agent"} {
		r := newRig(t, correlatedPolicy, ok, func(_ *proxy.Config, o *rigOptions) { o.injector = inject.Header(name, "") })
		resp, _ := r.do(r.client(false), "GET", r.at("api.test", "/v1/x"), nil, nil)
		if resp.Header.Get("Sidekey-Refusal") != "credential_unavailable" || len(r.got()) != 0 {
			t.Errorf("%s: %s, and the upstream got %d requests", name, resp.Status, len(r.got()))
		}
		if denied := r.trail.records(audit.RequestDenied); len(denied) != 1 || denied[0]["request_id"] != nil || denied[0]["issuance"] != nil {
			t.Errorf("%s: denials %v", name, denied)
		}
	}
}
