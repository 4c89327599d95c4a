package mitmca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/internal/mitmca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newCA(t testing.TB, cfg mitmca.Config) *mitmca.CA {
	t.Helper()
	ca, err := mitmca.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leaf(t testing.TB, ca *mitmca.CA, host string) *x509.Certificate {
	t.Helper()
	c, err := ca.Leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Certificate) != 1 || c.Leaf == nil {
		t.Fatalf("Leaf(%s): %d certificates, parsed %t; want the leaf alone, parsed", host, len(c.Certificate), c.Leaf != nil)
	}
	return c.Leaf
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func verify(ca *mitmca.CA, c *x509.Certificate, host string, now time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	_, err := c.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now})
	return err
}

func TestCAForm(t *testing.T) {
	now := newClock()
	c := newCA(t, mitmca.Config{Now: now.Now}).Certificate()
	if !regexp.MustCompile(`^CN=Sidekey CA [0-9a-f]{8}$`).MatchString(c.Subject.String()) {
		t.Errorf("subject %q", c.Subject)
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key %T, want ECDSA P-256", c.PublicKey)
	}
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign || len(c.ExtKeyUsage) != 0 {
		t.Errorf("IsCA %t, path length %d, usage %b %v", c.IsCA, c.MaxPathLen, c.KeyUsage, c.ExtKeyUsage)
	}
	if from, to := c.NotBefore.Sub(now.Now()), c.NotAfter.Sub(now.Now()); from != -5*time.Minute || to != 365*24*time.Hour {
		t.Errorf("valid from %v to %v", from, to)
	}
	critical := map[string]bool{}
	for _, e := range c.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	for _, oid := range []asn1.ObjectIdentifier{{2, 5, 29, 15}, {2, 5, 29, 19}, {2, 5, 29, 30}} { // key usage, basic and name constraints
		if !critical[oid.String()] {
			t.Errorf("extension %v is missing or not critical", oid)
		}
	}
}

func TestSerialsAndTagsDiffer(t *testing.T) {
	seen := map[string]bool{}
	add := func(what string) {
		if seen[what] {
			t.Errorf("%s twice", what)
		}
		seen[what] = true
	}
	for range 4 {
		ca := newCA(t, mitmca.Config{})
		add(ca.Certificate().Subject.CommonName)
		for i := range 8 {
			c := leaf(t, ca, fmt.Sprintf("h%d.test", i))
			if n := c.SerialNumber.BitLen(); n > 128 || n < 64 {
				t.Errorf("a serial number of %d bits", n)
			}
			add(c.SerialNumber.String())
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]mitmca.Config{
		"an address with a zone": {PermitIPs: addrs("fe80::1%eth0")},
		"the zero address":       {PermitIPs: []netip.Addr{{}}},
		"a negative bound":       {MaxLeaves: -1},
	} {
		if _, err := mitmca.New(cfg); err == nil {
			t.Errorf("New with %s: no error", name)
		}
	}
}

func TestLeafVerifies(t *testing.T) {
	ca := newCA(t, mitmca.Config{PermitIPs: addrs("192.0.2.7", "2001:db8::7", "::ffff:192.0.2.8")})
	long := strings.Repeat("a23456789.", 10) + "test"
	for _, host := range []string{"api.test", "localhost", "xn--mnchen-3ya.test", "a_b.test", "1.test", long, "192.0.2.7", "192.0.2.8", "2001:db8::7"} {
		c := leaf(t, ca, host)
		if err := verify(ca, c, host, time.Now()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if err := verify(ca, c, "other.test", time.Now()); err == nil {
			t.Errorf("%s: good for other.test too", host)
		}
		if n := len(c.DNSNames) + len(c.IPAddresses); n != 1 {
			t.Errorf("%s: %d names", host, n)
		}
		if cn := c.Subject.CommonName; cn != host && (cn != "" || len(host) <= 64) {
			t.Errorf("%s: common name %q", host, cn)
		}
		if c.IsCA || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
			t.Errorf("%s: IsCA %t, usage %v", host, c.IsCA, c.ExtKeyUsage)
		}
	}
}

func TestLeafRefuses(t *testing.T) {
	ca := newCA(t, mitmca.Config{PermitIPs: addrs("192.0.2.7", "2001:db8::7")})
	for _, host := range []string{
		"", ".", "API.test", "api.test.", ".test", "a..test", "*.test", "-a.test", "a-.test", "a b.test", "münchen.test",
		"a.test:443", "a/test", "a\x00.test", "a\n.test", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 127) + "aa",
		"192.0.2.8", "192.0.2.7:443", "[2001:db8::7]", "2001:DB8::7", "2001:db8:0::7", "2001:db8::8", "::ffff:192.0.2.7",
		"2001:db8::7%eth0", "192.0.2.07", "192.0.2", "3221225991", "0xc0000207", "0x7f.0.0.0x1", "127.1",
	} {
		if _, err := ca.Leaf(host); !errors.Is(err, mitmca.ErrName) {
			t.Errorf("Leaf(%.40q): %v, want ErrName", host, err)
		}
	}
	if n := ca.Cached(); n != 0 {
		t.Errorf("%d refused names are cached", n)
	}
}

// stolen makes what a thief of the CA's key could.
func stolen(t testing.TB, ca *mitmca.CA, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(template)
	der, err := ca.Sign(template)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A theft is a certificate that the constraints must, or must not, stop.
type theft struct {
	name   string
	permit []netip.Addr
	good   bool
	change func(*x509.Certificate)
}

func thefts(t testing.TB) []theft {
	u, err := url.Parse("spiffe://cluster.local/ns/x")
	if err != nil {
		t.Fatal(err)
	}
	ip := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(s)} }
	}
	v4, v6 := addrs("192.0.2.7"), addrs("2001:db8::7")
	return []theft{
		{"dns", nil, true, func(c *x509.Certificate) { c.DNSNames = []string{"any.example.com"} }},
		{"dns where IPs are permitted", v4, true, func(c *x509.Certificate) { c.DNSNames = []string{"any.example.com"} }},
		{"IPv4", nil, false, ip("192.0.2.7")},
		{"IPv6", nil, false, ip("2001:db8::7")},
		{"IPv4 permitted", v4, true, ip("192.0.2.7")},
		{"IPv6 permitted", v6, true, ip("2001:db8::7")},
		{"another IPv4", v4, false, ip("192.0.2.8")},
		{"another IPv6", v6, false, ip("2001:db8::8")},
		{"IPv6 where IPv4 is permitted", v4, false, ip("2001:db8::7")},
		{"IPv4 where IPv6 is permitted", v6, false, ip("192.0.2.7")},
		{"both permitted", append(v4, v6...), true, ip("2001:db8::7")},
		{"e-mail", nil, false, func(c *x509.Certificate) { c.EmailAddresses = []string{"root@example.com"} }},
		{"URI", nil, false, func(c *x509.Certificate) { c.URIs = []*url.URL{u} }},
	}
}

func TestNameConstraints(t *testing.T) {
	for _, tt := range thefts(t) {
		ca := newCA(t, mitmca.Config{PermitIPs: tt.permit})
		if err := verify(ca, stolen(t, ca, tt.change), "", time.Now()); (err == nil) != tt.good {
			t.Errorf("%s: %v, want good %t", tt.name, err, tt.good)
		}
	}
}

func TestNoFurtherCA(t *testing.T) {
	ca := newCA(t, mitmca.Config{})
	sub := stolen(t, ca, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.Subject.CommonName = "sub"
	})
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	key := ca.Keys()[1]
	der, err := x509.CreateCertificate(nil, template, sub, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	middle.AddCert(sub)
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle})
	if invalid := (x509.CertificateInvalidError{}); !errors.As(err, &invalid) || invalid.Reason != x509.TooManyIntermediates {
		t.Errorf("a CA below the pod's CA: %v, want too many intermediates", err)
	}
}
