package proxy

import (
	"context"
	"errors"
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

	target   policy.Target
	route    *policy.Route          // nil: none allows the request, and the policy only reports
	binding  *Binding               // nil: the request carries no credential
	header   http.Header            // of the agent's, what goes on; not changed
	asked    policy.Request         // what was decided, without what only conditions look at in header
	checked  checkedBody            // the request's body, as conditions read it
	held     []byte                 // the request's body, if it was read to be checked or to be sent again; not nil then
	counted  *count                 // against limits; nil if there are none
	over     atomic.Pointer[breach] // the first limit that the route only reports as exceeded
	decided  time.Time
	reserved int64 // bytes that count in Server.held
	hasBody  bool  // an answer to the agent has one, which may be buffered
	upgrade  bool  // the agent asks for a WebSocket
	sent     int64 // body bytes to the agent

	// Of the current use. Those without a comment are nil if the request carries no credential.
	iss       *credential.Issuance
	secrets   *secrets          // what the answer must not hold
	pass      *passage          // through the valve
	transport http.RoundTripper // that goes with iss
	again     *issued           // what stands for the refused issuance in the second use; nil in the first
	rec       audit.Record      // what the record of the use will say
	intent    audit.Ref         // zero until the intent is recorded
	started   time.Time
	stopTimer func() bool   // of the route's time limit
	body      *countingBody // the request's
	attempts  *atomic.Int64 // heads that the transport has written, as far as it has told
	answered  bool          // so there was one at least
}

// serve is the life of a request, whichever way it came in.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, entrance string) {
	ex := s.newExchange(w, r, entrance)
	defer ex.gen.serving.leave()
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
	ex := &exchange{s: s, gen: s.current(), conn: connOf(r.Context()), w: w, r: r, started: time.Now(), body: &countingBody{}, attempts: new(atomic.Int64)}
	ex.conn.served.Add(1)
	ex.rec = audit.Record{Conn: ex.conn.id, Entrance: entrance, Method: r.Method, Generation: ex.gen.Number}
	return ex
}

// run takes the request through the pipeline: parse, match, and a use, which is all from acquiring
// the credential to the end of the answer. If the upstream refuses the credential, and the request
// can be sent again, there is a second use with another one. Whatever stops the request on the way
// is returned as a refusal; nothing was sent then, unless the intent had been recorded.
func (ex *exchange) run() *refusal {
	if f := ex.parse(); f != nil {
		return f
	}
	defer ex.letGo()
	if f := ex.decide(); f != nil {
		return f
	}
	ex.decided = time.Now()
	if f := ex.limit(); f != nil {
		return f
	}
	defer ex.counted.leave()
	if f := ex.hold(); f != nil {
		return f
	}
	again, f := ex.use()
	if again {
		_, f = ex.use()
	}
	return f
}

// use sends the request once: credential, inject, record, forward, respond. It leaves an intent and
// an outcome of its own. again says that the answer was for nobody, and the request is to be sent
// again.
func (ex *exchange) use() (again bool, f *refusal) {
	ex.attempts, ex.answered, ex.rec.Protocol = new(atomic.Int64), false, "" // of this use, not of one before
	ctx, cut := context.WithCancelCause(ex.r.Context())
	defer cut(nil)
	defer ex.s.follow(ex.gen, ex.allowedBy, cut)()
	ex.stopTimer = ex.limitTime(cut)
	defer ex.stopTimer()
	out, f := ex.outbound(ctx, cut)
	if f != nil {
		return false, f
	}
	release, f := ex.credential(ctx, cut)
	if f != nil {
		return false, f
	}
	defer release()
	if f := ex.inject(out); f != nil {
		return false, f
	}
	if f := ex.recordIntent(); f != nil {
		return false, f
	}
	resp, f := ex.forward(out)
	if f != nil {
		return false, f
	}
	body := resp.Body
	defer body.Close()
	// Once an HTTP/2 upstream has answered, only closing its body wakes an upload that waits for it.
	defer context.AfterFunc(ctx, func() { body.Close() })()
	if ex.replaced(ctx, resp) {
		return true, nil
	}
	if f := ex.limitAnswer(resp, cut); f != nil {
		return false, f
	}
	return false, ex.respond(ctx, resp)
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
	req, f := ex.request()
	if f != nil {
		return f
	}
	defer ex.checked.done()
	pol := ex.gen.Policy
	d := pol.Decide(req)
	if f := ex.checked.refused(); f != nil {
		return f
	}
	if d.Allow {
		ex.route = d.Route
		ex.rec.Route, ex.rec.Path = d.Route.Name, d.Path
		ex.rec.WouldDeny, ex.rec.Detail = string(d.Reported), d.Detail
		if d.Route.LogPath {
			ex.rec.PathSent = ex.target.Path
		}
		if d.Route.Credential == "" {
			return nil
		}
		ex.rec.Credential = d.Route.Credential
		ex.binding = ex.gen.Bindings[d.Route.Credential]
		return nil
	}
	ex.rec.Path, ex.rec.Detail = ex.target.Path, d.Detail
	if pol.Mode() == policy.Report {
		ex.rec.WouldDeny = string(d.Reason)
		return nil
	}
	if d.Reason == policy.EncodedSlashNotAllowed || d.Reason == policy.EncodedPercentNotAllowed {
		return &refusal{status: http.StatusBadRequest, reason: string(d.Reason), detail: "the route for this path does not accept such an encoding", route: ex.rec.Route}
	}
	detail := "role " + pol.Role() + " may not " + ex.r.Method + " " + ex.target.Scheme + "://" + hostField(ex.target) + ex.target.Path
	if d.Detail != "" {
		detail += "; " + d.Detail
	}
	f = ex.denied(d.Reason, detail)
	if errors.Is(ex.checked.err, errTooLarge) {
		f.status = http.StatusRequestEntityTooLarge
	}
	f.allowed = pol.AllowedOn(ex.target.Authority)
	return f
}

// forward sends out. The transport may send a request without a body again on another
// connection when the first one turns out to be dead; each time counts.
func (ex *exchange) forward(out *http.Request) (*http.Response, *refusal) {
	transport := ex.gen.Plain
	if ex.binding != nil {
		transport = ex.transport
	}
	attempts := ex.attempts // the transport may tell when the answer is here, and a later use has its own
	trace := &httptrace.ClientTrace{WroteHeaders: func() { attempts.Add(1) }}
	resp, err := transport.RoundTrip(out.WithContext(httptrace.WithClientTrace(out.Context(), trace)))
	ex.pass.reach(passSent)
	if err != nil {
		return nil, ex.upstreamFailure(out.Context(), err)
	}
	ex.answered = true
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
	ex.header, ex.asked = nil, policy.Request{} // so that one that waits is small
	ex.hasBody = !isGRPC(ex.r.Header) && ex.r.Method != http.MethodHead
	rc := http.NewResponseController(ex.w)
	if ex.r.ProtoMajor == 1 { // one that pipelines and does not read must not stay for ever
		rc.SetWriteDeadline(time.Now().Add(ex.s.cfg.stallTimeout()))
		defer rc.SetWriteDeadline(time.Time{})
		defer rc.Flush()
	}
	f.write(ex.w, ex.r, ex.gen.Policy.Role(), ref.ID())
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
