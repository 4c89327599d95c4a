package policy

import (
	"fmt"
	"slices"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// A named host is a route with the value that names its host.
type named struct {
	route *Route
	host  strictyaml.Value
}

// decodeTunnel finds what a tunnel must not have.
func (d *decoder) decodeTunnel(m strictyaml.Mapping, r *Route) {
	if r.Scheme == "http" {
		m.Get("host").Wrong("a tunnel carries TLS, and so is for https only", "write the host without http://, or remove tunnel")
	}
	if s, ok := m.Get("credential").Text(); ok {
		d.used[s] = true // the mistake is this one; that no route carries it is none of its own
		m.Key("credential").Wrong("a tunnel carries no credential: what is in it cannot be changed", "remove credential, or remove tunnel")
	}
	for _, key := range routeKeys {
		if key != "credential" && !slices.Contains(tunnelKeys, key) && m.Has(key) {
			m.Key(key).Wrong("a tunnel is not looked into: everything in it is let through", fmt.Sprintf("remove %s, or remove tunnel", key))
		}
	}
}

// checkTunnels finds the routes whose host is tunnelled by another one.
func (d *decoder) checkTunnels() {
	for a, all := range d.hosts {
		var tunnel *named
		for i := range all {
			if all[i].route.Tunnel {
				tunnel = &all[i]
				break
			}
		}
		if tunnel == nil || a.Host == "" {
			continue
		}
		for _, n := range all {
			if n.route != tunnel.route {
				n.host.Wrong(fmt.Sprintf("the tunnel at %s, of route %s, goes around this route", tunnel.host.Where(), tunnel.route.Name),
					"remove one of the two: a host is tunnelled, or its requests are decided")
			}
		}
	}
}
