package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
)

// errNoCertificateAsked is in the error of a dial whose upstream let anybody in: what would be sent
// there carries no credential (I13).
var errNoCertificateAsked = errors.New("the upstream asked for no client certificate")

// certified are the connection pools of a credential that is a client certificate: one for each
// issuance, since a connection shows its certificate once, when it is made, and must not carry a
// request of another issuance. The pool of the latest issuance is kept, until that expires; any
// other as long as a request uses it. The zero value has none.
type certified struct {
	mu     sync.Mutex
	pools  map[string]*certifiedPool // by the issuance's id
	latest *certifiedPool            // the one to keep; nil if there is none
}

// A certifiedPool is a transport whose every connection shows the certificate of one issuance. Its
// fields, but for the first three, are guarded by certified.mu.
type certifiedPool struct {
	*http.Transport
	issuance string
	issuedAt time.Time
	uses     int
	expiry   *time.Timer
}

// transport returns what sends requests with iss, and what is to be called when the answer has
// ended.
func (b *Binding) transport(iss *credential.Issuance) (rt http.RoundTripper, done func(), err error) {
	bearer, ok := b.Injector.(inject.CertificateBearer)
	if !ok {
		return b.Transport, func() {}, nil
	}
	base, ok := b.Transport.(*http.Transport)
	if !ok {
		return nil, nil, errors.New("its transport cannot show a certificate")
	}
	c := &b.certified
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[iss.ID]
	if p == nil {
		cert, err := bearer.Certificate(iss)
		if err != nil {
			return nil, nil, err
		}
		p = c.add(base, cert, iss)
	}
	p.uses++
	return p, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.uses--
		c.retire(p)
	}), nil
}

// add makes the pool of iss. c.mu is held.
func (c *certified) add(base *http.Transport, cert *tls.Certificate, iss *credential.Issuance) *certifiedPool {
	p := &certifiedPool{Transport: base.Clone(), issuance: iss.ID, issuedAt: iss.IssuedAt}
	p.DialTLSContext = dialCertified(base, cert)
	if c.pools == nil {
		c.pools = map[string]*certifiedPool{}
	}
	c.pools[iss.ID] = p
	if former := c.latest; former == nil || !p.issuedAt.Before(former.issuedAt) {
		c.latest = p
		c.retire(former)
	}
	p.expiry = time.AfterFunc(time.Until(iss.ExpiresAt), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(p)
	})
	return p
}

// forget has p kept no longer than it is used. c.mu is held.
func (c *certified) forget(p *certifiedPool) {
	if c.latest == p {
		c.latest = nil
	}
	c.retire(p)
}

// retire drops p, or what of it is idle if it is still used, unless it is to be kept. c.mu is held.
func (c *certified) retire(p *certifiedPool) {
	if p == nil || p == c.latest {
		return
	}
	p.CloseIdleConnections() // also what becomes idle later, up to the next request
	if p.uses == 0 {
		p.expiry.Stop()
		delete(c.pools, p.issuance)
	}
}

// close drops the pools, those in use when they are not any more.
func (c *certified) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		c.forget(p)
	}
}

// CloseIdleConnections drops the connections that show client certificates, those in use when they
// are not any more. It is for a binding that no generation has any more.
func (b *Binding) CloseIdleConnections() { b.certified.close() }

// closeCertified drops the pools of client certificates.
func (s *Server) closeCertified() {
	for _, b := range s.generation.Load().Bindings {
		b.certified.close()
	}
}

// dialCertified returns a DialTLSContext that dials and verifies upstreams as base does, and shows
// them cert. Nothing of an earlier connection is resumed: a ticket speaks for the certificate that
// was shown when it was given out.
func dialCertified(base *http.Transport, cert *tls.Certificate) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		conn, err := base.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		asked := false
		cfg := base.TLSClientConfig.Clone()
		cfg.ServerName, cfg.ClientSessionCache, cfg.NextProtos = host, nil, []string{"h2", "http/1.1"}
		// Unlike Certificates, this is shown whatever the upstream says it would like.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return cert, nil
		}
		ctx, cancel := context.WithTimeout(ctx, base.TLSHandshakeTimeout)
		defer cancel()
		tlsConn := tls.Client(conn, cfg)
		err = tlsConn.HandshakeContext(ctx)
		if err == nil && !asked {
			err = errNoCertificateAsked
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return tlsConn, nil
	}
}
