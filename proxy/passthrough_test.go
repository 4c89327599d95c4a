package proxy_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/proxy"
)

const tunnelPolicy = `
version: 1
role: tester
routes:
  - {name: pinned, host: "api.test:PORT", tunnel: true}
`

// A tunnel route is passed through as it is: the agent sees the upstream's own certificate.
func TestPassThrough(t *testing.T) {
	r := newRig(t, tunnelPolicy, ok)
	conn, err := r.tunnelTo("api.test:"+r.port, &tls.Config{ServerName: "api.test", RootCAs: r.upstreamRoots})
	if err != nil {
		t.Fatal(err)
	}
	if got := exchangeRaw(t, conn, "GET /any HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "200 ") {
		t.Errorf("got %q", got)
	}
	conn.Close()
	r.stopAndWait()
	in, out := r.trail.records(audit.RequestIntent), r.trail.records(audit.RequestOutcome)
	if len(in) != 1 || len(out) != 1 || in[0]["entrance"] != "tunnel" || in[0]["route"] != "pinned" || in[0]["credential"] != nil || out[0]["bytes_out"] == nil {
		t.Errorf("intents %v outcomes %v", in, out)
	}
}

// The ClientHello has to name the tunnel's host, and nothing is dialled before it does.
func TestPassThroughRefuses(t *testing.T) {
	for _, sni := range []string{"open.test", ""} {
		r := newRig(t, tunnelPolicy, ok)
		if _, err := r.tunnelTo("api.test:"+r.port, &tls.Config{ServerName: sni, InsecureSkipVerify: true}); err == nil {
			t.Errorf("SNI %q was passed through", sni)
		}
		r.stopAndWait()
		if recs := r.trail.records(audit.ConnectionRefused); len(recs) != 1 || recs[0]["reason"] != "sni_mismatch" {
			t.Errorf("SNI %q: records %v", sni, recs)
		}
	}
	r := newRig(t, tunnelPolicy, ok)
	if got := r.raw(fmt.Sprintf("CONNECT api.test:%s HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: api.test\r\n\r\n", r.port)); !strings.HasPrefix(got, "200 ") {
		t.Errorf("CONNECT: %q", got)
	}
	r.stopAndWait()
	if recs := r.trail.records(audit.ConnectionRefused); len(recs) != 1 || recs[0]["reason"] != "not_tls" || len(r.got()) != 0 {
		t.Errorf("plaintext: records %v", recs)
	}
}

// I9 holds for tunnels too.
func TestPassThroughDialGuard(t *testing.T) {
	r := newRig(t, tunnelPolicy, ok, func(_ *proxy.Config, o *rigOptions) {
		o.resolve["api.test"] = netip.MustParseAddr("169.254.169.254")
	})
	if _, err := r.tunnelTo("api.test:"+r.port, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true}); err == nil {
		t.Error("a metadata address was dialled")
	}
	r.stopAndWait()
	if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "address_refused" {
		t.Errorf("outcomes %v", out)
	}
}

// A plain http request to the host of a tunnel route finds no route.
func TestPassThroughIsOnlyForTunnels(t *testing.T) {
	r := newRig(t, tunnelPolicy, ok)
	resp, _ := r.do(r.client(false), "GET", "http://api.test:"+r.port+"/", nil, nil)
	if resp.StatusCode != http.StatusForbidden || len(r.got()) != 0 {
		t.Errorf("got %s", resp.Status)
	}
	io.Copy(io.Discard, resp.Body)
}
