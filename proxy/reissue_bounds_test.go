package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
)

// issuing has the credential of a [piped] come from src.
func issuing(t *testing.T, src credential.Source) func(*proxy.Config) {
	return func(c *proxy.Config) {
		cache := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: book{c.Trail.(promptTrail).Log}})
		t.Cleanup(func() { cache.Close(context.Background()) })
		c.Generation.Bindings["api"].Credential = cache
	}
}

// deciding has a [piped] decide by the given policy.
func deciding(t *testing.T, text string) func(*proxy.Config) {
	return func(c *proxy.Config) {
		c.Generation.Policy = must(policy.Parse("policy.yaml", []byte(strings.ReplaceAll(text, ":PORT", ""))))(t)
	}
}

// clientOf returns an agent's client, which speaks HTTP/2 in tunnels of its own.
func clientOf(p *piped) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:15001"}),
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return p.listener(), nil },
		TLSClientConfig: &tls.Config{RootCAs: p.roots},
		Protocols:       &protocols,
	}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// standInCache hands out what a test wants.
type standInCache struct {
	acquire, reissue func(context.Context) (*credential.Issuance, func(), error)
}

func (c standInCache) Acquire(ctx context.Context) (*credential.Issuance, func(), error) {
	return c.acquire(ctx)
}

func (c standInCache) Reissue(ctx context.Context, _ *credential.Issuance) (*credential.Issuance, func(), error) {
	return c.reissue(ctx)
}

// A thousand requests under way with a credential that was revoked: one new one, all that can be sent
// again arrive with it, and nothing else is sent twice.
func TestRevokedUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, tunnels = 1000, 13
		method := func(i int) string { return []string{"POST", "GET", "GET", "GET"}[i%4] }
		src := &minting{}
		var mu sync.Mutex
		sent := map[string]int{}
		revocation := make(chan struct{})
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			sent[req.Method+" "+req.URL.RawQuery]++
			mu.Unlock()
			resp := answering(req, strings.NewReader("answer"))
			if mintOf(req) == 1 {
				<-revocation
				resp.StatusCode = http.StatusUnauthorized
			}
			return resp, nil
		}), issuing(t, src))
		got := make(chan string, requests)
		var clients []*http.Client // none has more requests than fit in one tunnel
		for range tunnels {
			c := clientOf(p)
			resp, err := c.Get("https://api.test/denied") // opens the tunnel
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			clients = append(clients, c)
		}
		for i := range requests {
			go func() {
				req, _ := http.NewRequest(method(i), "https://api.test/v1/items?"+strconv.Itoa(i), nil)
				resp, err := clients[i%tunnels].Do(req)
				if err != nil {
					got <- err.Error()
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				got <- fmt.Sprint(method(i), " ", resp.StatusCode)
			}()
		}
		synctest.Wait()
		if n := len(p.trail.records(audit.RequestIntent)); n != requests {
			t.Fatalf("%d requests are under way, want %d", n, requests)
		}
		close(revocation)
		answers := map[string]int{}
		for range requests {
			answers[<-got]++
		}
		p.stop()
		if answers["GET 200"] != requests*3/4 || answers["POST 401"] != requests/4 || len(answers) != 2 {
			t.Errorf("answers %v", answers)
		}
		if n := src.count(); n != 2 {
			t.Errorf("%d credentials were obtained, want the first and one more", n)
		}
		for i := range requests {
			if want, n := map[string]int{"GET": 2, "POST": 1}[method(i)], sent[method(i)+" "+strconv.Itoa(i)]; n != want {
				t.Errorf("%s %d was sent %d times, want %d", method(i), i, n, want)
			}
		}
	})
}

// I12: what is held to be sent again is bounded, all of it together.
func TestHeldBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, room = 36, 32
		all := make(chan struct{})
		refused := 1
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			io.Copy(io.Discard, req.Body)
			req.Body.Close()
			resp := answering(req, strings.NewReader(""))
			if mintOf(req) == refused {
				<-all
				resp.StatusCode = http.StatusUnauthorized
			}
			return resp, nil
		}), issuing(t, &minting{}), deciding(t, reissuePolicy))
		c := clientOf(p)
		send := func(size int) int {
			resp, err := c.Post("https://api.test/safe/x", "", strings.NewReader(strings.Repeat("x", size)))
			if err != nil {
				t.Error(err)
				return 0
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		got := make(chan int, requests)
		for range requests {
			go func() { got <- send(1 << 20) }()
		}
		synctest.Wait()
		if n := len(p.trail.records(audit.RequestIntent)); n != requests {
			t.Fatalf("%d requests are under way, want %d", n, requests)
		}
		close(all)
		count := map[int]int{}
		for range requests {
			count[<-got]++
		}
		if count[200] != room || count[401] != requests-room {
			t.Errorf("of %d requests: %v, want %d to be sent again", requests, count, room)
		}
		refused = 2
		time.Sleep(time.Minute) // until there may be another credential
		if got := send(1 << 20); got != 200 {
			t.Errorf("after all that there is no room: %d", got)
		}
	})
}

// A body that is to be held and breaks off is not sent at all.
func TestHeldBodyBreaksOff(t *testing.T) {
	r := newRig(t, reissuePolicy, ok)
	conn, err := r.tunnel("api.test:"+r.port, "api.test")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /safe/x HTTP/1.1\r\nHost: api.test:%s\r\nContent-Length: 10\r\n\r\nhalf", r.port)
	conn.CloseWrite()
	conn.NetConn().Close()
	for deadline := time.Now().Add(patience); len(r.trail.records(audit.RequestDenied)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request does not end")
		}
	}
	r.stopAndWait()
	if rec := r.trail.records(audit.RequestDenied); len(rec) != 1 || !slices.Contains([]any{"bad_request", "agent_gone"}, rec[0]["reason"]) || len(r.got()) != 0 {
		t.Errorf("records %v; the upstream got %d requests", rec, len(r.got()))
	}
}

// A re-mint that nobody waits for is one at a time, whatever the agent does, and does not outlive the
// server.
func TestBackgroundReissueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, given := 0, 0
		now := time.Now()
		iss := &credential.Issuance{ID: "i", Value: credential.NewSecret([]byte(canary)), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}
		cache := standInCache{
			acquire: func(context.Context) (*credential.Issuance, func(), error) { return iss, func() { given++ }, nil },
			reissue: func(ctx context.Context) (*credential.Issuance, func(), error) {
				calls++
				<-ctx.Done()
				return nil, nil, errors.New("given up")
			},
		}
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answering(req, strings.NewReader("no"))
			resp.StatusCode = 401
			return resp, nil
		}), func(c *proxy.Config) { c.Generation.Bindings["api"].Credential = cache })
		c := clientOf(p)
		for range 5 {
			resp, err := c.Post("https://api.test/v1/items", "", nil)
			if err != nil || resp.StatusCode != 401 {
				t.Fatal(resp, err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		synctest.Wait()
		if calls != 1 || given != 5 {
			t.Errorf("%d calls under way, and %d of 5 uses over", calls, given)
		}
		p.stop()
	})
}
