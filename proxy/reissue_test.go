package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/proxy"
	"github.com/sidekey/sidekey/redact"
)

// reissuePolicy is [standardPolicy] with a route that says what may be sent twice.
const reissuePolicy = standardPolicy + `
  - {name: more, host: "api.test:PORT", methods: [DELETE, OPTIONS, PATCH], paths: [/v1/items], credential: api}
  - {name: safe, host: "api.test:PORT", methods: [POST, PATCH, GET], paths: [/safe/**], credential: api, replay: safe}
`

// minting is a source of canary-1, canary-2 and so on.
type minting struct {
	minted chan int     // if not nil, gets the number of each
	fail   func() error // nil: never

	mu sync.Mutex
	n  int
}

func (m *minting) Issue(context.Context, string) (*credential.Issuance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil && m.fail() != nil {
		return nil, m.fail()
	}
	m.n++
	if m.minted != nil {
		m.minted <- m.n
	}
	now := time.Now()
	return &credential.Issuance{Value: credential.NewSecret(fmt.Appendf(nil, "%s-%d", canary, m.n)), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, nil
}

func (m *minting) count() int { m.mu.Lock(); defer m.mu.Unlock(); return m.n }

// mintOf returns the number of the credential that req carries.
func mintOf(req *http.Request) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "+canary+"-"))
	return n
}

// revoked is an upstream that lets in what carries a credential from valid on, and says what body it
// got.
func revoked(valid int) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if mintOf(req) < valid {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "who are you")
			return
		}
		fmt.Fprintf(w, "%d %.20s", len(body), body)
	}
}

// unsized hides the length of a body.
type unsized struct{ io.Reader }

// I6, I7: after a 401 the credential is obtained anew, once. The request goes a second time only if
// that cannot do harm or the route says so, with an intent and an outcome of its own.
func TestRefusedCredential(t *testing.T) {
	mib := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		method, path string
		body         io.Reader
		again        bool
	}{
		{"GET", "/v1/x", nil, true},
		{"HEAD", "/v1/x", nil, true},
		{"OPTIONS", "/v1/items", nil, true},
		{"PUT", "/v1/items", nil, true},
		{"DELETE", "/v1/items", nil, true},
		{"POST", "/v1/items", nil, false},
		{"PATCH", "/v1/items", nil, false},
		{"POST", "/v1/items", strings.NewReader("body"), false},
		{"PUT", "/v1/items", strings.NewReader("body"), false},
		{"DELETE", "/v1/items", strings.NewReader("body"), false},
		{"GET", "/v1/x", strings.NewReader("body"), false},
		{"POST", "/safe/x", nil, true},
		{"PATCH", "/safe/x", nil, true},
		{"POST", "/safe/x", strings.NewReader("body"), true},
		{"GET", "/safe/x", strings.NewReader("body"), true},
		{"POST", "/safe/x", strings.NewReader(mib), true},
		{"POST", "/safe/x", strings.NewReader(mib + "x"), false},
		{"POST", "/safe/x", unsized{strings.NewReader("body")}, false},
	} {
		for _, h2 := range []bool{false, true} {
			src := &minting{minted: make(chan int, 2)}
			r := newRig(t, reissuePolicy, revoked(2), source(src))
			name := fmt.Sprintf("%s %s %T h2=%v", tt.method, tt.path, tt.body, h2)
			want := ""
			if s, ok := tt.body.(*strings.Reader); ok {
				s.Seek(0, io.SeekStart)
				b, _ := io.ReadAll(s)
				want = string(b)
				s.Seek(0, io.SeekStart)
			}
			want = fmt.Sprintf("%d %.20s", len(want), want)
			resp, body := r.do(r.client(h2), tt.method, r.at("api.test", tt.path), nil, tt.body)
			if first, second := <-src.minted, <-src.minted; first != 1 || second != 2 { // in the background, perhaps
				t.Errorf("%s: minted %d, %d", name, first, second)
			}
			r.stopAndWait()
			in, out := r.trail.records(audit.RequestIntent), r.trail.records(audit.RequestOutcome)
			if !tt.again {
				if resp.StatusCode != 401 || body != "who are you" || resp.Header.Get("WWW-Authenticate") == "" || len(r.got()) != 1 {
					t.Errorf("%s: got %s %q, and the upstream %d requests", name, resp.Status, body, len(r.got()))
				}
				if len(in) != 1 || len(out) != 1 || out[0]["status"] != 401.0 || out[0]["error"] != nil {
					t.Errorf("%s: intents %v, outcomes %v", name, in, out)
				}
				continue
			}
			if resp.StatusCode != 200 || body != want && tt.method != "HEAD" || resp.Header.Get("WWW-Authenticate") != "" || len(r.got()) != 2 {
				t.Errorf("%s: got %s %q, want %q; the upstream got %d requests", name, resp.Status, body, want, len(r.got()))
			}
			if len(in) != 2 || len(out) != 2 || in[0]["issuance"] == in[1]["issuance"] || in[0]["path_hmac"] != in[1]["path_hmac"] {
				t.Errorf("%s: intents %v, outcomes %v", name, in, out)
				continue
			}
			for i, want := range []string{"401 credential_refused <nil> 0", "200 <nil> sent again: the upstream refused the credential of record " + fmt.Sprint(in[0]["seq"])} {
				got := fmt.Sprint(out[i]["status"], " ", out[i]["error"], " ", out[i]["detail"])
				if i == 0 {
					got += fmt.Sprint(" ", cmpOrZero(out[i]["bytes_out"]))
				}
				if got != want || out[i]["intent"] != in[i]["seq"] || out[i]["attempts"] != 1.0 || out[i]["bytes_in"] != out[0]["bytes_in"] {
					t.Errorf("%s: outcome %d is %s, want %s: %v", name, i, got, want, out[i])
				}
			}
		}
	}
}

func cmpOrZero(v any) any {
	if v == nil {
		return 0
	}
	return v
}

// An upstream that refuses whatever it is sent costs one new credential in a while, not one for each
// request, and each request goes twice at most.
func TestRefusedForever(t *testing.T) {
	src := &minting{}
	r := newRig(t, reissuePolicy, revoked(1000), source(src))
	c := r.client(true)
	for range 20 {
		if resp, body := r.do(c, "GET", r.at("api.test", "/v1/x"), nil, nil); resp.StatusCode != 401 || body != "who are you" {
			t.Fatalf("got %s %s", resp.Status, body)
		}
	}
	r.stopAndWait()
	if n := src.count(); n != 2 || len(r.got()) != 21 || len(r.trail.records(audit.RequestOutcome)) != 21 {
		t.Errorf("%d credentials, and %d requests for 20 of the agent's", n, len(r.got()))
	}
}

// If there is no other credential the agent gets what the upstream said.
func TestRefusedAndSourceDown(t *testing.T) {
	src := &minting{}
	src.fail = func() error {
		if src.n == 0 {
			return nil
		}
		return fmt.Errorf("vault says %s: %w", canary, credential.ErrUnavailable)
	}
	r := newRig(t, reissuePolicy, revoked(2), source(src))
	resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	r.stopAndWait()
	out := r.trail.records(audit.RequestOutcome)
	if resp.StatusCode != 401 || body != "who are you" || len(r.got()) != 1 || len(out) != 1 || out[0]["error"] != nil {
		t.Errorf("got %s %s, outcomes %v", resp.Status, body, out)
	}
}

// The handshake of a WebSocket is a GET without a body.
func TestRefusedWebSocket(t *testing.T) {
	r := newRig(t, reissuePolicy, func(w http.ResponseWriter, req *http.Request) {
		if mintOf(req) < 2 {
			revoked(2)(w, req)
			return
		}
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			return
		}
		c.Write(req.Context(), websocket.MessageText, []byte("welcome"))
		c.Close(websocket.StatusNormalClosure, "")
	}, source(&minting{}))
	c, _, err := websocket.Dial(t.Context(), strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, b, err := c.Read(t.Context()); err != nil || string(b) != "welcome" {
		t.Errorf("got %q %v", b, err)
	}
}

// gRPC's own word for it comes with a 200 and is the agent's to understand.
func TestUnauthenticatedGRPCIsHandedOn(t *testing.T) {
	src := &minting{}
	r := newRig(t, reissuePolicy, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "16")
	}, source(src))
	resp, _ := r.do(r.client(true), "POST", r.at("api.test", "/pkg.Service/Call"), http.Header{"Content-Type": {"application/grpc"}}, strings.NewReader("\x00\x00\x00\x00\x00"))
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "16" || len(r.got()) != 1 || src.count() != 1 {
		t.Errorf("got %s %v, the upstream %d requests; %d credentials", resp.Status, resp.Header, len(r.got()), src.count())
	}
}

// I3, I6: the second time the target has the other credential, and not the refused one too.
func TestRefusedInQuery(t *testing.T) {
	var sent []string
	p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		sent = append(sent, req.URL.RequestURI())
		resp := answering(req, strings.NewReader(""))
		if len(sent) == 1 {
			resp.StatusCode = http.StatusUnauthorized
		}
		return resp, nil
	}), issuing(t, &minting{}), func(c *proxy.Config) { c.Generation.Bindings["api"].Injector = inject.Query("key") })
	if got := ask(t, clientOf(p), "https://api.test/v1/x?a=%20b"); got != "200" {
		t.Errorf("got %s", got)
	}
	if want := []string{"/v1/x?a=%20b&key=" + canary + "-1", "/v1/x?a=%20b&key=" + canary + "-2"}; !slices.Equal(sent, want) {
		t.Errorf("sent %d requests, want two with a credential each", len(sent))
	}
}

// A 401 without a credential of ours is none of our business.
func TestRefusedWithoutCredential(t *testing.T) {
	src := &minting{}
	r := newRig(t, reissuePolicy, revoked(1), source(src))
	if resp, _ := r.do(r.client(true), "GET", r.at("open.test", "/"), nil, nil); resp.StatusCode != 401 || len(r.got()) != 1 || src.count() != 0 {
		t.Errorf("got %s, the upstream %d requests; %d credentials", resp.Status, len(r.got()), src.count())
	}
}

// I10: both the refused value and the other one are masked in the answer to the second use.
func TestBothCredentialsAreMasked(t *testing.T) {
	r := newRig(t, reissuePolicy, func(w http.ResponseWriter, req *http.Request) {
		if mintOf(req) == 1 {
			http.Error(w, "not "+canary+"-1", http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Old", canary+"-1")
		fmt.Fprintf(w, "not %s-1 but %s-2", canary, canary)
	}, source(&minting{}))
	resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if want := "not " + redact.Mask + " but " + redact.Mask; body != want || resp.Header.Get("X-Old") != redact.Mask {
		t.Errorf("got %q, want %q", body, want)
	}
}
