package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// upstreamFailure says in one of a few words why an upstream could not be asked. What Go's error
// says can hold addresses and, with a credential in the query, the credential.
func (ex *exchange) upstreamFailure(err error) *refusal {
	f := &refusal{status: http.StatusBadGateway, reason: "upstream_unreachable", route: ex.rec.Route}
	host := ex.target.Host
	var (
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		alert   tls.AlertError
		record  tls.RecordHeaderError
		timeout net.Error
		dial    *net.OpError
		dns     *net.DNSError
	)
	switch {
	case errors.Is(err, errAddressRefused):
		f.reason, f.detail = "address_refused", host+" resolves to an address that is not public; upstream.allow_cidrs opens ranges"
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &alert), errors.As(err, &record):
		f.reason, f.detail = "upstream_tls", "no trusted TLS connection to "+host+" could be made"
	case errors.Is(err, context.Canceled):
		f.reason, f.detail = "agent_gone", "the agent gave up"
	case errors.As(err, &dns):
		f.detail = "the name " + host + " cannot be resolved"
	case errors.As(err, &timeout) && timeout.Timeout():
		f.status, f.reason, f.detail = http.StatusGatewayTimeout, "upstream_timeout", host+" did not answer in time"
	case errors.As(err, &dial) && dial.Op == "dial":
		f.detail = host + " refuses connections"
	default:
		f.reason, f.detail = "upstream_protocol", "the connection to "+host+" ended before a valid answer came"
	}
	ex.s.cfg.Log.Debug().Str("reason", f.reason).Str("route", ex.rec.Route).Msg("upstream failed")
	return f
}

// checkResponse refuses what is not the answer to the request that was sent.
func (ex *exchange) checkResponse(resp *http.Response) *refusal {
	ok := resp.StatusCode >= 200 && resp.StatusCode <= 599
	if resp.StatusCode == http.StatusSwitchingProtocols {
		ok = ex.upgrade && validUpgrade(ex.r, resp)
	}
	for name, values := range resp.Header {
		for _, v := range values {
			ok = ok && httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(v)
		}
	}
	if ok {
		return nil
	}
	return &refusal{status: http.StatusBadGateway, reason: "upstream_protocol", route: ex.rec.Route, detail: ex.target.Host + " gave an answer that is not valid HTTP"}
}

// notReturned are the fields of a response to a credentialed request that would hand the agent a
// session of its own.
var notReturned = map[string]bool{"Set-Cookie": true, "Set-Cookie2": true, "Authentication-Info": true}

// respond hands the upstream's answer to the agent as it comes, and records the outcome when it
// has ended. It returns a refusal only while nothing has been written.
func (ex *exchange) respond(resp *http.Response) *refusal {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return ex.tunnelWebSocket(resp)
	}
	ex.copyResponseHeader(resp.Header)
	if len(resp.Trailer) > 0 || isGRPC(resp.Header) {
		ex.announceTrailers(resp)
	}
	rc := http.NewResponseController(ex.w)
	if ex.r.ProtoMajor == 1 {
		rc.EnableFullDuplex() // an answer may begin before the request has ended
	}
	rc.SetWriteDeadline(time.Now().Add(stallTimeout))
	ex.w.WriteHeader(resp.StatusCode)
	streams := resp.ContentLength < 0
	if streams {
		rc.Flush() // the head is news by itself: a stream's first event may be far away
	}
	if err := ex.copyBody(rc, resp.Body, streams); err != nil {
		ex.recordOutcome(resp.StatusCode, err.Error())
		panic(http.ErrAbortHandler) // so that the agent sees a broken answer, not a short one
	}
	for name, values := range resp.Trailer {
		if ex.returned(name) {
			ex.w.Header()[http.TrailerPrefix+name] = values
		}
	}
	rc.SetWriteDeadline(time.Time{})
	ex.recordOutcome(resp.StatusCode, "")
	return nil
}

// returned reports whether a field of the response goes to the agent. Alt-Svc never does: it
// would lead the agent around the proxy.
func (ex *exchange) returned(name string) bool {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	return !hopByHop[canonical] && canonical != "Alt-Svc" && (ex.binding == nil || !notReturned[canonical])
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
	h := ex.w.Header()
	if ex.r.Method != http.MethodHead {
		h.Del("Content-Length")
		resp.ContentLength = -1
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
)

// copyBody copies the response's body to the agent, flushing each piece if it is a stream.
func (ex *exchange) copyBody(rc *http.ResponseController, body io.Reader, flush bool) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			rc.SetWriteDeadline(time.Now().Add(stallTimeout))
			if _, err := ex.w.Write(buf[:n]); err != nil {
				return errAgentGone
			}
			ex.sent += int64(n)
			if flush && rc.Flush() != nil {
				return errAgentGone
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil && ex.r.Context().Err() != nil:
			return errAgentGone
		case err != nil:
			return errUpstreamBroke
		}
	}
}
