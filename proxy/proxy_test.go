package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/proxy"
)

func ok(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("X-Upstream", "yes")
	io.WriteString(w, "hello")
}

// The main job, on all entrances: an allowed request gets the credential, once, and leaves an
// intent and an outcome.
func TestAllowed(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t, standardPolicy, ok)
		resp, body := r.do(r.client(h2), "GET", r.at("api.test", "/v1/items?q=1"), nil, nil)
		if resp.StatusCode != 200 || body != "hello" || resp.Header.Get("X-Upstream") != "yes" {
			t.Fatalf("h2=%v: got %s %q", h2, resp.Status, body)
		}
		if want := map[bool]int{false: 1, true: 2}[h2]; resp.ProtoMajor != want {
			t.Errorf("h2=%v: the agent was answered in %s", h2, resp.Proto)
		}
		got := r.got()
		if len(got) != 1 {
			t.Fatalf("h2=%v: the upstream got %d requests", h2, len(got))
		}
		if got[0].line != "GET /v1/items?q=1" || got[0].host != "api.test:"+r.port || got[0].proto != "HTTP/2.0" {
			t.Errorf("h2=%v: the upstream got %q for host %q in %s", h2, got[0].line, got[0].host, got[0].proto)
		}
		if auth := got[0].header["Authorization"]; len(auth) != 1 || auth[0] != "Bearer "+canary {
			t.Errorf("I6 h2=%v: %d Authorization headers", h2, len(auth))
		}
		intents, outcomes := r.trail.records(audit.RequestIntent), r.trail.records(audit.RequestOutcome)
		if len(intents) != 1 || len(outcomes) != 1 || outcomes[0]["intent"] != intents[0]["seq"] {
			t.Fatalf("h2=%v: intents %v outcomes %v", h2, intents, outcomes)
		}
		in, out := intents[0], outcomes[0]
		if in["route"] != "read" || in["credential"] != "api" || in["issuance"] == nil || in["entrance"] != map[bool]string{false: "connect-h1", true: "connect-h2"}[h2] {
			t.Errorf("h2=%v: intent %v", h2, in)
		}
		r.stopAndWait()
		if refused := r.trail.records(audit.ConnectionRefused); len(refused) != 0 {
			t.Errorf("h2=%v: refused connections %v", h2, refused)
		}
		if out["status"] != 200.0 || out["bytes_out"] != 5.0 || out["protocol"] != "h2" || out["attempts"] != 1.0 {
			t.Errorf("h2=%v: outcome %v", h2, out)
		}
	}
}

// Plain http goes through the same pipeline, and never gets a credential (I11).
func TestAbsoluteForm(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	resp, body := r.do(r.client(false), "GET", "http://api.test:"+r.port+"/v1/items", nil, nil)
	if resp.StatusCode != 403 || resp.Header.Get("Sidekey-Refusal") != "scheme_not_allowed" {
		t.Errorf("got %s %s", resp.Status, body)
	}
	if len(r.got()) != 0 {
		t.Error("the upstream got a request")
	}
}

func TestDenied(t *testing.T) {
	for _, tt := range []struct{ method, host, path, reason string }{
		{"DELETE", "api.test", "/v1/items", "method_not_allowed"},
		{"GET", "api.test", "/v2/items", "path_not_allowed"},
		{"GET", "evil.test", "/v1/items", "host_not_allowed"},
	} {
		for _, h2 := range []bool{false, true} {
			r := newRig(t, standardPolicy, ok)
			resp, body := r.do(r.client(h2), tt.method, r.at(tt.host, tt.path), nil, nil)
			var doc struct {
				Type, Title, Detail, Instance, Reason, Role string
				Status                                      int
				Allowed                                     []string
			}
			if err := json.Unmarshal([]byte(body), &doc); err != nil {
				t.Fatalf("%s: %v in %q", tt.reason, err, body)
			}
			if resp.StatusCode != 403 || doc.Status != 403 || doc.Reason != tt.reason || resp.Header.Get("Sidekey-Refusal") != tt.reason ||
				resp.Header.Get("Content-Type") != "application/problem+json" || doc.Role != "tester" || doc.Title == "" {
				t.Errorf("%s h2=%v: got %s %+v", tt.reason, h2, resp.Status, doc)
			}
			if known := tt.host == "api.test"; known != (len(doc.Allowed) > 0) {
				t.Errorf("%s: allowed is %q", tt.reason, doc.Allowed)
			}
			denied := r.trail.records(audit.RequestDenied)
			if len(denied) != 1 || denied[0]["reason"] != tt.reason || fmt.Sprintf("urn:sidekey:s-1:%.0f", denied[0]["seq"]) != doc.Instance {
				t.Errorf("%s: records %v, instance %q", tt.reason, denied, doc.Instance)
			}
			if n := len(r.got()); n != 0 || len(r.trail.records(audit.CredentialIssued)) != 0 {
				t.Errorf("%s: upstream got %d requests", tt.reason, n)
			}
		}
	}
}

func TestRefuseEarly(t *testing.T) {
	r := newRig(t, standardPolicy, ok, func(c *proxy.Config, _ *rigOptions) { c.RefuseEarly = true })
	if _, err := r.tunnel("evil.test:443", "evil.test"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("CONNECT to an unknown host: %v, want 403", err)
	}
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 200 {
		t.Errorf("a known host: %s", resp.Status)
	}
}

// I6: what the agent brings to a credentialed host is gone, under every spelling.
func TestAgentCredentialsAreDropped(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	_, _ = r.do(r.client(false), "GET", r.at("api.test", "/v1/items"), http.Header{
		"Authorization": {"Bearer agent-1", "Basic agent-2"}, "authorization": {"agent-3"}, "Cookie": {"a=agent-4"},
		"X-Api-Key": {"agent-5"}, "X_Api_Key": {"agent-6"}, "X.Api.Key": {"agent-7"}, "Proxy-Authorization": {"agent-8"},
		"Private-Token": {"agent-9"}, "Connection": {"Authorization, X-Gone"}, "X-Gone": {"x"}, "X-Kept": {"y"},
		"X-Forwarded-For": {"1.2.3.4"}, "Keep-Alive": {"x"}, "Te": {"gzip"},
	}, nil)
	got := r.got()
	if len(got) != 1 {
		t.Fatalf("the upstream got %d requests", len(got))
	}
	h := got[0].header
	if strings.Contains(fmt.Sprint(h), "agent-") {
		t.Errorf("the agent's own credentials went upstream: %d headers", len(h))
	}
	if auth := h["Authorization"]; len(auth) != 1 || auth[0] != "Bearer "+canary {
		t.Errorf("%d Authorization headers", len(auth))
	}
	for _, name := range []string{"X-Gone", "X-Forwarded-For", "Keep-Alive", "Te", "Connection", "Via"} {
		if _, ok := h[name]; ok {
			t.Errorf("%s went upstream", name)
		}
	}
	if h.Get("X-Kept") != "y" || h.Get("User-Agent") == "" {
		t.Errorf("fields were lost: %v", h)
	}
}

// A host without a credential gets what the agent sends.
func TestUncredentialedRouteKeepsAgentHeaders(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	r.do(r.client(true), "GET", r.at("open.test", "/x"), http.Header{"Authorization": {"Bearer own"}}, nil)
	if got := r.got(); len(got) != 1 || got[0].header.Get("Authorization") != "Bearer own" {
		t.Errorf("the upstream got %d requests", len(got))
	}
}

func TestInjectors(t *testing.T) {
	for _, tt := range []struct {
		in     inject.Injector
		target string
		check  func(seen) bool
		status int
	}{
		{inject.Header("X-Api-Key", ""), "/v1/x", func(s seen) bool { return s.header.Get("X-Api-Key") == canary }, 200},
		{inject.Basic("git"), "/v1/x", func(s seen) bool { return strings.HasPrefix(s.header.Get("Authorization"), "Basic ") }, 200},
		{inject.Query("key"), "/v1/x", func(s seen) bool { return s.line == "GET /v1/x?key="+canary }, 200},
		{inject.Query("key"), "/v1/x?a=%20b&c", func(s seen) bool { return s.line == "GET /v1/x?a=%20b&c&key="+canary }, 200},
		{inject.Query("key"), "/v1/x?key=mine", nil, 400},
		{inject.Query("key"), "/v1/x?k%65y=mine", nil, 400},
	} {
		r := newRig(t, standardPolicy, ok, func(_ *proxy.Config, o *rigOptions) { o.injector = tt.in })
		resp, body := r.do(r.client(true), "GET", r.at("api.test", tt.target), nil, nil)
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s %s", tt.target, resp.Status, body)
		}
		got := r.got()
		if tt.check == nil {
			if len(got) != 0 || resp.Header.Get("Sidekey-Refusal") != "credential_conflict" {
				t.Errorf("%s: the upstream got %d requests", tt.target, len(got))
			}
		} else if len(got) != 1 || !tt.check(got[0]) {
			t.Errorf("%s with %+v: not injected as it should be", tt.target, tt.in.Carrier())
		}
	}
}

// I13: without the credential nothing is sent.
func TestCredentialUnavailable(t *testing.T) {
	for _, sentinel := range []error{credential.ErrUnavailable, credential.ErrRefused} {
		source := fixed{fail: func() error { return fmt.Errorf("vault says %s: %w", canary, sentinel) }}
		r := newRig(t, standardPolicy, ok, func(_ *proxy.Config, o *rigOptions) { o.source = source })
		resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
		if resp.StatusCode != 503 || resp.Header.Get("Sidekey-Refusal") != "credential_unavailable" || resp.Header.Get("Retry-After") == "" {
			t.Errorf("got %s %v", resp.Status, resp.Header)
		}
		if strings.Contains(body, "vault says") {
			t.Error("the source's words reached the agent")
		}
		if len(r.got()) != 0 {
			t.Error("the upstream got a request")
		}
	}
}

// I7, I13: what cannot be recorded is not sent.
func TestAuditUnavailable(t *testing.T) {
	r := newRig(t, standardPolicy, ok)
	c := r.client(true)
	r.do(c, "GET", r.at("api.test", "/v1/x"), nil, nil)
	r.trail.fail(true)
	resp, _ := r.do(c, "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 503 || resp.Header.Get("Sidekey-Refusal") != "audit_unavailable" {
		t.Errorf("got %s %s", resp.Status, resp.Header.Get("Sidekey-Refusal"))
	}
	if n := len(r.got()); n != 1 {
		t.Errorf("the upstream got %d requests, want 1", n)
	}
	r.trail.fail(false)
	if resp, _ := r.do(c, "GET", r.at("api.test", "/v1/x"), nil, nil); resp.StatusCode != 200 {
		t.Errorf("after the trail came back: %s", resp.Status)
	}
}

func TestReportMode(t *testing.T) {
	r := newRig(t, strings.Replace(standardPolicy, "role: tester", "role: tester\nmode: report", 1), ok)
	c := r.client(true)
	if resp, _ := r.do(c, "DELETE", r.at("api.test", "/v1/items"), nil, nil); resp.StatusCode != 200 {
		t.Errorf("a denied method in report mode: %s", resp.Status)
	}
	if resp, _ := r.do(c, "GET", r.at("other.test", "/x"), nil, nil); resp.StatusCode != 200 {
		t.Errorf("a denied host in report mode: %s", resp.Status)
	}
	for _, s := range r.got() {
		if s.header.Get("Authorization") != "" {
			t.Errorf("%s carried a credential", s.line)
		}
	}
	var would []any
	for _, rec := range r.trail.records(audit.RequestIntent) {
		would = append(would, rec["would_deny"])
	}
	if fmt.Sprint(would) != "[method_not_allowed host_not_allowed]" {
		t.Errorf("would_deny: %v", would)
	}
}

// Redirects are the agent's to follow: its next request is a decision of its own.
func TestRedirectIsReturned(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("Alt-Svc", `h3=":443"`)
		http.Redirect(w, req, "https://evil.test/", http.StatusFound)
	})
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 302 || resp.Header.Get("Location") != "https://evil.test/" || len(r.got()) != 1 {
		t.Errorf("got %s, upstream got %d requests", resp.Status, len(r.got()))
	}
	if resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Alt-Svc") != "" {
		t.Errorf("the agent got %v", resp.Header)
	}
}
