package proxy_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever a request is, each entrance that can express it gives the same decision for the same
// reason, and what is allowed arrives with the target that was sent (I2, I3, I4).
func TestEntrancesAgree(t *testing.T) {
	g := newGallery(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		conns := map[string]agentConn{}
		defer func() {
			for _, c := range conns {
				c.close()
			}
		}()
		for range 4 {
			r := drawRequest(rt)
			verdicts := map[string]string{}
			for _, via := range allEntrances {
				if via == "listener" && !strings.HasPrefix(r.target, "/") {
					continue // it would be a part of the authority
				}
				if conns[via] == nil {
					conns[via], _ = g.open(t, attack{}, via)
				}
				got := conns[via].ask(r)
				if got.outcome != "" || got.header.Get("Sidekey-Refusal") == "" && got.status != 200 {
					conns[via].close()
					delete(conns, via)
				}
				verdicts[via] = g.verdict(rt, t, r, via, got)
			}
			for _, via := range allEntrances {
				if v, ok := verdicts[via]; ok && v != verdicts["tunnel-h1"] {
					rt.Fatalf("%q: the entrances disagree: %v", r, verdicts)
				}
			}
		}
	})
}

// verdict says in a word what became of r, and checks what arrived.
func (g *gallery) verdict(rt *rapid.T, t *testing.T, r plainRequest, via string, got answer) string {
	arrived := g.took(t, 0)
	refusal := got.header.Get("Sidekey-Refusal")
	switch {
	case got.status == 200 && refusal == "":
		if len(arrived) != 1 || arrived[0].line != r.method+" "+r.target {
			rt.Fatalf("%s: %q: allowed, and %d requests arrived, of which the first is another", via, r, len(arrived))
		}
		if want := map[bool]string{true: "plain.test", false: "api.test"}[via == "listener"]; arrived[0].host != want {
			rt.Fatalf("%s: %q arrived at %s", via, r, arrived[0].host)
		}
		return "allowed"
	case len(arrived) != 0:
		rt.Fatalf("%s: %q: answered %d %s, and it arrived", via, r, got.status, refusal)
	case got.outcome == "reset", got.status == 400 && (refusal == "" || refusal == "bad_request"):
		return "malformed" // for net/http or for us: which of the two depends on the entrance
	case got.status == 400, got.status == 403:
		return refusal
	}
	rt.Fatalf("%s: %q: got %s %d %s", via, r, got.outcome, got.status, refusal)
	return ""
}

// pieces are what a target is mutated with.
var pieces = []string{
	"/", "//", ".", "..", "/../", "%2e", "%2F", "%2f", "%25", "%252e", "%", "%zz", "%00", "%0d%0a", "%c3%a4", "%c0%ae", "%ff",
	"?", "&", "=", "x", "-", "%20", "$", "(", "!", "'", ",", "_", "/a", "?a=1", "#", ";", ":", "@", "+", "*", "\\", "|", "{", "[", "\"", "<", " ", "\t", "\x00", "\x7f", "\x1b", "\xff", "é", "a", "A", "v1", "~",
}

func drawRequest(t *rapid.T) (r plainRequest) {
	r.method = rapid.SampledFrom([]string{"GET", "GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "G", "GET@"}).Draw(t, "method")
	r.target = rapid.SampledFrom([]string{
		"/v1/items", "/v1/items", "/v1/items?a=1&b=2", "/v1/a/b/c", "/v1/x?", "/q", "/q?x=/../", "/enc/a%2fb", "/enc/a", "/", "/admin", "/v1", "/v1/",
	}).Draw(t, "target")
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(t, "mutations") {
		at := rapid.IntRange(0, len(r.target)).Draw(t, "at")
		to := rapid.IntRange(at, min(at+rapid.IntRange(0, 2).Draw(t, "cut"), len(r.target))).Draw(t, "to")
		r.target = r.target[:at] + rapid.SampledFrom(pieces).Draw(t, "piece") + r.target[to:]
	}
	// At most one field is at fault: which of two faults is told depends on the order of a map.
	for i := range rapid.IntRange(0, 2).Draw(t, "fields") {
		name, value := "X-Kept", "a"
		if i == 0 {
			name = rapid.SampledFrom(fieldNames).Draw(t, "name")
			value = rapid.SampledFrom(fieldValues).Draw(t, "value")
		}
		r.fields = append(r.fields, [2]string{name, value})
	}
	return r
}

var (
	fieldNames = []string{
		"X-A", "X-A", "X-A", "Accept", "Authorization", "AUTHORIZATION", "Cookie", "X-Api-Key", "X_Api_Key", "X-Forwarded-For", "Sidekey-Refusal",
		"X-HTTP-Method-Override", "X_Original_URL", "X.Rewrite.Url", "Content_Length", "Transfer.Encoding", "X-A@", "X A", "X\x00A", "X\xc3\xa4",
	}
	fieldValues = []string{"", "a", "a", "a", "DELETE", "5", "a b\tc", "\xff\xe4", "a\x00b", "a\x7fb", "a\x1b[2J", "Bearer agent", `"'<>`}
)
