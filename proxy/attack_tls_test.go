package proxy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// badCertificates are those of an upstream that nobody should send a credential to.
type badCertificates struct {
	ca      *x509.Certificate // trusted; with its own good certificate, good.cert.test is the control
	configs map[string]*tls.Config
}

func newBadCertificates(t testing.TB) *badCertificates {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	b := &badCertificates{configs: map[string]*tls.Config{}}
	b.ca = sign(t, authority("Trusted"), nil, key, key)
	stranger := sign(t, authority("Stranger"), nil, key, key)
	limited := authority("Limited")
	limited.PermittedDNSDomains, limited.PermittedDNSDomainsCritical = []string{"other.test"}, true
	intermediate := sign(t, limited, b.ca, key, key)
	leafAsCA := sign(t, leaf("leaf.cert.test"), b.ca, key, key)
	pathless := authority("Pathless")
	pathless.MaxPathLenZero = true
	noPath := sign(t, pathless, b.ca, key, key)
	belowNoPath := sign(t, authority("Below"), noPath, key, key)

	add := func(host string, template, parent *x509.Certificate, chain ...*x509.Certificate) *tls.Config {
		cert := sign(t, template, parent, key, key)
		c := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
		for _, up := range chain {
			c.Certificate = append(c.Certificate, up.Raw)
		}
		b.configs[host] = &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS10}
		return b.configs[host]
	}
	of := func(host string, change func(*x509.Certificate)) *x509.Certificate {
		c := leaf(host)
		change(c)
		return c
	}
	hour := time.Hour
	add("good.cert.test", leaf("good.cert.test"), b.ca)
	add("expired.cert.test", of("expired.cert.test", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-hour / 2) }), b.ca)
	add("early.cert.test", of("early.cert.test", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(hour / 2) }), b.ca)
	add("name.cert.test", leaf("other.cert.test"), b.ca)
	add("wildcard.cert.test", leaf("*.wildcard.cert.test"), b.ca)
	add("a.deep.cert.test", leaf("*.cert.test"), b.ca)
	add("self.cert.test", leaf("self.cert.test"), nil)
	add("stranger.cert.test", leaf("stranger.cert.test"), stranger, stranger)
	add("cn.cert.test", of("cn.cert.test", func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "cn.cert.test" }), b.ca)
	add("ip.cert.test", of("ip.cert.test", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{{127, 0, 0, 1}} }), b.ca)
	add("client.cert.test", of("client.cert.test", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), b.ca)
	add("limited.cert.test", leaf("limited.cert.test"), intermediate, intermediate)
	add("missing.cert.test", leaf("missing.cert.test"), noPath)
	add("leafca.cert.test", leaf("leafca.cert.test"), leafAsCA, leafAsCA)
	add("path.cert.test", leaf("path.cert.test"), belowNoPath, belowNoPath, noPath)
	add("tls10.cert.test", leaf("tls10.cert.test"), b.ca).MaxVersion = tls.VersionTLS10
	add("tls11.cert.test", leaf("tls11.cert.test"), b.ca).MaxVersion = tls.VersionTLS11
	add("alpn.cert.test", leaf("alpn.cert.test"), b.ca).NextProtos = []string{"imap"}
	mutual := add("mutual.cert.test", leaf("mutual.cert.test"), b.ca)
	mutual.ClientAuth, mutual.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
	rc4 := add("weak.cert.test", leaf("weak.cert.test"), b.ca)
	rc4.MaxVersion, rc4.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}
	return b
}

func (b *badCertificates) config(h *tls.ClientHelloInfo) (*tls.Config, error) {
	c, ok := b.configs[h.ServerName]
	if !ok {
		return nil, errors.New("no such host")
	}
	return c, nil
}

func leaf(host string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func authority(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// sign signs template by parent, or by itself if that is nil.
func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))(t)
	if parent == nil {
		parent = template
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey))(t)
	return must(x509.ParseCertificate(der))(t)
}

// 9.08: what one tunnel's TLS has established opens no other.
func TestTunnelsAreNotResumed(t *testing.T) {
	g := newGallery(t, nil)
	cache := tls.NewLRUClientSessionCache(8)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tunnel := range []string{g.vars["API"], g.vars["API"], g.vars["OPEN"]} {
			host, _, _ := net.SplitHostPort(tunnel)
			conn, err := g.tunnelTo(tunnel, &tls.Config{ServerName: host, RootCAs: g.roots, ClientSessionCache: cache, MaxVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			// A ticket of TLS 1.3 comes with the first answer.
			if got := exchangeRaw(t, conn, "GET /v1/x HTTP/1.1\r\nHost: "+tunnel+"\r\nConnection: close\r\n\r\n"); got[:3] != "200" {
				t.Errorf("%s: got %.20s", tunnel, got)
			}
			if conn.ConnectionState().DidResume {
				t.Errorf("%s: TLS %#x was resumed", tunnel, version)
			}
			conn.Close()
		}
	}
}
