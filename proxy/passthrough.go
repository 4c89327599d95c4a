package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sidekey/sidekey/policy"
)

const entranceTunnel = "tunnel" // passed through, uninspected

// passThrough carries a tunnel that the policy lets through uninspected, because its host pins
// certificates. It carries no credential: there is no way from here to one. The ClientHello is
// read whole before anything is dialled, and has to name the CONNECT authority: the tunnel may
// not lead to another site behind the same address. It owns client.
func (s *Server) passThrough(ctx context.Context, route *policy.Route, client net.Conn, ex *exchange) {
	defer client.Close()
	defer s.upgraded.add(client)()
	authority := *ex.conn.tunnel
	ex.rec.Entrance, ex.rec.Scheme, ex.rec.Route = entranceTunnel, "https", route.Name
	client.SetDeadline(time.Now().Add(handshakeTimeout))
	_, err := io.WriteString(client, connectionEstablished)
	var hello []byte
	if err == nil {
		hello, err = readClientHello(ctx, client, authority.Host)
	}
	if err != nil {
		s.refuseConnection(ex.conn.id, authority.Host, handshakeReason(err))
		return
	}
	live, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	defer s.follow(ex.gen, func(g *Generation) bool { return g.Policy.Tunnel(authority) != nil }, cut)()
	if live.Err() != nil { // a reload, while the ClientHello was on its way
		s.refuseConnection(ex.conn.id, authority.Host, errPolicyChanged.Error())
		return
	}
	if ex.recordIntent() != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(live, stop)()
	upstream, err := ex.gen.Dial(ctx, "tcp", authority.String())
	if err != nil {
		f := ex.upstreamFailure(live, err)
		ex.recordOutcome(f.status, f.reason)
		return
	}
	defer upstream.Close()
	defer s.upgraded.add(upstream)()
	client.SetDeadline(time.Time{})
	ex.attempts.Add(1)
	defer context.AfterFunc(live, func() { client.Close(); upstream.Close() })()

	stall := s.cfg.stallTimeout()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n, _ := io.Copy(idleGuard{upstream, stall}, io.MultiReader(bytes.NewReader(hello), idleGuard{client, stall}))
		ex.body.n.Add(n)
		upstream.Close()
	}()
	ex.sent, _ = io.Copy(idleGuard{client, stall}, idleGuard{upstream, stall})
	client.Close()
	upstream.Close()
	<-ended
	code := ""
	if cause := context.Cause(live); cause != nil {
		code = cause.Error()
	}
	ex.recordOutcome(http.StatusOK, code)
}

// An idleGuard gives each read and write its own deadline.
type idleGuard struct {
	net.Conn
	stall time.Duration // for a write
}

const tunnelIdle = 10 * time.Minute

func (g idleGuard) Read(p []byte) (int, error) {
	g.SetReadDeadline(time.Now().Add(tunnelIdle))
	return g.Conn.Read(p)
}

func (g idleGuard) Write(p []byte) (int, error) {
	g.SetWriteDeadline(time.Now().Add(g.stall))
	return g.Conn.Write(p)
}

var errHelloRead = errors.New("ClientHello read")

// readClientHello reads a whole ClientHello from client and returns its bytes. The error wraps
// errSNI if it does not name host, or hides what it names (encrypted ClientHello, RFC 9849).
func readClientHello(ctx context.Context, client net.Conn, host string) ([]byte, error) {
	const echExtension = 0xfe0d
	rec := &helloRecorder{Conn: client}
	var name string
	var hidden bool
	err := tls.Server(rec, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = strings.ToLower(h.ServerName)
		hidden = slices.Contains(h.Extensions, echExtension)
		return nil, errHelloRead
	}}).HandshakeContext(ctx)
	switch {
	case !errors.Is(err, errHelloRead):
		return nil, err
	case name != host || hidden:
		return nil, errSNI
	}
	return rec.read.Bytes(), nil
}

// A helloRecorder keeps what is read, up to a bound, and writes nothing: the alert that crypto/tls
// sends when it is told to stop is not the upstream's.
type helloRecorder struct {
	net.Conn
	read bytes.Buffer
}

func (r *helloRecorder) Read(p []byte) (int, error) {
	const most = 64 << 10
	if r.read.Len() > most {
		return 0, errors.New("ClientHello too long")
	}
	n, err := r.Conn.Read(p)
	r.read.Write(p[:n])
	return n, err
}

func (r *helloRecorder) Write(p []byte) (int, error) { return len(p), nil }
