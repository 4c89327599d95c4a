package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// after is a policy of the same role with one route to api.test.
func after(route string) string {
	text := "version: 1\nrole: tester\n"
	if strings.Contains(route, "credential: api") {
		text += "credentials:\n  api: {from: {env: {name: X}}, inject: {bearer: {}}}\n"
	}
	return text + "routes:\n  - {name: next, host: api.test, " + route + "}\n"
}

// pending is an upstream whose answers begin when begin is closed, and end when end is.
type pending struct{ begin, end chan struct{} }

func (p pending) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.begin != nil {
		select {
		case <-p.begin:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	r, w := io.Pipe()
	go func() {
		io.WriteString(w, "first")
		select {
		case <-p.end:
			w.Close()
		case <-req.Context().Done():
			w.CloseWithError(req.Context().Err())
		}
	}()
	return answering(req, r), nil
}

// I8: what the next generation would refuse is cut off, before or in its answer; all else goes on.
func TestReloadCutsWhatIsRefused(t *testing.T) {
	for _, tt := range []struct {
		next   string
		header http.Header
		cut    bool
		fresh  bool // the credential comes from elsewhere
	}{
		{"access: read-only, paths: [/v1/**], credential: api", nil, false, false},
		{"access: read-only, paths: [/v1/other], credential: api", nil, true, false},
		{"methods: [PUT], paths: [/v1/**], credential: api", nil, true, false},
		{"access: read-only, paths: [/v1/**]", nil, true, false}, // carries a credential that it would not get now
		{"access: read-only, paths: [/v1/**], credential: api, headers: {X-Env: prod}", nil, true, false},
		{"access: read-only, paths: [/v1/**], credential: api, headers: {X-Env: prod}", http.Header{"X-Env": {"prod"}}, false, false},
		{"access: read-only, paths: [/v1/**], credential: api, limits: {rate: 1/h}", nil, false, false},
		{"access: read-only, paths: [/v1/**], credential: api", nil, true, true},
	} {
		for _, begun := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				up := pending{make(chan struct{}), make(chan struct{})}
				if begun {
					up.begin = nil
				}
				p := newPiped(t, up)
				got := make(chan string, 1)
				go func() {
					req := must(http.NewRequest("GET", "https://api.test/v1/x", nil))(t)
					req.Header = tt.header.Clone()
					if req.Header == nil {
						req.Header = http.Header{}
					}
					resp, err := clientOf(p).Do(req)
					if err != nil {
						got <- err.Error()
						return
					}
					defer resp.Body.Close()
					_, err = io.Copy(io.Discard, resp.Body)
					got <- fmt.Sprint(resp.StatusCode, resp.Header.Get("Sidekey-Refusal"), err != nil)
				}()
				synctest.Wait()
				next := p.generation(after(tt.next), "next")
				if !tt.fresh {
					next.Bindings = p.bindings
				}
				retired := must(p.srv.SetGeneration(next))(t)
				synctest.Wait()
				want := "200false"
				switch {
				case tt.cut && begun:
					want = "200true"
				case tt.cut:
					want = "403policy_changedfalse"
				}
				select {
				case <-retired:
					if !tt.cut {
						t.Error("the former generation is said to be over, and has a request")
					}
				default:
					if tt.cut {
						t.Error("the former generation has no request and is not over")
					}
				}
				if !begun {
					close(up.begin)
				}
				close(up.end)
				if g := <-got; g != want {
					t.Errorf("%s, begun %v: %s, want %s", tt.next, begun, g, want)
				}
				<-retired
				out := p.trail.records(audit.RequestOutcome)
				if code, _ := out[0]["error"].(string); len(out) != 1 || (code == "policy_changed") != tt.cut {
					t.Errorf("%s, begun %v: outcomes %v", tt.next, begun, out)
				}
			})
		}
	}
}

// I8: a WebSocket ends with the policy that allowed it, and goes on under one that allows it, too.
func TestReloadCutsWebSockets(t *testing.T) {
	for next, cut := range map[string]bool{
		"methods: [GET], paths: [/ws], credential: api, websocket: true": false,
		"methods: [GET], paths: [/ws], credential: api":                  true,
	} {
		synctest.Test(t, func(t *testing.T) {
			ends := make(chan net.Conn, 1)
			p := newPiped(t, roundTrip(upgraded(ends)))
			s := openSocket(t, p, ends, "api.test", "/ws")
			g := p.generation(after(next), "next")
			g.Bindings = p.bindings
			must(p.srv.SetGeneration(g))(t)
			synctest.Wait()
			if len(s.ended) != 0 != cut {
				t.Errorf("%s: ended %v, want %v", next, len(s.ended) != 0, cut)
			}
		})
	}
}

// I8: a tunnel that is passed through ends when the policy takes it back.
func TestReloadCutsTunnels(t *testing.T) {
	for _, cut := range []bool{false, true} {
		r := newRig(t, tunnelPolicy, ok)
		conn := must(r.tunnelTo("api.test:"+r.port, &tls.Config{ServerName: "api.test", RootCAs: r.upstreamRoots}))(t)
		request := "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n"
		io.WriteString(conn, request)
		br := bufio.NewReader(conn)
		resp := must(http.ReadResponse(br, nil))(t)
		io.Copy(io.Discard, resp.Body)
		next := tunnelPolicy
		if cut {
			next = standardPolicy
		}
		pol := must(policy.Parse("policy.yaml", []byte(strings.ReplaceAll(next, "PORT", r.port))))(t)
		must(r.srv.SetGeneration(&proxy.Generation{Policy: pol, Plain: r.gen.Plain, Dial: r.gen.Dial, Bindings: r.gen.Bindings}))(t)
		if !cut {
			io.WriteString(conn, request)
		}
		if _, err := http.ReadResponse(br, nil); (err != nil) != cut { // it is cut without a request, a moment later
			t.Errorf("cut %v: %v", cut, err)
		}
		conn.Close()
		r.stopAndWait()
		if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || (out[0]["error"] == "policy_changed") != cut {
			t.Errorf("cut %v: outcomes %v", cut, out)
		}
	}
}

// A generation is in force once.
func TestGenerationIsNotPutBack(t *testing.T) {
	p := newPiped(t, roundTrip(attentive))
	g := p.generation(pipedPolicy, canary)
	must(p.srv.SetGeneration(g))(t)
	if _, err := p.srv.SetGeneration(g); err == nil {
		t.Error("a generation that is in force was taken again")
	}
	must(p.srv.SetGeneration(p.generation(pipedPolicy, canary)))(t)
	if _, err := p.srv.SetGeneration(g); err == nil {
		t.Error("a generation that was retired was taken again")
	}
}

// I8: under load no request is lost by reloads, and each is decided by the generation that it names.
func TestReloadUnderLoad(t *testing.T) {
	p := newPiped(t, roundTrip(attentive))
	odd, even := after("access: read-only, paths: [/v1/odd, /v1/both], credential: api"), after("access: read-only, paths: [/v1/even, /v1/both], credential: api")
	texts := map[uint64]string{}
	number := uint64(0)
	reload := func() <-chan struct{} {
		number++
		text := even
		if number%2 == 1 {
			text = odd
		}
		g := p.generation(text, canary)
		g.Number, g.Bindings, texts[number] = number, p.bindings, text
		p.trail.log.SetPolicy(number, strconv.FormatUint(number, 16))
		return must(p.srv.SetGeneration(g))(t)
	}
	reload()
	stop := make(chan struct{})
	var agents sync.WaitGroup
	for _, path := range []string{"odd", "even", "both", "both"} {
		c := clientOf(p)
		agents.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Get("https://api.test/v1/" + path)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 && (path == "both" || resp.StatusCode != 403) {
					t.Errorf("%s: %s %s", path, resp.Status, resp.Header.Get("Sidekey-Refusal"))
				}
			}
		})
	}
	for range 200 {
		select {
		case <-reload():
		case <-time.After(10 * time.Second):
			t.Fatal("a generation does not end")
		}
	}
	close(stop)
	agents.Wait()
	intents := 0
	for _, event := range []audit.Event{audit.RequestIntent, audit.RequestDenied} {
		for _, rec := range p.trail.records(event) {
			pol := rec["policy"].(map[string]any)
			n := uint64(pol["generation"].(float64))
			if pol["sha256"] != strconv.FormatUint(n, 16) || texts[n] == "" {
				t.Fatalf("a record of no generation: %v", rec)
			}
			path, _ := rec["path"].(string)
			if allows := strings.Contains(texts[n], path+",") || strings.Contains(texts[n], path+"]"); allows != (event == audit.RequestIntent) && rec["reason"] != "policy_changed" {
				t.Errorf("%s of %s under generation %d", event, path, n)
			}
			intents++
		}
	}
	if intents == 0 {
		t.Error("nothing was asked")
	}
}
