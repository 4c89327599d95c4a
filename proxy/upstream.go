package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// UpstreamConfig says how upstreams are reached.
type UpstreamConfig struct {
	// Roots verify upstreams. Nil means the system's.
	Roots *x509.CertPool

	// AllowCIDRs opens address ranges that are not public. Cloud metadata services stay closed.
	AllowCIDRs []netip.Prefix

	// Resolve fixes the address of canonical host names, in place of DNS.
	Resolve map[string]netip.Addr

	// Never reports addresses that are not dialled even inside AllowCIDRs: Sidekey's own
	// listeners, Vault, the Kubernetes API. It gets unmapped, zone-less addresses. Nil means none.
	Never func(netip.AddrPort) bool
}

// NewTransport returns a transport with a connection pool of its own; give each credential one,
// so that connections that carried different credentials are never shared. It verifies every
// upstream by the host of the request's URL over TLS 1.2 or newer (I1), dials only guarded
// addresses (I9), follows no redirect, knows no proxy, decodes nothing, and speaks HTTP/2 where
// the upstream does. It is safe for concurrent use.
func NewTransport(cfg UpstreamConfig) *http.Transport {
	g := &guard{allow: cfg.AllowCIDRs, resolve: cfg.Resolve, never: cfg.Never, lookup: lookup}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Proxy:       nil,
		DialContext: g.dial,
		TLSClientConfig: &tls.Config{
			RootCAs: cfg.Roots,
			// ServerName stays empty: the transport sets it to the host of the URL, which the
			// pipeline builds from the matched target.
			MinVersion:         tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(256),
		},
		Protocols:              &protocols,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  10 * time.Minute, // a language model may think for minutes before its first byte
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        256,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:          64 << 10,
			MaxReceiveBufferPerStream: 128 << 10, // net/http's 4 MiB would be kept for each agent that does not read
			SendPingTimeout:           30 * time.Second,
			PingTimeout:               15 * time.Second,
		},
	}
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
