package main

import (
	"context"
	"errors"
	"net/netip"
	"testing"
)

// I9: Vault and the Kubernetes API are not dialled for an agent, by name or by address, and what
// is not known is taken for the worse.
func TestProtected(t *testing.T) {
	known := map[string][]netip.Addr{"vault.test": {netip.MustParseAddr("10.1.2.3")}}
	var down bool
	p := &protected{lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
		if a, err := netip.ParseAddr(host); err == nil {
			return []netip.Addr{a}, nil
		}
		if down || known[host] == nil {
			return nil, errors.New("no such host")
		}
		return known[host], nil
	}, own: map[uint16]bool{3128: true}}
	p.add("vault.test", "8200")
	p.add("10.96.0.1", "443")
	p.add("", "")
	p.resolve()
	check := func(when, ap string, want bool) {
		t.Helper()
		if got := p.covers(netip.MustParseAddrPort(ap)); got != want {
			t.Errorf("%s: covers(%s) = %v", when, ap, got)
		}
	}
	check("resolved", "10.1.2.3:8200", true)
	check("resolved", "10.1.2.3:443", false)
	check("resolved", "10.9.9.9:8200", false)
	check("resolved", "10.96.0.1:443", true)
	check("resolved", "127.0.0.1:3128", true)
	check("resolved", "127.0.0.1:8080", false)
	down = true
	p.resolve()
	check("down", "10.1.2.3:8200", true)
	check("down", "10.9.9.9:8200", true)
	check("down", "93.184.216.34:8200", false)
	down = false
	known["vault.test"] = []netip.Addr{netip.MustParseAddr("10.7.7.7")}
	p.resolve()
	check("moved", "10.7.7.7:8200", true)
	check("moved", "10.9.9.9:8200", false)
	if !p.names("vault.test", 8200) || p.names("vault.test", 443) {
		t.Error("names is wrong")
	}
}
