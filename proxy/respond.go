package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sidekey/sidekey/redact"
)

// notReturned are the fields of a response to a credentialed request that would hand the agent a
// session of its own.
var notReturned = map[string]bool{"Set-Cookie": true, "Set-Cookie2": true, "Authentication-Info": true}

// respond hands the upstream's answer to the agent as it comes, and records the outcome when it
// has ended. It returns a refusal only while nothing has been written. ctx is that of the use.
func (ex *exchange) respond(ctx context.Context, resp *http.Response) *refusal {
	if f := ex.cutOff(ctx); f != nil {
		return f
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return ex.tunnelWebSocket(ctx, resp)
	}
	body, f := ex.answer(resp)
	if f != nil {
		return f
	}
	rc := http.NewResponseController(ex.w)
	if ex.r.ProtoMajor == 1 {
		rc.EnableFullDuplex() // an answer may begin before the request has ended
	}
	to := newAgentWriter(ex, rc, resp.ContentLength < 0)
	err := to.head(resp.StatusCode)
	if err == nil {
		err = ex.copyBody(ctx, to, body)
	}
	if err == nil {
		err = ex.copyTrailer(resp.Trailer)
	}
	if err != nil {
		ex.recordOutcome(resp.StatusCode, err.Error())
		if ex.r.ProtoMajor == 1 {
			rc.SetReadDeadline(time.Now()) // else the server waits for the rest of the request
		}
		panic(http.ErrAbortHandler) // so that the agent sees a broken answer, not a short one
	}
	boundLastFlush(rc, ex.r, ex.s.cfg.stallTimeout())
	ex.recordOutcome(resp.StatusCode, "")
	return nil
}

// boundLastFlush bounds what the server does after the handler has returned. An HTTP/2 stream takes
// the deadline with it to its end; on an HTTP/1.1 connection it would meet the next answer.
func boundLastFlush(rc *http.ResponseController, r *http.Request, d time.Duration) {
	if r.ProtoMajor == 2 {
		rc.SetWriteDeadline(time.Now().Add(d))
	}
}

// An agentWriter writes to the agent and gives each write a bound of its own. A deadline would not
// do: on an HTTP/2 stream it also ends an answer that is merely waiting for its next event.
type agentWriter struct {
	ex    *exchange
	flush bool
	rc    *http.ResponseController

	mu      sync.Mutex // rc is not to be used when the handler has returned
	writing bool
	stalled *time.Timer
}

func newAgentWriter(ex *exchange, rc *http.ResponseController, flush bool) *agentWriter {
	w := &agentWriter{ex: ex, rc: rc, flush: flush}
	w.stalled = time.AfterFunc(time.Hour, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.writing {
			rc.SetWriteDeadline(time.Now())
		}
	})
	w.stalled.Stop()
	return w
}

func (w *agentWriter) bounded(write func() error) error {
	w.mu.Lock()
	w.writing = true
	w.stalled.Reset(w.ex.s.cfg.stallTimeout())
	w.mu.Unlock()
	err := write()
	if err == nil && w.flush {
		err = w.rc.Flush()
	}
	w.mu.Lock()
	w.writing = false
	w.stalled.Stop()
	w.mu.Unlock()
	if err != nil {
		return errAgentGone
	}
	return nil
}

// head sends the head. It is news by itself: a stream's first event may be far away.
func (w *agentWriter) head(status int) error {
	return w.bounded(func() error { w.ex.w.WriteHeader(status); return nil })
}

func (w *agentWriter) write(p []byte) error {
	return w.bounded(func() error {
		n, err := w.ex.w.Write(p)
		w.ex.sent += int64(n)
		return err
	})
}

// answer makes the head of the answer and returns the body to copy. In the answer to a request
// that carried a credential, known secrets are masked, in the head and in the body as it streams.
func (ex *exchange) answer(resp *http.Response) (body io.Reader, f *refusal) {
	if ex.secrets == nil {
		ex.copyResponseHeader(resp.Header)
		ex.announceTrailers(resp)
		return resp.Body, nil
	}
	if !scannable(resp) {
		return nil, &refusal{
			status: http.StatusBadGateway, reason: "opaque_body", route: ex.rec.Route,
			detail: ex.target.Host + " sent an encoding that cannot be looked through for credentials",
		}
	}
	// The names of announced trailers go into the head.
	if ex.maskHead(resp) != nil || ex.maskTail(resp.Trailer) != nil {
		return nil, auditUnavailable(ex.rec.Route)
	}
	body = ex.scan(resp)
	ex.copyResponseHeader(resp.Header)
	ex.announceTrailers(resp)
	return body, nil
}

// maskHead masks known secrets in resp's header. Its error means that one was found and could not
// be recorded.
func (ex *exchange) maskHead(resp *http.Response) error {
	if ex.secrets == nil {
		return nil
	}
	head := reflection{secrets: ex.secrets}
	head.mask(resp.Header)
	if head.found == 0 {
		return nil
	}
	return ex.recordReflection("header")
}

// maskTail does the same for trailers.
func (ex *exchange) maskTail(trailer http.Header) error {
	if ex.secrets == nil {
		return nil
	}
	tail := reflection{secrets: ex.secrets}
	tail.mask(trailer)
	if tail.found == 0 {
		return nil
	}
	return ex.recordReflection("trailer")
}

// scan returns resp's body with known secrets masked. A mask changes the length, so a body keeps
// its Content-Length only if it is short enough to be masked before the head goes out.
func (ex *exchange) scan(resp *http.Response) io.Reader {
	const short = 64 << 10
	if isGRPC(resp.Header) {
		return newFrameScanner(ex, "message", resp.Body, grpcHeader)
	}
	r := &scanner{ex: ex, r: ex.secrets.values.NewReader(resp.Body)}
	switch {
	case resp.ContentLength == 0 || ex.r.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified:
		return resp.Body // there is none
	case resp.ContentLength > 0 && resp.ContentLength <= short:
		whole, err := io.ReadAll(r)
		if err != nil { // what came goes out, and then the error
			return io.MultiReader(bytes.NewReader(whole), failingReader{err})
		}
		resp.ContentLength = int64(len(whole))
		resp.Header.Set("Content-Length", strconv.Itoa(len(whole)))
		return bytes.NewReader(whole)
	}
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	return r
}

// A scanner records the first secret that its reader masks before it hands the bytes on.
type scanner struct {
	ex   *exchange
	r    *redact.Reader
	told bool
}

func (s *scanner) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if !s.told && s.r.Found() > 0 {
		s.told = true
		if s.ex.recordReflection("body") != nil {
			return 0, errUnrecorded
		}
	}
	return n, err
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// copyTrailer sends the upstream's trailers, announced or not, after the body.
func (ex *exchange) copyTrailer(trailer http.Header) error {
	if err := ex.maskTail(trailer); err != nil {
		return err
	}
	for name, values := range trailer {
		// One that was announced and did not come has no values; net/http would wait for it.
		if len(values) > 0 && ex.returned(name) && httpguts.ValidTrailerHeader(name) {
			ex.w.Header()[http.TrailerPrefix+name] = values
		}
	}
	return nil
}

// returned reports whether a field of the response goes to the agent. Alt-Svc never does, since it
// would lead the agent around the proxy, nor does what only Sidekey says.
func (ex *exchange) returned(name string) bool {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	return !hopByHop[canonical] && canonical != "Alt-Svc" && canonical != "Sidekey-Refusal" && (ex.binding == nil || !notReturned[canonical])
}

func (ex *exchange) copyResponseHeader(from http.Header) {
	nominated := map[string]bool{}
	for _, v := range from["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			nominated[textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))] = true
		}
	}
	to := ex.w.Header()
	for name, values := range from {
		if ex.returned(name) && !nominated[name] {
			to[name] = values
		}
	}
	for _, name := range []string{"Date", "Content-Type"} {
		if _, ok := to[name]; !ok {
			to[name] = nil // net/http would add its own
		}
	}
}

// announceTrailers lists the trailers that the upstream announced; those that it did not announce
// are sent all the same. In HTTP/1.1 trailers go with chunks only, so the length is left out.
func (ex *exchange) announceTrailers(resp *http.Response) {
	if len(resp.Trailer) == 0 && !isGRPC(resp.Header) {
		return
	}
	h := ex.w.Header()
	if ex.r.Method != http.MethodHead {
		h.Del("Content-Length")
		resp.ContentLength = -1
	}
	if ex.r.ProtoMajor != 1 {
		return // HTTP/2 needs no announcement, and net/http would wait for what was announced
	}
	for name := range resp.Trailer {
		if ex.returned(name) {
			h.Add("Trailer", name)
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// The errors of copyBody are codes of the trail.
var (
	errUpstreamBroke = errors.New("upstream_broke_off")
	errAgentGone     = errors.New("agent_gone")
	errUnrecorded    = errors.New("audit_unavailable")
	errDrainOver     = errors.New("draining")
)

// copyBody copies the response's body to the agent.
func (ex *exchange) copyBody(ctx context.Context, to *agentWriter, body io.Reader) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			if err := to.write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errUnrecorded), errors.Is(err, errReflected):
			return err
		case err != nil && ctx.Err() != nil:
			return endedBy(ctx)
		case err != nil:
			return errUpstreamBroke
		}
	}
}
