// Package mitmca is the certification authority of one pod. It issues the certificates with
// which the proxy answers inside intercepted tunnels.
//
// The key exists only in the memory of the process. The certificate is constrained, critically,
// to DNS names and the IP addresses listed in [Config]: it cannot vouch for any other address,
// nor for e-mail addresses or URIs, and for no further CA.
//
// Agents are given the CA's certificate as a trust anchor, so leaves are served without it.
package mitmca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	// skew is how far an agent's clock may lag behind.
	skew = 5 * time.Minute

	// caLife outlives any pod that is looked after, and no more: the bundle that an agent read at
	// its start cannot be renewed.
	caLife = 365 * 24 * time.Hour

	// nowhere is a domain that never exists (RFC 6761 section 6.4).
	nowhere = "sidekey.invalid"
)

// Config says what a [CA] may vouch for. The zero value is usable.
type Config struct {
	// PermitIPs are the only IP addresses that leaves may be issued for. Nil means none. An
	// address must have no zone; IPv4-mapped IPv6 addresses count as IPv4.
	PermitIPs []netip.Addr

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	// MaxLeaves bounds the cache of leaves; the least recently used goes. Zero means 1024.
	MaxLeaves int
}

// A CA issues leaves. It is safe for concurrent use.
type CA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	leafKey *ecdsa.PrivateKey // one for all leaves: whoever had one would have this process
	permit  []netip.Addr
	now     func() time.Time
	leaves  *cache
}

// New makes a CA with a key of its own, valid from 5 minutes ago for 365 days. The error says
// what is wrong with cfg, or that there is no randomness.
func New(cfg Config) (*CA, error) {
	permit, err := canonicalAddrs(cfg.PermitIPs)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %v", err)
	}
	if cfg.MaxLeaves < 0 {
		return nil, fmt.Errorf("make the CA: cannot keep %d leaves", cfg.MaxLeaves)
	}
	ca := &CA{permit: permit, now: cfg.Now, leaves: newCache(cfg.MaxLeaves)}
	if ca.now == nil {
		ca.now = time.Now
	}
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make the CA's key: %v", err)
	}
	if ca.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make the leaves' key: %v", err)
	}
	if ca.cert, err = selfSign(ca.key, permit, ca.now()); err != nil {
		return nil, fmt.Errorf("make the CA's certificate: %v", err)
	}
	return ca, nil
}

// Certificate returns the CA's certificate. The caller must not change it.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// CertificatePEM returns the CA's certificate as one PEM block, ending in a newline.
func (ca *CA) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

func canonicalAddrs(addrs []netip.Addr) ([]netip.Addr, error) {
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || a.Zone() != "" {
			return nil, fmt.Errorf("cannot permit the IP address %q", a)
		}
		out = append(out, a.Unmap())
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func selfSign(key *ecdsa.PrivateKey, permit []netip.Addr, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	var tag [4]byte
	if _, err := rand.Read(tag[:]); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Sidekey CA %x", tag)},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	constrain(template, permit)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// constrain sets the name constraints of RFC 5280 section 4.2.1.10. A name is checked only
// against constraints of its own kind, so each kind but DNS needs one.
func constrain(c *x509.Certificate, permit []netip.Addr) {
	c.PermittedDNSDomainsCritical = true // despite its name, of the whole extension
	var v4, v6 bool
	for _, a := range permit {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
		c.PermittedIPRanges = append(c.PermittedIPRanges, &net.IPNet{
			IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen()),
		})
	}
	if !v4 {
		c.ExcludedIPRanges = append(c.ExcludedIPRanges, &net.IPNet{IP: make(net.IP, 4), Mask: make(net.IPMask, 4)})
	}
	if !v6 {
		c.ExcludedIPRanges = append(c.ExcludedIPRanges, &net.IPNet{IP: make(net.IP, 16), Mask: make(net.IPMask, 16)})
	}
	// To exclude every e-mail address or URI has no form that all implementations read alike; to
	// permit only a domain that cannot exist has.
	c.PermittedEmailAddresses = []string{nowhere}
	c.PermittedURIDomains = []string{nowhere}
}

// newSerial returns 128 random bits, as a number that is positive (RFC 5280 section 4.1.2.2).
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(b[:])
	if n.Sign() == 0 {
		return nil, errors.New("random serial number is zero")
	}
	return n, nil
}
