package main

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sidekey/sidekey/internal/config"
)

// protected are the places that no upstream may turn out to be, whatever ranges the config opens:
// Vault, the Kubernetes API and this process's own listeners (I9).
type protected struct {
	places []place
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	mu         sync.Mutex
	own        map[uint16]bool // ports of the own listeners
	addrs      map[netip.AddrPort]bool
	unresolved map[uint16]bool // ports of places whose addresses are not known now
	resolved   time.Time
	resolving  bool
}

// A place is a host, by name or address, and a port.
type place struct {
	host string
	port uint16
}

// newProtected resolves the places once before it returns; names are resolved again as time goes.
func newProtected(cfg *config.Config, env environment) *protected {
	p := &protected{own: map[uint16]bool{}, lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	if cfg.Vault != nil {
		if u, err := url.Parse(cfg.Vault.Address); err == nil {
			port := u.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
			}
			p.add(u.Hostname(), port)
		}
	}
	p.add(env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT"))
	p.resolve()
	return p
}

func (p *protected) add(host, port string) {
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && host != "" {
		p.places = append(p.places, place{host, uint16(n)})
	}
}

// listens notes the listeners of this process.
func (p *protected) listens(listeners ...net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range listeners {
		if ln == nil {
			continue
		}
		if a, ok := ln.Addr().(*net.TCPAddr); ok {
			p.own[a.AddrPort().Port()] = true
		}
	}
}

// names reports whether a route to host and port would lead to one of the places.
func (p *protected) names(host string, port uint16) bool {
	for _, pl := range p.places {
		if pl.host == host && pl.port == port {
			return true
		}
	}
	return false
}

// covers reports whether ap must not be dialled. While the address of a place is not known, its
// port is closed on all addresses that are not public.
func (p *protected) covers(ap netip.AddrPort) bool {
	const age = 30 * time.Second
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.resolved) > age && !p.resolving {
		p.resolving = true
		go p.resolve()
	}
	if p.addrs[ap] || p.own[ap.Port()] && isLocal(ap.Addr()) {
		return true
	}
	return p.unresolved[ap.Port()] && (ap.Addr().IsPrivate() || ap.Addr().IsLoopback() || !ap.Addr().IsGlobalUnicast())
}

func (p *protected) resolve() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addrs, unresolved := map[netip.AddrPort]bool{}, map[uint16]bool{}
	for _, pl := range p.places {
		found, err := p.lookup(ctx, pl.host)
		if err != nil || len(found) == 0 {
			unresolved[pl.port] = true
		}
		for _, a := range found {
			addrs[netip.AddrPortFrom(a.WithZone("").Unmap(), pl.port)] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ap := range p.addrs { // an address that a name had is still a place until the name has others
		if unresolved[ap.Port()] {
			addrs[ap] = true
		}
	}
	p.addrs, p.unresolved, p.resolved, p.resolving = addrs, unresolved, time.Now(), false
}

// isLocal reports whether addr is one of this machine's own.
func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true // unknown is as good as local: it is not dialled
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}
