package proxy_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/internal/policytest"
	"github.com/sidekey/sidekey/policy"
)

// pairsPerPolicy is how many requests are decided by each random policy.
const pairsPerPolicy = 40

// TestAgreement: a naive oracle, Decide, Explain, the tests of a policy file and the proxy decide
// the same on random pairs of a policy and a request. SIDEKEY_PAIRS says how many.
func TestAgreement(t *testing.T) {
	pairs := int64(2000)
	if s := os.Getenv("SIDEKEY_PAIRS"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			t.Fatalf("SIDEKEY_PAIRS=%s is no number of pairs", s)
		}
		pairs = n
	}
	// Not all that is drawn is a policy; what is drawn when there are enough pairs costs nothing.
	checks := flag.Lookup("rapid.checks")
	former := checks.Value.String()
	if err := checks.Value.Set(strconv.FormatInt(pairs/10+100, 10)); err != nil {
		t.Fatal(err)
	}
	defer checks.Value.Set(former)
	var n tally
	begun := time.Now()
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				w := newPairWorker(t)
				for n.begun.Load() < pairs && !t.Failed() {
					rapid.Check(t, func(t *rapid.T) { w.policy(t, &n, pairs) })
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	if n.agreed.Load() != pairs || n.allowed.Load() == 0 || n.reported.Load() == 0 || pairs >= 1000 && n.webSockets.Load() == 0 {
		t.Errorf("of %d pairs: %s", pairs, &n)
	}
	t.Logf("%s; in %.1f s", &n, time.Since(begun).Seconds())
}

// A tally counts pairs.
type tally struct {
	begun, agreed, policies, allowed, reported, denied, tunnelOnly, webSockets, plain, inTunnel, bodies atomic.Int64
}

func (n *tally) String() string {
	return fmt.Sprintf("%d pairs agreed (oracle, Decide, Explain, tests, proxy): %d policies; %d allowed, of these %d reported; %d denied, of these %d tunnel_only; "+
		"%d WebSockets, %d with a body; %d in absolute form, %d in tunnels",
		n.agreed.Load(), n.policies.Load(), n.allowed.Load(), n.reported.Load(), n.denied.Load(), n.tunnelOnly.Load(), n.webSockets.Load(), n.bodies.Load(), n.plain.Load(), n.inTunnel.Load())
}

func (n *tally) add(r policy.Request, d policy.Decision) {
	count := func(c *atomic.Int64, when bool) {
		if when {
			c.Add(1)
		}
	}
	count(&n.agreed, true)
	count(&n.allowed, d.Allow)
	count(&n.reported, d.Reported != "")
	count(&n.denied, !d.Allow)
	count(&n.tunnelOnly, d.Reason == policy.TunnelOnly)
	count(&n.webSockets, r.WebSocket)
	count(&n.bodies, r.Body != nil)
	count(&n.plain, r.Target.Scheme == "http")
	count(&n.inTunnel, r.Target.Scheme == "https")
}

// policy draws a policy and requests until there are pairs of them, and holds each to the oracle.
func (w *pairWorker) policy(t *rapid.T, n *tally, pairs int64) {
	if n.begun.Load() >= pairs {
		return
	}
	routes := policytest.DrawRoutes(t)
	if policytest.Tied(routes) || policytest.Tunnelled(routes) {
		return // which is no policy: the tests of package policy hold that
	}
	text := policytest.File(routes)
	p, err := policy.Parse("p", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	agreement := policytest.NewAgreement(t, p, text)
	var requests []policy.Request
	var decisions []policy.Decision
	for range pairsPerPolicy {
		if n.begun.Add(1) > pairs {
			break
		}
		r := drawSendable(t, routes)
		d := agreement.Request(r)
		agreement.Test(r, d)
		requests, decisions = append(requests, r), append(decisions, d)
	}
	agreement.RunTests()
	w.serve(t, p)
	for i, r := range requests {
		if got, want := w.send(t, r), wanted(r, decisions[i]); got != want {
			w.close()
			t.Fatalf("%s %s %v %v ws %v:\ngot  %+v\nwant %+v\n%s", r.Method, r.Target, r.Header, r.Body, r.WebSocket, got, want, text)
		}
		n.add(r, decisions[i])
	}
	n.policies.Add(1)
}

// drawSendable draws a request that can be sent and written into a test: with a method, and as a
// WebSocket only if its handshake could be one (RFC 6455 section 4.1). Few have bodies if no condition
// reads one: a refusal of one that has costs the connection, and most time goes into new ones.
func drawSendable(t *rapid.T, routes []*policy.Route) policy.Request {
	var r policy.Request
	if rapid.IntRange(0, 2).Draw(t, "far") == 0 {
		r = policytest.DrawRequest(t)
	} else {
		r = policytest.DrawRequestNear(t, routes)
	}
	if r.Method == "" {
		r.Method = "PATCH"
	}
	reads := slices.ContainsFunc(routes, func(r *policy.Route) bool { return strings.Contains(r.When, "json") })
	r.WebSocket = r.WebSocket && r.Method == "GET"
	if r.WebSocket || !reads && rapid.IntRange(0, 7).Draw(t, "bodiless") > 0 {
		r.Body = nil
	}
	return r
}
