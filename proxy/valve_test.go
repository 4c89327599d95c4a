package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/proxy"
)

// ask makes a request and returns its status, with the reason if it was refused.
func ask(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "broken"
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Sidekey-Refusal")))
}

// While the use of credentials is stopped, the source is left alone too, and what needs no credential
// works. After the session's end it cannot be resumed.
func TestKillAndEndSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &minting{}
		p := newPiped(t, roundTrip(endless), issuing(t, src), deciding(t, socketPolicy))
		c := clientOf(p)
		check := func(when, credentialed string, killed bool) {
			t.Helper()
			if got := ask(t, c, "https://api.test/v1/x"); got != credentialed || p.srv.Killed() != killed {
				t.Errorf("%s: a request with a credential: %s, killed: %v", when, got, p.srv.Killed())
			}
			if got := ask(t, c, "https://open.test/x"); got != "200" {
				t.Errorf("%s: a request without: %s", when, got)
			}
		}
		p.srv.Kill()
		check("killed", "503 killed", true)
		p.srv.Kill()
		check("killed twice", "503 killed", true)
		if src.count() != 0 || len(p.trail.records(audit.RequestIntent)) != 2 {
			t.Errorf("%d credentials were obtained meanwhile; trail %s", src.count(), p.trail.text())
		}
		p.srv.Resume()
		check("resumed", "200", false)
		p.srv.EndSession()
		check("ended", "503 session_ended", false)
		p.srv.Kill()
		check("ended and killed", "503 session_ended", true)
		p.srv.Resume()
		p.srv.EndSession()
		check("ended and resumed", "503 session_ended", false)
		synctest.Wait()
		if n := p.srv.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
		for _, rec := range p.trail.records(audit.RequestDenied) {
			if rec["issuance"] != nil || rec["credential"] != "api" || rec["status"] != 503.0 {
				t.Errorf("record %v", rec)
			}
		}
	})
}

// What carries a credential is cut off wherever it is on its way, and what does not goes on.
func TestKillCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issue := make(chan struct{})
		ends := make(chan net.Conn, 2)
		p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			switch req.URL.Path {
			case "/v1/head": // for which the upstream takes its time
				<-req.Context().Done()
				return nil, req.Context().Err()
			case "/v1/body":
				return answering(req, neverending{req.Context()}), nil
			case "/slow":
				<-issue
				return answering(req, strings.NewReader("done")), nil
			}
			return upgraded(ends)(req)
		}), issuing(t, &minting{}), deciding(t, socketPolicy))
		c := clientOf(p)
		begin := func(url string) <-chan string {
			got := make(chan string, 1)
			go func() { got <- ask(t, c, url) }()
			return got
		}
		outlive := openSocket(t, p, ends, "api.test", "/outlive")
		bare := openSocket(t, p, ends, "open.test", "/ws")
		head, body, slow := begin("https://api.test/v1/head"), begin("https://api.test/v1/body"), begin("https://open.test/slow")
		synctest.Wait()
		if n := p.srv.InFlight(); n != 5 {
			t.Fatalf("%d in flight, want 5", n)
		}
		before := time.Now()
		p.srv.Kill()
		if d := time.Since(before); d != 0 {
			t.Errorf("it took %v", d)
		}
		if outlive.open() || !bare.open() || !bare.works() {
			t.Errorf("the WebSocket with a credential is open: %v, the one without: %v", outlive.open(), bare.open())
		}
		if got := <-head; got != "503 killed" {
			t.Errorf("before the answer: %s", got)
		}
		if got := <-body; got != "broken" {
			t.Errorf("in the answer: %s", got)
		}
		close(issue)
		if got := <-slow; got != "200" {
			t.Errorf("without a credential: %s", got)
		}
		bare.agent.Close()
		p.stop()
		killed := 0
		for _, out := range p.trail.records(audit.RequestOutcome) {
			if (out["error"] == "killed") != (out["credential"] == "api") {
				t.Errorf("outcome %v", out)
			}
			if out["error"] == "killed" {
				killed++
			}
		}
		if killed != 3 {
			t.Errorf("%d were cut off, want 3", killed)
		}
	})
}

// neverending yields nothing until its request ends.
type neverending struct{ ctx context.Context }

func (n neverending) Read([]byte) (int, error) {
	<-n.ctx.Done()
	return 0, n.ctx.Err()
}

// A request that waits for its credential while the use of credentials is stopped, or the session ends,
// does not get to use it.
func TestKillWhileAcquiring(t *testing.T) {
	for want, shut := range map[string]func(*proxy.Server){"503 killed": (*proxy.Server).Kill, "503 session_ended": (*proxy.Server).EndSession} {
		synctest.Test(t, func(t *testing.T) {
			src := &minting{minted: make(chan int)}
			p := newPiped(t, roundTrip(endless), issuing(t, src))
			got := make(chan string, 1)
			go func() { got <- ask(t, clientOf(p), "https://api.test/v1/x") }()
			synctest.Wait() // for the source
			shut(p.srv)
			<-src.minted
			if got := <-got; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if n := len(p.trail.records(audit.RequestIntent)); n != 0 {
				t.Errorf("%d intents", n)
			}
		})
	}
}

// A slowTrail does not take intents before it is told to.
type slowTrail struct {
	proxy.Trail
	takes chan struct{}
}

func (s slowTrail) Append(rec audit.Record) (audit.Ref, error) {
	if rec.Event == audit.RequestIntent {
		<-s.takes
	}
	return s.Trail.Append(rec)
}

// Kill and EndSession come after the intents before them: whoever ends the session can revoke then.
// Its requests go on, those of Kill are not sent. A trail that is stuck is not waited for, and then
// the request is not sent either way.
func TestShutAfterIntents(t *testing.T) {
	for _, tt := range []struct {
		shut  func(*proxy.Server)
		stuck bool
		want  string
	}{
		{(*proxy.Server).EndSession, false, "200"},
		{(*proxy.Server).EndSession, true, "503 session_ended"},
		{(*proxy.Server).Kill, false, "503 killed"},
		{(*proxy.Server).Kill, true, "503 killed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			takes := make(chan struct{})
			p := newPiped(t, roundTrip(attentive), func(c *proxy.Config) { c.Trail = slowTrail{c.Trail, takes} })
			got, shut := make(chan string, 1), make(chan time.Time, 1)
			go func() { got <- ask(t, clientOf(p), "https://api.test/v1/x") }()
			synctest.Wait() // for the trail
			began := time.Now()
			go func() { tt.shut(p.srv); shut <- time.Now() }()
			synctest.Wait()
			if len(shut) != 0 {
				t.Errorf("%s: it has returned, and an intent is on its way", tt.want)
			}
			patience := time.Duration(0)
			if tt.stuck {
				patience = time.Second
				time.Sleep(patience)
				synctest.Wait()
			}
			close(takes)
			if at := <-shut; at.Sub(began) != patience {
				t.Errorf("%s: it returned after %v, want %v", tt.want, at.Sub(began), patience)
			}
			if got := <-got; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// attentive is an upstream that sends nothing for a request that has ended, as [http.Transport] does.
func attentive(req *http.Request) (*http.Response, error) {
	if err := context.Cause(req.Context()); err != nil {
		return nil, err
	}
	return answering(req, strings.NewReader("x")), nil
}

// Kill returns when what was being sent is not any more. A transport that does not let go is not waited
// for without end.
func TestKillWaitsForSending(t *testing.T) {
	for _, late := range []time.Duration{time.Second / 2, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				time.Sleep(late)
				return nil, context.Cause(req.Context())
			}))
			got := make(chan string, 1)
			go func() { got <- ask(t, clientOf(p), "https://api.test/v1/x") }()
			synctest.Wait()
			began := time.Now()
			p.srv.Kill()
			if d, want := time.Since(began), min(late, time.Second); d != want {
				t.Errorf("it took %v, want %v", d, want)
			}
			if got := <-got; got != "503 killed" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// A WebSocket does not outlive the session, whatever its route says.
func TestEndSessionClosesWebSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan net.Conn, 1)
		p := newPiped(t, roundTrip(upgraded(ends)), deciding(t, socketPolicy))
		var sockets []*socket
		for _, at := range [][2]string{{"api.test", "/ws"}, {"api.test", "/outlive"}, {"open.test", "/ws"}} {
			sockets = append(sockets, openSocket(t, p, ends, at[0], at[1]))
		}
		p.srv.EndSession()
		if sockets[0].open() || sockets[1].open() || !sockets[2].open() {
			t.Errorf("open: %v %v %v, want the last only", sockets[0].open(), sockets[1].open(), sockets[2].open())
		}
	})
}

// A yieldingTrail lets others go first.
type yieldingTrail struct{ proxy.Trail }

func (y yieldingTrail) Append(rec audit.Record) (audit.Ref, error) {
	for range 5 {
		runtime.Gosched()
	}
	return y.Trail.Append(rec)
}

// However requests and the switch meet: from the return of Kill to Resume no intent with a credential
// is recorded and nothing is being sent.
func TestKillIsExact(t *testing.T) {
	var off atomic.Bool
	var late, served atomic.Int64
	p := newPiped(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		resp, err := attentive(req)
		if err == nil {
			served.Add(1)
		}
		if err == nil && off.Load() {
			late.Add(1)
		}
		return resp, err
	}), func(c *proxy.Config) { c.Trail = yieldingTrail{c.Trail} })
	c := clientOf(p)
	ctx, cancel := context.WithCancel(t.Context())
	var agents sync.WaitGroup
	for range 8 {
		agents.Go(func() {
			for ctx.Err() == nil {
				if resp, err := c.Get("https://api.test/v1/x"); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	for range 25 {
		for n := served.Load(); served.Load() < n+5; {
			runtime.Gosched()
		}
		p.srv.Kill()
		off.Store(true)
		p.trail.log.Append(audit.Record{Event: audit.KillEngaged})
		for range 20 { // and the agents ask on
			runtime.Gosched()
		}
		p.trail.log.Append(audit.Record{Event: audit.KillReleased})
		off.Store(false)
		p.srv.Resume()
	}
	cancel()
	agents.Wait()
	p.stop()
	if n := late.Load(); n != 0 {
		t.Errorf("%d requests were sent while credentials were off", n)
	}
	killed := false
	for line := range strings.Lines(p.trail.text()) {
		switch {
		case strings.Contains(line, `"event":"kill.engaged"`):
			killed = true
		case strings.Contains(line, `"event":"kill.released"`):
			killed = false
		case killed && strings.Contains(line, `"event":"request.intent"`):
			t.Fatalf("an intent while credentials were off: %s", line)
		}
	}
}

// An issuance that came to its end between the acquiring and the record is not used.
func TestIntentAfterTheEnd(t *testing.T) {
	for want, close := range map[string]func(*credential.Cache){
		"503 session_ended": func(c *credential.Cache) { c.Close(context.Background()) },
		"503 credential_unavailable": func(*credential.Cache) {
			time.Sleep(2 * time.Hour)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var cache *credential.Cache
			p := newPiped(t, roundTrip(endless), func(c *proxy.Config) {
				cache = c.Generation.Bindings["api"].Credential.(*credential.Cache)
				c.Generation.Bindings["api"].Credential = standInCache{acquire: func(ctx context.Context) (*credential.Issuance, func(), error) {
					iss, release, err := cache.Acquire(ctx)
					if err == nil {
						close(cache)
					}
					return iss, release, err
				}}
			})
			if got := ask(t, clientOf(p), "https://api.test/v1/x"); got != want || len(p.trail.records(audit.RequestIntent)) != 0 {
				t.Errorf("got %s, want %s; trail %s", got, want, p.trail.text())
			}
		})
	}
}
