package proxy

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/policy"
)

// A Trail keeps audit records. Append returns after the record is durable enough to outlive the
// process; its error stops the request. Post is for what nothing depends on: it does not wait, the
// record is in the trail before any that is appended later, and an error says that it was not taken.
// Both are safe for concurrent use.
type Trail interface {
	Append(audit.Record) (audit.Ref, error)
	Post(audit.Record) error
}

// An Authority mints the certificates that the agent sees. Leaf is safe for concurrent use; host
// is a canonical DNS name or IP address.
type Authority interface {
	Leaf(host string) (*tls.Certificate, error)
}

// A CredentialCache hands out a credential that is valid now. The caller calls release when the
// request that carries it has ended. Reissue is for a request whose upstream refused what it
// carried: it hands out another issuance, which it obtains if need be, or fails. Both are safe for
// concurrent use.
type CredentialCache interface {
	Acquire(ctx context.Context) (iss *credential.Issuance, release func(), err error)
	Reissue(ctx context.Context, refused *credential.Issuance) (iss *credential.Issuance, release func(), err error)
}

// A Binding is what a credential's name in the policy stands for.
type Binding struct {
	Credential CredentialCache
	Injector   inject.Injector

	// Transport is used by no other credential. If Injector is an [inject.CertificateBearer] it is
	// one of [NewTransport] and sends nothing itself: each issuance gets a transport like it, which
	// shows the certificate.
	Transport http.RoundTripper

	certified certified
}

// A Generation is a policy together with what its names stand for. It does not change, and is for
// one server; bindings and transports may be shared with other generations of that server.
type Generation struct {
	// Number is what records call the generation. It was made known to the trail.
	Number uint64

	Policy *policy.Policy

	// Bindings has an entry for each credential of the policy.
	Bindings map[string]*Binding

	// Plain sends the requests that carry no credential.
	Plain http.RoundTripper

	// Dial connects the tunnels that are passed through; it guards addresses as Plain does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	conditioned bool  // some route has conditions
	bodyBound   int64 // bytes of a body that conditions may read
	serving     serving
}

// Config says what a [Server] stands between. Listener, CA, Generation and Trail are required.
type Config struct {
	// Listener accepts the agent's connections; its address must be a loopback address.
	Listener net.Listener

	// CA mints leaves for intercepted tunnels.
	CA Authority

	// Generation is what requests are decided on and served with.
	Generation *Generation

	// Session is what conditions of the policy know of the session.
	Session policy.Session

	// Trail keeps the audit records.
	Trail Trail

	// RefuseEarly refuses a host that the policy does not name at CONNECT, where most clients
	// show their user a bare 403. Otherwise the tunnel is opened towards the agent only and the
	// refusal is served inside it, where it can be read.
	RefuseEarly bool

	// DrainGrace is how long requests in flight may go on after Run's context has ended. Zero
	// means 20 s.
	DrainGrace time.Duration

	// MaxConnections bounds the agent's connections. Zero means 1024.
	MaxConnections int

	// MaxRequests bounds the requests in flight and the tunnels that are being set up, taken
	// together: a tunnel gives its place back a moment after its first request can come. Zero
	// means 1024.
	MaxRequests int

	// StallTimeout bounds one write towards the agent, and how long an upstream may leave a body
	// that the agent sends unread. Inside of TLS an agent that reads nothing at all is given up 5 s
	// later: crypto/tls tries that long to say goodbye. Zero means 2 minutes.
	StallTimeout time.Duration

	// Log receives operational messages, never bytes of requests. The zero value discards.
	Log zerolog.Logger
}

func (c Config) drainGrace() time.Duration   { return cmp.Or(c.DrainGrace, 20*time.Second) }
func (c Config) stallTimeout() time.Duration { return cmp.Or(c.StallTimeout, 2*time.Minute) }
func (c Config) maxConnections() int         { return cmp.Or(c.MaxConnections, 1024) }
func (c Config) maxRequests() int            { return cmp.Or(c.MaxRequests, 1024) }

const (
	maxHeaderBytes    = 64 << 10
	readHeaderTimeout = 10 * time.Second
	handshakeTimeout  = 10 * time.Second
	idleTimeout       = 90 * time.Second
	maxStreams        = 100
	maxTurnedAway     = 256
)

// A Server is the proxy. Make one with [New]; it serves once, by [Server.Run].
type Server struct {
	cfg        Config
	generation atomic.Pointer[Generation]
	front      http.Handler // CONNECT; see connect.go
	outer      *http.Server // absolute-form requests and CONNECT
	inner      *http.Server // what comes out of intercepted tunnels
	tunnels    *tunnelListener
	tls        *tls.Config

	connections    atomic.Uint64
	gate           *gate  // requests in flight and tunnels being set up
	turnedAway     *gate  // those that are being told that the gate let them not in
	valve          *valve // credentials on their way out
	reissues       reissues
	limiter        limiter
	underWay       underWay
	held           atomic.Int64  // bytes of bodies that are kept
	checks         chan struct{} // bodies whose JSON is being looked at
	unaskedConns   connSet       // of the listener, without a byte of a request yet
	unaskedTunnels connSet       // the same inside of tunnels
	upgraded       connSet       // WebSockets, tunnels that are passed through, handshakes
	known          knownSecrets
	outerConns     sync.Map       // net.Conn -> *connection, of the listener
	conns          sync.WaitGroup // connections whose end has not been looked at
	pathMACs       sync.Pool      // of hash.Hash: the HMAC that stands for paths in the trail, with a key of its own
}

// New checks cfg and returns a server that is ready to run.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Listener == nil || cfg.CA == nil || cfg.Generation == nil || cfg.Trail == nil:
		return nil, errors.New("listener, CA, generation and trail are required")
	case !isLoopback(cfg.Listener.Addr()):
		return nil, fmt.Errorf("listen address %s is not a loopback address", cfg.Listener.Addr())
	}
	if err := cfg.Generation.prepare(); err != nil {
		return nil, err
	}
	cfg.Generation.serving.begin()
	s := &Server{cfg: cfg, tunnels: newTunnelListener(), gate: newGate(cfg.maxRequests()), turnedAway: newGate(maxTurnedAway), valve: newValve(), checks: newCheckSlots()}
	var pathKey [32]byte
	rand.Read(pathKey[:])
	s.pathMACs.New = func() any { return hmac.New(sha256.New, pathKey[:]) }
	s.generation.Store(cfg.Generation)
	s.front = newFront(s.startTunnel)
	s.tls = s.tlsConfig()
	s.outer = s.httpServer(http.HandlerFunc(s.serveOuter), s.outerConnContext)
	s.inner = s.httpServer(http.HandlerFunc(s.serveInner), s.innerConnContext)
	s.inner.TLSConfig = s.tls
	return s, nil
}

// prepare checks g and fills in what it does not export.
func (g *Generation) prepare() error {
	if g.Policy == nil || g.Plain == nil || g.Dial == nil {
		return errors.New("a generation needs a policy, a transport and a dialer")
	}
	for _, c := range g.Policy.Credentials() {
		b := g.Bindings[c.Name]
		if b == nil || b.Credential == nil || b.Injector == nil || b.Transport == nil {
			return fmt.Errorf("credential %q is not bound", c.Name)
		}
		if _, ok := b.Injector.(inject.CertificateBearer); ok {
			if t, ok := b.Transport.(*http.Transport); !ok || t.DialContext == nil || t.TLSClientConfig == nil {
				return fmt.Errorf("credential %q is a client certificate, which its transport cannot show", c.Name)
			}
		}
	}
	g.conditioned, g.bodyBound = conditioned(g.Policy), g.Policy.BodyBound()
	return nil
}

func (s *Server) httpServer(h http.Handler, cc func(context.Context, net.Conn) context.Context) *http.Server {
	return &http.Server{
		Handler:                      h,
		ConnContext:                  cc,
		ConnState:                    s.connState,
		MaxHeaderBytes:               maxHeaderBytes,
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  idleTimeout,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is to be decided and recorded like all others
		ErrorLog:                     log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              64 << 10,
			MaxReceiveBufferPerConnection: 128 << 10, // net/http's 1 MiB would be kept for each upstream that does not read
			MaxReceiveBufferPerStream:     128 << 10,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              s.cfg.stallTimeout(),
		},
	}
}

// Run serves until ctx ends, then drains: new tunnels and requests are refused, idle
// connections closed, and requests in flight get the grace period. It returns when no goroutine
// of the server is left; the error is nil unless serving itself failed.
func (s *Server) Run(ctx context.Context) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // of every request
	cut := func() { cancel(errDrainOver) }
	defer cut()
	s.inner.BaseContext = func(net.Listener) context.Context { return base }
	s.outer.BaseContext = s.inner.BaseContext
	failed := make(chan error, 2)
	var serving sync.WaitGroup
	serve := func(srv *http.Server, ln net.Listener) {
		serving.Go(func() {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	serve(s.inner, s.tunnels)
	serve(s.outer, netutil.LimitListener(&loopbackListener{s.cfg.Listener, s.refuseConnection}, s.cfg.maxConnections()))

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.drain(context.WithoutCancel(ctx), cut)
	serving.Wait()
	s.conns.Wait()
	s.reissues.close()
	s.closeCertified()
	return err
}

// drain lets requests in flight finish within the grace period and then cuts off the rest: cut ends
// their contexts, which a server whose request body is unread does not do when it closes.
func (s *Server) drain(ctx context.Context, cut func()) {
	empty := s.gate.close()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.drainGrace())
	defer cancel()
	s.upgraded.closeAll()       // neither a WebSocket nor a handshake has an end to wait for
	s.unaskedTunnels.closeAll() // http.Server.Shutdown would wait for a request on them for 5 s

	done := make(chan struct{})
	go func() {
		defer close(done)
		s.inner.Shutdown(ctx) // idle tunnels close; HTTP/2 connections get GOAWAY
		<-empty
	}()
	select {
	case <-done:
		s.unaskedConns.closeAll() // only now: tunnels are connections of the listener, too
		s.outer.Shutdown(ctx)
	case <-ctx.Done():
		s.cfg.Log.Warn().Msg("requests in flight were cut off at the end of the grace period")
	}
	cut()
	s.inner.Close()
	s.outer.Close()
	<-done
}

// serveOuter serves the listener: CONNECT and absolute-form requests.
func (s *Server) serveOuter(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		s.serveConnect(w, r)
		return
	}
	s.serve(w, r, entranceHTTP)
}

// serveInner serves what comes out of intercepted tunnels.
func (s *Server) serveInner(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 {
		s.serve(w, r, entranceConnectH2)
		return
	}
	s.serve(w, r, entranceConnectH1)
}
