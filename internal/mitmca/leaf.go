package mitmca

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	leafLife  = 24 * time.Hour // all of it, skew included
	leafRenew = time.Hour      // a cached leaf with less left is replaced
)

// ErrName means that the CA does not vouch for a name: it is not a canonical DNS name, or an IP
// address that is not permitted.
var ErrName = errors.New("name not permitted")

// Leaf returns a certificate for host with its key. host is a DNS name in ASCII lower case
// without a final dot, or an IP address as [netip.Addr.String] writes it, without brackets. The
// certificate names host alone, is for servers only, and has at least an hour left unless the CA
// itself has less.
//
// Leaves are cached; concurrent calls for one host share one certificate. The caller must not
// change it. The error wraps [ErrName] if host is not one of those names.
func (ca *CA) Leaf(host string) (*tls.Certificate, error) {
	addr, err := ca.parseHost(host)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	now := ca.now()
	if now.After(ca.cert.NotAfter) {
		return nil, errors.New("issue a certificate: the CA has expired")
	}
	l := ca.leaves.get(host, now, func() *leaf { return ca.newLeaf(now) })
	l.once.Do(func() { l.cert, l.err = ca.mint(host, addr, l) })
	if l.err != nil {
		ca.leaves.drop(host, l)
		return nil, fmt.Errorf("issue a certificate: %v", l.err)
	}
	return l.cert, nil
}

// newLeaf fixes the life of a leaf that is still to be minted.
func (ca *CA) newLeaf(now time.Time) *leaf {
	l := &leaf{from: now.Add(-skew)}
	if l.from.Before(ca.cert.NotBefore) {
		l.from = ca.cert.NotBefore
	}
	l.until = l.from.Add(leafLife)
	l.renew = l.until.Add(-leafRenew)
	if !l.until.Before(ca.cert.NotAfter) {
		// Another leaf would not last longer than this one.
		l.until, l.renew = ca.cert.NotAfter, ca.cert.NotAfter
	}
	return l
}

func (ca *CA) mint(host string, addr netip.Addr, l *leaf) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             l.from,
		NotAfter:              l.until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if addr.IsValid() {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{host}
	}
	if len(host) <= 64 { // ub-common-name, RFC 5280 appendix A.1
		template.Subject = pkix.Name{CommonName: host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, ca.leafKey.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.leafKey, Leaf: parsed}, nil
}

// parseHost returns the address that host is, or the zero Addr for a DNS name.
func (ca *CA) parseHost(host string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if !isDNSName(host) {
			return netip.Addr{}, fmt.Errorf("%.80q is no DNS name in lower case: %w", host, ErrName)
		}
		return netip.Addr{}, nil
	}
	if _, ok := slices.BinarySearchFunc(ca.permit, addr, netip.Addr.Compare); !ok || addr.String() != host {
		return netip.Addr{}, fmt.Errorf("%.80q is no IP address that the policy lists: %w", host, ErrName)
	}
	return addr, nil
}

// isDNSName reports whether s is a host name in lower case. Underscores pass, as they do in
// browsers and crypto/x509. A name whose last label is a number does not: some clients take it
// for an IPv4 address.
func isDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	var label string
	for label = range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(label, "0123456789") != "" && !isHexNumber(label)
}

// isHexNumber reports whether label reads as 0x7f does in inet_aton.
func isHexNumber(label string) bool {
	digits, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(digits, "0123456789abcdef") == ""
}
