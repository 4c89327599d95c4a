package proxy

import (
	"errors"
	"net/http"
	"runtime"
	"slices"

	"github.com/sidekey/sidekey/policy"
)

// newCheckSlots bounds how many bodies are looked at at one time: they are larger as JSON values.
func newCheckSlots() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) }

// conditioned reports whether a route of the policy asks for more than host, path and method.
func conditioned(p *policy.Policy) bool {
	return slices.ContainsFunc(p.Routes(), func(r *policy.Route) bool { return len(r.Conditions()) > 0 })
}

// request is what the policy decides on. Where conditions look at a request they see what will be
// sent: the header that goes on, and a body that is kept.
func (ex *exchange) request() (policy.Request, *refusal) {
	req := policy.Request{
		Method: ex.r.Method, Target: ex.target, WebSocket: ex.upgrade, Session: ex.s.cfg.Session, Now: ex.started,
	}
	if ex.r.ContentLength != 0 {
		ex.checked.ex = ex
		req.Body = &ex.checked
	}
	ex.header, ex.asked = forwarded(ex.r.Header), req
	if !ex.gen.conditioned {
		return req, nil
	}
	if hasAlias(ex.header) {
		return req, &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "where a policy has conditions, names of headers are letters, digits and single dashes"}
	}
	req.Header = ex.header
	return req, nil
}

// hasAlias reports whether h has a name that is another one for some servers: a condition would see
// a field that the upstream does not, or not see one that it does.
func hasAlias(h http.Header) bool {
	for name := range h {
		if folded(name) != name {
			return true
		}
	}
	return false
}

// A checkedBody is the request's body as conditions read it. Its bytes are those that are sent.
type checkedBody struct {
	ex   *exchange
	err  error
	slot bool
}

// Bytes implements [policy.Body].
func (b *checkedBody) Bytes() ([]byte, error) {
	if b.err = b.ex.keep(b.ex.gen.bodyBound); b.err != nil {
		return nil, b.err
	}
	// Only now: a body takes as long to arrive as the agent likes.
	b.ex.s.checks <- struct{}{}
	b.slot = true
	return b.ex.held, nil
}

// done is to be called when the decision has been made.
func (b *checkedBody) done() {
	if b.slot {
		b.slot = false
		<-b.ex.s.checks
	}
}

// refused says why no decision could be made on the body, whatever the policy's mode. It is nil if
// one was made; that the body is too large is for the policy to judge.
func (b *checkedBody) refused() *refusal {
	switch {
	case b.err == nil, errors.Is(b.err, errTooLarge):
		return nil
	case errors.Is(b.err, errNoRoom):
		return &refusal{status: http.StatusServiceUnavailable, reason: "overloaded", route: b.ex.rec.Route, detail: "no room for another body that has to be checked"}
	}
	return b.ex.brokenBody()
}
