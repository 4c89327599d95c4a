package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// errAddressRefused is in every error of a dial that the guard stopped.
var errAddressRefused = errors.New("address refused")

// errNeverDialled is in those that no config can open.
var errNeverDialled = fmt.Errorf("never dialled: %w", errAddressRefused)

// A guard decides which addresses may be dialled, and resolves names in this process, so that
// the address that was looked at is the address that is connected to.
type guard struct {
	allow   []netip.Prefix        // ranges the config opens
	resolve map[string]netip.Addr // fixed addresses, by canonical host
	never   func(netip.AddrPort) bool
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// metadata are the addresses of cloud metadata services. No config opens them: who can reach
// one has the machine's own credentials.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, GCP, Azure, OpenStack, and most others
	netip.MustParseAddr("169.254.170.2"),   // AWS ECS
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS pod identity
	netip.MustParseAddr("169.254.169.123"), // AWS time
	netip.MustParseAddr("169.254.169.253"), // AWS DNS
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure wire server
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("fd00:42::42"),     // Scaleway
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // GCP
}

// special are the ranges that are not public unicast (IANA special-purpose registries, RFC
// 6890), the translation prefixes among them: what hides an IPv4 address in an IPv6 one would
// otherwise go around the IPv4 rows.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.31.196.0/24"),
	netip.MustParsePrefix("192.52.193.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("192.175.48.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), // unspecified, loopback, IPv4-compatible
	netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// linkLocal is never dialled: every cloud has something there that trusts the machine.
var linkLocal = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

// embedded returns the IPv4 address that an IPv6 address stands for where the network translates:
// NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), IPv4-compatible (RFC 4291 section 2.5.5.1).
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	at := func(i int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[i : i+4])), true }
	switch {
	case !a.Is6():
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a), netip.MustParsePrefix("64:ff9b:1::/48").Contains(a):
		return at(12)
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return at(2)
	case netip.MustParsePrefix("::/96").Contains(a) && !a.IsLoopback() && !a.IsUnspecified():
		return at(12)
	}
	return netip.Addr{}, false
}

// check is I9: the address is public, or inside a range that the config opens; never a metadata
// service, nor one of the addresses that the guard was told never to dial.
func (g *guard) check(ap netip.AddrPort) error {
	addr := ap.Addr()
	if addr.Zone() != "" {
		return fmt.Errorf("address with a zone: %w", errAddressRefused)
	}
	addr = addr.Unmap()
	ap = netip.AddrPortFrom(addr, ap.Port())
	switch {
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast():
		return fmt.Errorf("not a unicast address: %w", errAddressRefused)
	case slices.Contains(metadata, addr) || slices.ContainsFunc(linkLocal, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return fmt.Errorf("cloud metadata service: %w", errNeverDialled)
	case g.never != nil && g.never(ap):
		return fmt.Errorf("an address of Sidekey, Vault or the Kubernetes API: %w", errNeverDialled)
	}
	if v4, ok := embedded(addr); ok {
		if err := g.check(netip.AddrPortFrom(v4, ap.Port())); err != nil {
			return err
		}
	}
	within := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(special, within) && !slices.ContainsFunc(g.allow, within) {
		return fmt.Errorf("not a public address, and upstream.allow_cidrs does not open it: %w", errAddressRefused)
	}
	return nil
}

// dial resolves the host of address, checks every answer, and connects to the first that
// accepts. One refused answer refuses them all: a name that points at a public and at a private
// address is being used for something.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := g.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if err := g.check(netip.AddrPortFrom(a, uint16(port))); err != nil {
			return nil, err
		}
	}
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, ControlContext: g.control}
	var last error
	for _, a := range addrs {
		conn, err := d.DialContext(ctx, network, netip.AddrPortFrom(a, uint16(port)).String())
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

func (g *guard) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, ok := g.resolve[host]; ok {
		return []netip.Addr{a}, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := g.lookup(ctx, host+".") // absolute: no search list of resolv.conf is tried
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", host)
	}
	return addrs, err
}

// control runs on the address that the socket is about to connect to.
func (g *guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("unreadable address: %w", errAddressRefused)
	}
	return g.check(ap)
}
