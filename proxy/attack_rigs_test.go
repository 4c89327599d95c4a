package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/proxy"
)

// needsOwnRig reports whether a's proxy cannot be shared.
func (a attack) needsOwnRig() bool {
	for _, key := range []string{"rig", "resolve", "dns", "allow", "never"} {
		if a.keys[key] != "" {
			return true
		}
	}
	return false
}

// rigs are the states that a case can ask for.
var rigs = map[string]struct {
	option option
	enter  func(t *testing.T, g *gallery)
}{
	"fresh": {},
	"early": {option: func(c *proxy.Config, _ *rigOptions) { c.RefuseEarly = true }},
	"full":  {option: func(c *proxy.Config, _ *rigOptions) { c.MaxRequests = 1 }, enter: occupy},
	"draining": {enter: func(t *testing.T, g *gallery) {
		occupy(t, g)
		g.stop()
		for deadline := time.Now().Add(agentPatience); !strings.HasPrefix(g.rig.raw("CONNECT "+g.vars["API"]+" HTTP/1.1\r\n\r\n"), "503"); {
			if time.Now().After(deadline) {
				t.Fatal("the drain does not begin")
			}
		}
	}},
	"audit-down": {enter: func(t *testing.T, g *gallery) {
		_, release, err := g.cache.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		release()
		g.trail.fail(true)
	}},
	"audit-down-first": {enter: func(_ *testing.T, g *gallery) { g.trail.fail(true) }},
	"expired":          {option: source(expired{})},
	"refused":          {option: source(fixed{fail: func() error { return fmt.Errorf("vault says %s: %w", canary, credential.ErrRefused) }})},
	"down":             {option: source(fixed{fail: func() error { return fmt.Errorf("vault says %s: %w", canary, credential.ErrUnavailable) }})},
	"unprintable":      {option: source(fixed{value: canary + "\r\nX-Injected: 1"})},
	"ended":            {enter: func(_ *testing.T, g *gallery) { g.cache.Close(context.Background()) }},
}

func source(s credential.Source) option { return func(_ *proxy.Config, o *rigOptions) { o.source = s } }

// expired is a source whose values have expired when they come.
type expired struct{}

func (expired) Issue(context.Context, string) (*credential.Issuance, error) {
	now := time.Now()
	return &credential.Issuance{Value: credential.NewSecret([]byte(canary)), IssuedAt: now.Add(-time.Hour), ExpiresAt: now.Add(-time.Minute)}, nil
}

// newAttackRig makes the proxy that a asks for.
func newAttackRig(t *testing.T, a attack, dns *nameServer) *gallery {
	state, ok := rigs[cmpOr(a.keys["rig"], "fresh")]
	if !ok {
		t.Fatalf("there is no rig %s", a.keys["rig"])
	}
	guarded := "a.guard.test"
	if a.keys["dns"] != "" {
		guarded = "d" + strings.NewReplacer(".", "-").Replace(strings.ToLower(a.id)) + ".guard.test"
	}
	g := newGallery(t, nil, func(c *proxy.Config, o *rigOptions) {
		delete(o.resolve, "a.guard.test")
		if s := a.keys["resolve"]; s != "" {
			o.resolve[guarded] = netip.MustParseAddr(s)
		}
		if s := a.keys["allow"]; s != "" {
			o.allow = nil
			for p := range strings.FieldsSeq(s) {
				o.allow = append(o.allow, netip.MustParsePrefix(p))
			}
		}
		if s := a.keys["never"]; s != "" {
			o.never = func(ap netip.AddrPort) bool { return ap.Addr() == netip.MustParseAddr(s) }
		}
		if state.option != nil {
			state.option(c, o)
		}
	})
	if s := a.keys["dns"]; s != "" {
		dns.set(guarded, strings.Split(s, " then ")...)
	}
	g.vars["GUARD"] = guarded + ":" + g.port
	if state.enter != nil {
		state.enter(t, g)
	}
	return g
}

// occupy leaves a request in flight.
func occupy(t *testing.T, g *gallery) {
	t.Helper()
	conn := must(net.Dial("tcp", g.addr))(t)
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET http://%s/v1/hold HTTP/1.1\r\nHost: x\r\n\r\n", g.vars["PLAIN"])
	for deadline := time.Now().Add(agentPatience); len(g.trail.records(audit.RequestIntent)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request that is to be in flight is not")
		}
	}
	for g.serving.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	g.held = 1
}

// release lets the requests in flight end.
func (g *gallery) release() { g.once.Do(func() { close(g.hold); g.held = 0 }) }

// repair undoes what would make every request fail.
func (g *gallery) repair() { g.trail.fail(false) }
