package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// upstreamFailure says in one of a few words why an upstream could not be asked under ctx. What Go's
// error says can hold addresses and, with a credential in the query, the credential.
func (ex *exchange) upstreamFailure(ctx context.Context, err error) *refusal {
	if f := ex.cutOff(ctx); f != nil {
		return f
	}
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
	case ex.body.broken.Load():
		return ex.brokenBody()
	case errors.Is(err, errNeverDialled):
		f.reason, f.detail = "address_refused", "the address of "+host+" and this port is never dialled for an agent, whatever upstream.allow_cidrs opens"
	case errors.Is(err, errAddressRefused):
		f.reason, f.detail = "address_refused", host+" resolves to an address that is not public; upstream.allow_cidrs opens ranges"
	case errors.Is(err, errNoCertificateAsked):
		f.reason, f.detail = "upstream_tls", host+" asked for no client certificate, and that is how the credential is sent"
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &alert), errors.As(err, &record),
		errors.As(err, &dial) && dial.Op == "remote error": // the upstream's own TLS alert
		f.reason, f.detail = "upstream_tls", "no trusted TLS connection to "+host+" could be made"
	case errors.Is(err, context.Canceled):
		return ex.agentGone()
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

// cutOff is what becomes of a request that was ended from here before it had an answer. It is nil if
// ctx, that of its use, goes on, or ended because the agent went away.
func (ex *exchange) cutOff(ctx context.Context) *refusal {
	switch cause := context.Cause(ctx); cause {
	case errKilled, errSessionEnded:
		return ex.shutRefusal(cause)
	case errPolicyChanged:
		return policyChanged(ex.rec.Route)
	case errDrainOver:
		return &refusal{status: http.StatusServiceUnavailable, reason: "draining", route: ex.rec.Route}
	case errUnread:
		return &refusal{status: http.StatusGatewayTimeout, reason: "upstream_timeout", route: ex.rec.Route, detail: ex.target.Host + " does not read the request"}
	default:
		return ex.limitRefusal(cause)
	}
}

func (ex *exchange) agentGone() *refusal {
	return &refusal{status: http.StatusBadGateway, reason: "agent_gone", route: ex.rec.Route, detail: "the agent gave up"}
}

// endedBy returns what ended ctx, that of a use, as a code of the trail; nil if it goes on.
func endedBy(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != context.Canceled {
		return cause
	}
	return errAgentGone
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
