package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/policy"
)

// The entrances, as they stand in the trail.
const (
	entranceHTTP      = "http"       // absolute-form on the listener
	entranceConnect   = "connect"    // the CONNECT request itself
	entranceConnectH1 = "connect-h1" // HTTP/1.1 inside an intercepted tunnel
	entranceConnectH2 = "connect-h2" // HTTP/2 inside an intercepted tunnel
)

// An exchange is one request of the agent on its way through the pipeline.
type exchange struct {
	s    *Server
	gen  *Generation // the one generation that decides and serves this request (I8)
	conn *connection
	w    http.ResponseWriter
	r    *http.Request

	target  policy.Target
	binding *Binding // nil: the request carries no credential
	iss     *credential.Issuance
	secrets *secrets // what the answer must not hold; nil: the request carries no credential
	hasBody bool     // an answer to the agent has one, which may be buffered
	upgrade bool     // the agent asks for a WebSocket

	rec      audit.Record // what the record of the request will say
	intent   audit.Ref    // zero until the intent is recorded
	started  time.Time
	body     countingBody // the request's
	attempts atomic.Int64
	sent     int64 // body bytes to the agent
}

// serve is the life of a request, whichever way it came in.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, entrance string) {
	ex := s.newExchange(w, r, entrance)
	if f := s.gate.enter(); f != nil {
		ex.turnAway(f)
		return
	}
	defer s.gate.leave()
	defer ex.recover()
	if f := ex.run(); f != nil {
		ex.refuse(f)
	}
	ex.hasBody = ex.hasBody || ex.sent > 0
	ex.finish()
}

// turnAway refuses a request that the gate did not let in. An agent that does not read must not
// keep any number of them waiting to be told: beyond a bound the stream, or connection, just ends.
func (ex *exchange) turnAway(f *refusal) {
	grpc := isGRPC(ex.r.Header)
	clear(ex.r.Header) // so that one that waits is small
	if grpc {
		ex.r.Header.Set("Content-Type", "application/grpc") // says in which form to refuse
	}
	if ex.s.turnedAway.enter() != nil {
		ex.record(f)
		panic(http.ErrAbortHandler)
	}
	defer ex.s.turnedAway.leave()
	ex.refuse(f)
	ex.finish()
}

// finish sends what is buffered of an HTTP/2 answer's body. Left to net/http that would happen after
// the gate was left, and an agent that does not read would keep any number of requests. A head
// without a body is left to it, since it may be all there is (gRPC's trailers-only); the request's
// own head, which can be large, goes before.
func (ex *exchange) finish() {
	if ex.r.ProtoMajor != 2 {
		return
	}
	if ex.hasBody {
		boundLastFlush(http.NewResponseController(ex.w), ex.r, ex.s.cfg.stallTimeout())
		http.NewResponseController(ex.w).Flush()
	}
	clear(ex.r.Header)
}

func (s *Server) newExchange(w http.ResponseWriter, r *http.Request, entrance string) *exchange {
	ex := &exchange{s: s, gen: s.generation.Load(), conn: connOf(r.Context()), w: w, r: r, started: time.Now()}
	ex.conn.served.Add(1)
	ex.rec = audit.Record{Conn: ex.conn.id, Entrance: entrance, Method: r.Method}
	return ex
}

// run takes the request through the pipeline: parse, match, credential, inject, record, forward,
// respond. Whatever stops it on the way is returned as a refusal; nothing was sent then, unless
// the intent had been recorded.
func (ex *exchange) run() *refusal {
	if f := ex.parse(); f != nil {
		return f
	}
	if f := ex.decide(); f != nil {
		return f
	}
	ctx, cancel := context.WithCancel(ex.r.Context())
	defer cancel()
	out, f := ex.outbound(ctx, cancel)
	if f != nil {
		return f
	}
	release, f := ex.credential(ctx)
	if f != nil {
		return f
	}
	defer release()
	if f := ex.inject(out); f != nil {
		return f
	}
	if f := ex.recordIntent(); f != nil {
		return f
	}
	resp, f := ex.forward(out)
	if f != nil {
		return f
	}
	defer resp.Body.Close()
	// Once an HTTP/2 upstream has answered, only closing its body wakes an upload that waits for it.
	defer context.AfterFunc(ctx, func() { resp.Body.Close() })()
	return ex.respond(resp)
}

// parse puts the request's target in canonical form (I2, I4). In a tunnel the authority is the
// one of its CONNECT, and the request must name no other.
func (ex *exchange) parse() *refusal {
	bad := func(detail string) *refusal {
		return &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: detail}
	}
	r := ex.r
	if !policy.ValidMethod(r.Method) {
		return bad("this method is never proxied")
	}
	if _, ok := r.Header["Host"]; ok { // HTTP/2 with a host field beside :authority
		return bad("host header beside :authority")
	}
	var err error
	if ex.conn.tunnel == nil {
		switch {
		case strings.HasPrefix(r.RequestURI, "https://"):
			return &refusal{status: http.StatusBadRequest, reason: "use_connect", detail: "an https URL was sent in absolute form; set HTTPS_PROXY, so that the client opens a tunnel"}
		case strings.HasPrefix(r.RequestURI, "/"):
			return &refusal{status: http.StatusBadRequest, reason: "not_a_proxy_request", detail: "use this address as HTTP_PROXY and HTTPS_PROXY"}
		}
		ex.target, err = policy.ParseURL(r.RequestURI)
	} else {
		var named policy.Authority
		if named, err = parseHost(r.Host); err == nil && named != *ex.conn.tunnel {
			ex.rec.Host, ex.rec.Port = ex.conn.tunnel.Host, ex.conn.tunnel.Port
			return &refusal{
				status: http.StatusMisdirectedRequest, reason: "host_mismatch",
				detail: "the tunnel leads to " + ex.conn.tunnel.String() + " and the request is for " + named.String(),
			}
		}
		if err == nil {
			ex.target, err = policy.ParseTarget("https", *ex.conn.tunnel, r.RequestURI)
		}
		ex.rec.Host, ex.rec.Port = ex.conn.tunnel.Host, ex.conn.tunnel.Port
	}
	if err != nil {
		return bad(err.Error()) // the policy's own text; it quotes a little of what the agent sent
	}
	ex.rec.Scheme, ex.rec.Host, ex.rec.Port = ex.target.Scheme, ex.target.Host, ex.target.Port
	return ex.parseHeader()
}

// parseHost parses a Host or :authority field, in which port 443 may be left out.
func parseHost(host string) (policy.Authority, error) {
	if i := strings.LastIndexByte(host, ':'); i < 0 || strings.HasSuffix(host, "]") {
		host += ":443"
	}
	return policy.ParseAuthority(host)
}

// decide asks the policy. In report mode a denied request goes on, without any credential.
func (ex *exchange) decide() *refusal {
	req := policy.Request{Method: ex.r.Method, Target: ex.target, WebSocket: ex.upgrade}
	pol := ex.gen.Policy
	d := pol.Decide(req)
	if d.Allow {
		ex.rec.Route, ex.rec.Path = d.Route.Name, d.Path
		if d.Route.Credential == "" {
			return nil
		}
		ex.rec.Credential = d.Route.Credential
		ex.binding = ex.gen.Bindings[d.Route.Credential]
		return nil
	}
	ex.rec.Path = ex.target.Path
	if pol.Mode() == policy.Report {
		ex.rec.WouldDeny = string(d.Reason)
		return nil
	}
	if d.Reason == policy.EncodedSlashNotAllowed || d.Reason == policy.EncodedPercentNotAllowed {
		return &refusal{status: http.StatusBadRequest, reason: string(d.Reason), detail: "the route for this path does not accept such an encoding", route: ex.rec.Route}
	}
	f := ex.denied(d.Reason, "role "+pol.Role()+" may not "+ex.r.Method+" "+ex.target.Scheme+"://"+hostField(ex.target)+ex.target.Path)
	f.allowed = pol.AllowedOn(ex.target.Authority)
	return f
}

// credential acquires the route's credential. release is never nil without a refusal.
func (ex *exchange) credential(ctx context.Context) (release func(), f *refusal) {
	if ex.binding == nil {
		return func() {}, nil
	}
	iss, release, err := ex.binding.Credential.Acquire(ctx)
	if err == nil {
		ex.iss = iss
		ex.rec.Issuance = iss.ID
		var short bool
		if ex.secrets, short = ex.s.known.add(ex.binding.Injector, iss); short {
			ex.s.cfg.Log.Warn().Str("credential", iss.Credential).Msg("credential is too short to be looked for in answers")
		}
		return release, nil
	}
	if errors.Is(err, credential.ErrClosed) {
		return nil, &refusal{
			status: http.StatusServiceUnavailable, reason: "session_ended", route: ex.rec.Route,
			detail: "the session's credentials were revoked; only routes without one still work",
		}
	}
	f = &refusal{
		status: http.StatusServiceUnavailable, reason: "credential_unavailable", route: ex.rec.Route, retryAfter: time.Second,
		detail: fmt.Sprintf("credential %q could not be obtained; try again later", ex.rec.Credential),
	}
	if errors.Is(err, credential.ErrRefused) {
		f.detail = fmt.Sprintf("the source refused credential %q; only an operator can change that", ex.rec.Credential)
	}
	if u, ok := errors.AsType[*credential.UnusableError](err); ok {
		f.retryAfter = max(u.RetryAfter, time.Second)
	}
	ex.s.cfg.Log.Warn().Str("credential", ex.rec.Credential).Err(err).Msg("credential unavailable")
	return nil, f
}

// recordIntent writes what is about to be sent into the trail (I7). Without that, nothing is sent.
func (ex *exchange) recordIntent() *refusal {
	rec := ex.rec
	rec.Event = audit.RequestIntent
	rec.PathHMAC = ex.s.pathHMAC(ex.target)
	ref, err := ex.s.cfg.Trail.Append(rec)
	if err != nil {
		ex.s.cfg.Log.Error().Err(err).Msg("audit trail cannot be written; requests are refused")
		return auditUnavailable(ex.rec.Route)
	}
	ex.intent = ref
	return nil
}

func auditUnavailable(route string) *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, reason: "audit_unavailable", route: route, retryAfter: time.Second,
		detail: "nothing is sent that cannot be recorded; an operator has to look at the audit sink",
	}
}

// pathHMAC stands for the request target in the trail: equal targets have equal ones, and what
// the target was cannot be read from it.
func (s *Server) pathHMAC(t policy.Target) string {
	mac := hmac.New(sha256.New, s.pathKey[:])
	mac.Write([]byte(t.RequestURI()))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// forward sends out. The transport may send a request without a body again on another
// connection when the first one turns out to be dead; each time counts.
func (ex *exchange) forward(out *http.Request) (*http.Response, *refusal) {
	transport := ex.gen.Plain
	if ex.binding != nil {
		transport = ex.binding.Transport
	}
	trace := &httptrace.ClientTrace{WroteHeaders: func() { ex.attempts.Add(1) }}
	resp, err := transport.RoundTrip(out.WithContext(httptrace.WithClientTrace(out.Context(), trace)))
	if err != nil {
		return nil, ex.upstreamFailure(err)
	}
	ex.rec.Protocol = "h1"
	if resp.ProtoMajor == 2 {
		ex.rec.Protocol = "h2"
	}
	if f := ex.checkResponse(resp); f != nil {
		resp.Body.Close()
		return nil, f
	}
	return resp, nil
}

// refuse records the refusal and answers with it. A request whose intent stands in the trail gets
// its outcome; any other one a denial.
func (ex *exchange) refuse(f *refusal) {
	ref := ex.record(f)
	ex.hasBody = !isGRPC(ex.r.Header) && ex.r.Method != http.MethodHead
	rc := http.NewResponseController(ex.w)
	if ex.r.ProtoMajor == 1 { // one that pipelines and does not read must not stay for ever
		rc.SetWriteDeadline(time.Now().Add(ex.s.cfg.stallTimeout()))
		defer rc.SetWriteDeadline(time.Time{})
		defer rc.Flush()
	}
	f.write(ex.w, ex.r, ex.gen.Policy.Role(), ref.ID)
}

// record is the part of refuse that the trail gets.
func (ex *exchange) record(f *refusal) audit.Ref {
	ref := ex.intent
	if ex.intent.Seq != 0 {
		ex.recordOutcome(f.status, f.reason)
	} else {
		rec := ex.rec
		rec.Event, rec.Reason, rec.Status = audit.RequestDenied, f.reason, f.status
		rec.Issuance = ""
		var err error
		if ref, err = ex.s.cfg.Trail.Append(rec); err != nil {
			ex.s.cfg.Log.Error().Err(err).Str("reason", f.reason).Msg("a refusal could not be recorded")
		}
	}
	return ref
}

// recordOutcome closes the intent. It comes after the bytes have gone, so its failure can only be
// logged; the next request is refused if the trail is still broken.
func (ex *exchange) recordOutcome(status int, errorCode string) {
	rec := ex.rec
	rec.Event, rec.Intent, rec.Status, rec.Error = audit.RequestOutcome, ex.intent.Seq, status, errorCode
	rec.BytesIn, rec.BytesOut, rec.Attempts = ex.body.count(), ex.sent, int(ex.attempts.Load())
	rec.DurationMS = float64(time.Since(ex.started).Microseconds()) / 1000
	ex.intent = audit.Ref{}
	if _, err := ex.s.cfg.Trail.Append(rec); err != nil {
		ex.s.cfg.Log.Error().Err(err).Msg("an outcome could not be recorded")
	}
}

// recover turns a panic in the pipeline into a refusal, or an aborted response, of this one
// request. [http.ErrAbortHandler] is how a response that has begun is aborted.
func (ex *exchange) recover() {
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler {
		// The panic's value could quote the request; the stack holds addresses only.
		ex.s.cfg.Log.Error().Str("stack", string(debug.Stack())).Msg("panic while serving a request")
	}
	switch {
	case ex.intent.Seq != 0:
		ex.recordOutcome(0, "internal")
	case p != http.ErrAbortHandler: // nothing has been answered yet
		ex.refuse(&refusal{status: http.StatusInternalServerError, reason: "internal", route: ex.rec.Route})
		return
	}
	panic(http.ErrAbortHandler)
}
