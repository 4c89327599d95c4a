package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/audit"
)

// loggedPolicy has a route with everything that leaves more in the trail, one without, and the rest of
// [reissuePolicy].
const loggedPolicy = reissuePolicy + `
  - {name: logged, host: "other.test:PORT", methods: [GET, POST], paths: ["/api/**"], credential: api, replay: safe, allow_encoded_slash: true, correlate: true, log: path}
  - {name: template, host: "other.test:PORT", methods: [GET], paths: ["/plain/**"], credential: api, log: template}
`

// The path as it is sent is in the trail where the route says so, on what was sent and nothing else.
func TestLogPath(t *testing.T) {
	long := "/api/" + strings.Repeat("x", 2000)
	for _, tt := range []struct{ path, template, sent, event string }{
		{"/api/repos/7", "/api/**", "/api/repos/7", "request.intent"},
		{"/api/repos/7?token=x", "/api/**", "/api/repos/7", "request.intent"},
		{"/api", "/api/**", "/api", "request.intent"},
		{"/api/acme%2Fapp/%c3%a4", "/api/**", "/api/acme%2Fapp/%c3%a4", "request.intent"},
		{long, "/api/**", long[:1024] + "[+981 bytes]", "request.intent"},
		{"/plain/7", "/plain/**", "", "request.intent"},
		{"/other/7?token=x", "/other/7", "", "request.denied"},
	} {
		for _, h2 := range []bool{false, true} {
			r := newRig(t, loggedPolicy, ok)
			r.do(r.client(h2), "GET", r.at("other.test", tt.path), nil, nil)
			r.stopAndWait()
			records := r.trail.records(audit.Event(tt.event))
			if tt.event == string(audit.RequestIntent) {
				records = append(records, r.trail.records(audit.RequestOutcome)...)
				if len(records) != 2 || records[0]["path_hmac"] == nil {
					t.Fatalf("%.20s h2=%v: %v", tt.path, h2, records)
				}
			}
			for _, rec := range records {
				if got, _ := rec["path_sent"].(string); got != tt.sent || rec["path"] != tt.template {
					t.Errorf("%.20s h2=%v: %s has path_sent %.1100q and path %v, want %.1100q and %s", tt.path, h2, rec["event"], got, rec["path"], tt.sent, tt.template)
				}
			}
			if len(records) == 0 || strings.Contains(r.trail.text(), "token") {
				t.Errorf("%.20s h2=%v: records %v, or a query in the trail", tt.path, h2, records)
			}
		}
	}
}

// What a route has allowed and was not sent is a denial like any other.
func TestLogPathOfWhatWasNotSent(t *testing.T) {
	r := newRig(t, loggedPolicy, ok, source(fixed{fail: func() error { return io.ErrUnexpectedEOF }}))
	if resp, _ := r.do(r.client(false), "GET", r.at("other.test", "/api/7"), nil, nil); resp.StatusCode != 503 {
		t.Fatal(resp.Status)
	}
	denied := r.trail.records(audit.RequestDenied)
	if len(denied) != 1 || denied[0]["path"] != "/api/**" || denied[0]["path_sent"] != nil || denied[0]["request_id"] != nil {
		t.Errorf("denials %v", denied)
	}
}

// Whatever a route has the trail keep, no query value, header value or body is in it, of either side,
// nor anything of them in what Sidekey sends beside the request.
func TestTrailHasNoContent(t *testing.T) {
	const planted = "planted-5c1b"
	upstream := func(w http.ResponseWriter, req *http.Request) {
		for _, name := range []string{"X-Answer", "Location", "Content-Type", "X-Request-Id", "User-Agent", "Www-Authenticate"} {
			w.Header().Set(name, planted)
		}
		io.Copy(io.Discard, req.Body)
		if mintOf(req) < 2 {
			w.WriteHeader(http.StatusUnauthorized)
		}
		io.WriteString(w, planted)
	}
	for _, h2 := range []bool{false, true} {
		r := newRig(t, loggedPolicy, upstream, source(&minting{}))
		h := http.Header{
			"X-Request-Id": {planted + "/"}, "X_request_id": {planted}, "User-Agent": {planted}, "X-Planted": {planted}, "Cookie": {planted},
			"Authorization": {planted}, "Referer": {planted}, "X-Correlation-Id": {planted}, "Traceparent": {planted},
		}
		r.do(r.client(h2), "POST", r.at("other.test", "/api/repos/7?q="+planted+"&"+planted), h, strings.NewReader(planted))
		h.Set("User-Agent", planted+" sidekey/"+planted)
		r.do(r.client(h2), "POST", r.at("other.test", "/api/repos/7?q="+planted), h, strings.NewReader(planted))
		r.stopAndWait()
		if n := len(r.trail.records(audit.RequestIntent)); n != 2 || len(r.trail.records(audit.RequestDenied)) != 1 {
			t.Errorf("h2=%v: %d intents; want the request, its replay and one denial", h2, n)
		}
		for line := range strings.Lines(r.trail.text()) {
			if strings.Contains(line, planted) {
				t.Errorf("h2=%v: %s", h2, line)
			}
		}
		for _, s := range r.got() {
			if id := correlation(t, s.header); !uuid7.MatchString(id) {
				t.Errorf("h2=%v: id %s", h2, id)
			}
		}
	}
}
