package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
)

type connKey struct{}

// connOf returns the id of the connection, and the tunnel if it is an intercepted one.
func connOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connKey{}).(*connection)
	return c
}

// A connection is one of the agent's, or a tunnel on one.
type connection struct {
	id     string
	tunnel *policy.Authority // nil outside of tunnels

	begun  atomic.Int64 // requests of which bytes have come
	served atomic.Int64 // requests that were parsed
	asked  func()       // takes it out of Server.unasked; for connState alone
}

// connState sees what no handler does (I14): a connection that ends after bytes that were not a
// request, which net/http answers by itself, and a tunnel in which none came.
func (s *Server) connState(c net.Conn, state http.ConnState) {
	conn := s.connectionOf(c)
	if conn == nil {
		return
	}
	if state == http.StateNew {
		conn.asked = s.unaskedLike(conn).add(c)
		return
	}
	conn.asked()
	switch state {
	case http.StateActive:
		conn.begun.Add(1)
	case http.StateHijacked:
		s.forget(c)
	case http.StateClosed:
		defer s.forget(c)
		host := ""
		if conn.tunnel != nil {
			host = conn.tunnel.Host
		}
		switch served := conn.served.Load(); {
		case isHTTP2(c): // whose server counts otherwise
			if served == 0 {
				s.refuseConnection(conn.id, host, "idle_tunnel")
			}
		case conn.begun.Load() > served:
			s.refuseConnection(conn.id, host, "not_http")
		case conn.tunnel != nil && served == 0:
			s.refuseConnection(conn.id, host, "idle_tunnel")
		}
	}
}

// unaskedLike returns the set for conn, as long as no byte of a request has come on it.
func (s *Server) unaskedLike(conn *connection) *connSet {
	if conn.tunnel != nil {
		return &s.unaskedTunnels
	}
	return &s.unaskedConns
}

// connectionOf returns the connection that c, of one of the HTTP servers, is.
func (s *Server) connectionOf(c net.Conn) *connection {
	if t := tunnelOf(c); t != nil {
		return t.connection
	}
	if conn, ok := s.outerConns.Load(c); ok {
		return conn.(*connection)
	}
	return nil
}

func isHTTP2(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	return ok && t.ConnectionState().NegotiatedProtocol == "h2"
}

// forget ends what outerConnContext or innerConnContext began.
func (s *Server) forget(c net.Conn) {
	s.outerConns.Delete(c)
	s.conns.Done()
}

func (s *Server) newConnectionID() string {
	return "c" + strconv.FormatUint(s.connections.Add(1), 10)
}

func (s *Server) outerConnContext(ctx context.Context, c net.Conn) context.Context {
	conn := &connection{id: s.newConnectionID()}
	s.outerConns.Store(c, conn)
	s.conns.Add(1)
	return context.WithValue(ctx, connKey{}, conn)
}

// refuseConnection records a connection that carried no request.
func (s *Server) refuseConnection(id, host, reason string) {
	_, err := s.cfg.Trail.Append(audit.Record{Event: audit.ConnectionRefused, Conn: id, Host: host, Reason: reason})
	if err != nil {
		s.cfg.Log.Error().Str("reason", reason).Msg("a refused connection could not be recorded")
	}
}

// A loopbackListener drops connections that do not come from this pod's loopback (I15): with
// route_localnet set on a node, a loopback bind alone does not keep strangers away.
type loopbackListener struct {
	net.Listener
	refused func(id, host, reason string)
}

func (l *loopbackListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || isLoopback(c.RemoteAddr()) && isLoopback(c.LocalAddr()) {
			return c, err
		}
		l.refused("", "", "not_loopback")
		c.Close()
	}
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// A connSet holds connections that are not, or not yet, in the HTTP servers' care. Its zero value
// is empty.
type connSet struct {
	mu     sync.Mutex
	conns  map[io.Closer]struct{}
	closed bool
}

// add takes c in until remove is called. After closeAll it closes c at once.
func (s *connSet) add(c io.Closer) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
	}
	if s.conns == nil {
		s.conns = map[io.Closer]struct{}{}
	}
	s.conns[c] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}
}

// closeAll closes what is in the set and what comes into it. A TLS connection may take seconds to
// close, so all are closed at the same time.
func (s *connSet) closeAll() {
	s.mu.Lock()
	s.closed = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range conns {
		closing.Go(func() { c.Close() })
	}
	closing.Wait()
}
