package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
)

// serveConnect answers CONNECT (RFC 9110 section 9.3.6): it refuses what is malformed or comes
// while draining, and opens a tunnel, towards the agent only, for everything else.
func (s *Server) serveConnect(w http.ResponseWriter, r *http.Request) {
	ex := s.newExchange(w, r, entranceConnect)
	ex.gen.serving.leave() // a tunnel does not keep a generation: of it, it may only dial
	authority, err := policy.ParseAuthority(r.RequestURI)
	if err != nil {
		ex.refuse(&refusal{status: http.StatusBadRequest, reason: "bad_connect", detail: err.Error()})
		return
	}
	ex.rec.Host, ex.rec.Port = authority.Host, authority.Port
	f := s.refuseTunnel(ex, authority)
	if f == nil {
		f = s.gate.enter()
	}
	if f != nil {
		ex.refuse(f)
		return
	}
	defer s.gate.leave()
	ex.conn.tunnel = &authority
	s.front.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, ex)))
}

// exchangeKey is how the exchange of a CONNECT request gets through the front.
type exchangeKey struct{}

// refuseTunnel says why no tunnel can be opened to authority, or nil.
func (s *Server) refuseTunnel(ex *exchange, authority policy.Authority) *refusal {
	pol := ex.gen.Policy
	switch known := pol.KnowsAuthority("https", authority) || pol.Tunnel(authority) != nil; {
	case ex.r.ContentLength != 0 || len(ex.r.TransferEncoding) > 0:
		return &refusal{status: http.StatusBadRequest, reason: "bad_connect", detail: "a CONNECT request has no body"}
	case !known && s.cfg.RefuseEarly && pol.Mode() != policy.Report:
		return ex.denied("host_not_allowed", "role "+pol.Role()+" may not reach "+authority.String())
	}
	if pol.Tunnel(authority) != nil {
		return nil
	}
	if _, err := s.cfg.CA.Leaf(authority.Host); err != nil {
		// The CA is constrained to names and to the addresses that the policy lists.
		return ex.denied("host_not_allowed", "no certificate can be made for "+authority.Host)
	}
	return nil
}

const connectionEstablished = "HTTP/1.1 200 Connection established\r\n\r\n"

// startTunnel terminates the agent's TLS on client and hands the connection to the inner server,
// unless the policy lets this tunnel through as it is. It owns client.
func (s *Server) startTunnel(r *http.Request, client net.Conn) {
	ex := r.Context().Value(exchangeKey{}).(*exchange)
	conn := ex.conn
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), handshakeTimeout)
	defer cancel()
	if route := ex.gen.Policy.Tunnel(*conn.tunnel); route != nil {
		s.passThrough(ctx, route, client, ex)
		return
	}
	defer s.upgraded.add(client)()
	client.SetDeadline(time.Now().Add(handshakeTimeout))
	tlsConn := tls.Server(&tunnelConn{Conn: client, connection: &connection{id: conn.id, tunnel: conn.tunnel}}, s.tls)
	_, err := io.WriteString(client, connectionEstablished)
	if err == nil {
		err = tlsConn.HandshakeContext(ctx)
	}
	if err != nil {
		s.refuseConnection(conn.id, conn.tunnel.Host, handshakeReason(err))
		client.Close()
		return
	}
	client.SetDeadline(time.Time{})
	if !s.tunnels.push(tlsConn) {
		s.refuseConnection(conn.id, conn.tunnel.Host, "draining")
		client.Close()
	}
}

var errSNI = errors.New("SNI differs from the CONNECT authority")

// handshakeReason puts a failed handshake in one of a few words. What Go's error says can hold
// bytes of the agent.
func handshakeReason(err error) string {
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, errSNI):
		return "sni_mismatch"
	case errors.As(err, &record):
		return "not_tls"
	case errors.Is(err, context.DeadlineExceeded):
		return "handshake_timeout"
	case errors.Is(err, io.EOF):
		return "handshake_abandoned"
	default:
		return "handshake_failed"
	}
}

// A tunnelConn is the agent's side of a tunnel, below TLS.
type tunnelConn struct {
	net.Conn
	*connection
}

// tlsConfig is the configuration of every tunnel. The certificate is the one of the CONNECT
// authority, whatever the ClientHello says; a ClientHello that says something else is refused
// (I2). No session tickets: a ticket from one tunnel must not open another.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			tunnel, ok := hello.Conn.(*tunnelConn)
			if !ok {
				return nil, errors.New("not a tunnel")
			}
			host := tunnel.tunnel.Host
			if hello.ServerName != "" && strings.ToLower(hello.ServerName) != host {
				return nil, errSNI
			}
			return s.cfg.CA.Leaf(host)
		},
	}
}

func (s *Server) innerConnContext(ctx context.Context, c net.Conn) context.Context {
	s.conns.Add(1)
	if tunnel := tunnelOf(c); tunnel != nil {
		return context.WithValue(ctx, connKey{}, tunnel.connection)
	}
	return ctx
}

// tunnelOf returns the tunnel that c is the inside of, or nil.
func tunnelOf(c net.Conn) *tunnelConn {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	tunnel, _ := t.NetConn().(*tunnelConn)
	return tunnel
}

// A tunnelListener is how tunnels reach the inner server.
type tunnelListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newTunnelListener() *tunnelListener {
	return &tunnelListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// push hands c to Accept and reports whether somebody took it.
func (l *tunnelListener) push(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

func (l *tunnelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *tunnelListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *tunnelListener) Addr() net.Addr { return tunnelAddr{} }

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "tunnel" }
func (tunnelAddr) String() string  { return "tunnel" }

// denied makes the refusal of something that the policy does not allow.
func (ex *exchange) denied(reason policy.Reason, detail string) *refusal {
	ex.rec.Event = audit.RequestDenied
	return &refusal{status: http.StatusForbidden, reason: string(reason), detail: detail}
}
