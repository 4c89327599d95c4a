package proxy

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A refusal is the answer the agent gets to a denied or impossible request. Everything in it is
// ours or was sent by the agent: never an upstream's bytes, never a Go error's text.
type refusal struct {
	status     int
	reason     string // stable; the audit record's reason and the Sidekey-Refusal header
	detail     string // one sentence for whoever reads the agent's output
	route      string
	allowed    []string      // on a denial, what the role may do on that host
	retryAfter time.Duration // 0: none
}

// titles has a fixed sentence for each reason that the proxy gives by itself. The policy's own
// reasons (all denials) share one.
var titles = map[string]string{
	"bad_request":            "The request is malformed or ambiguous",
	"bad_connect":            "The CONNECT request is malformed",
	"use_connect":            "https URLs are reached through CONNECT",
	"not_a_proxy_request":    "This is a proxy; it serves no resources of its own",
	"host_mismatch":          "The request names another host than its tunnel",
	"upgrade_refused":        "This protocol upgrade is not possible here",
	"override_refused":       "Headers that override the method or the target are refused",
	"credential_conflict":    "The request carries a parameter that is Sidekey's to set",
	"credential_unavailable": "The credential for this route cannot be had now",
	"session_ended":          "The session has ended",
	"killed":                 "The use of credentials was stopped",
	"audit_unavailable":      "The request cannot be recorded, so it is not sent",
	"address_refused":        "The host's address is not one that may be dialled",
	"upstream_unreachable":   "The upstream cannot be reached",
	"upstream_tls":           "The upstream's certificate could not be verified",
	"upstream_timeout":       "The upstream did not answer in time",
	"opaque_body":            "The upstream's answer cannot be looked through for credentials",
	"upstream_protocol":      "The upstream's answer was not valid HTTP",
	"agent_gone":             "The agent gave the request up",
	"draining":               "Sidekey is shutting down",
	"overloaded":             "Too many requests are in flight",
	"policy_changed":         "The policy has changed and does not allow this request any more",
	"rate_exceeded":          "Too many requests in too short a time",
	"concurrency_exceeded":   "Too many requests of this route are under way",
	"budget_exhausted":       "The session has used up what it may send",
	"body_too_large":         "The request's body is too large",
	"response_too_large":     "The answer is too large",
	"route_timeout":          "The request took too long",
	"internal":               "Sidekey failed",
}

const deniedTitle = "The role's policy does not allow this request"

// problem is the body of a refusal: a problem document, RFC 9457 section 3.1, with the members
// that section 3.2 leaves to us.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail,omitempty"`
	Instance string   `json:"instance,omitempty"` // the id of the audit record
	Reason   string   `json:"reason"`
	Route    string   `json:"route,omitempty"`
	Role     string   `json:"role,omitempty"`
	Allowed  []string `json:"allowed,omitempty"`
}

// isGRPC reports whether r is a gRPC call, which cannot read a problem document.
func isGRPC(h http.Header) bool {
	ct := h.Get("Content-Type")
	return ct == "application/grpc" || strings.HasPrefix(ct, "application/grpc+") || strings.HasPrefix(ct, "application/grpc;")
}

// write sends the refusal. instance is the id of its audit record, role the role of the policy.
func (f *refusal) write(w http.ResponseWriter, r *http.Request, role, instance string) {
	h := w.Header()
	clear(h)
	h.Set("Sidekey-Refusal", f.reason)
	h.Set("Cache-Control", "no-store")
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	// The rest of a body that nobody reads must not be taken for the next request.
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		const patience = 2 * time.Second // net/http reads a little of it, so that the answer arrives
		h.Set("Connection", "close")
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
	}
	if isGRPC(r.Header) {
		f.writeGRPC(w)
		return
	}
	title := titles[f.reason]
	if title == "" {
		title = deniedTitle
	}
	body, err := json.MarshalIndent(problem{
		Type: "urn:sidekey:refusal:" + f.reason, Title: title, Status: f.status, Detail: f.detail,
		Instance: instance, Reason: f.reason, Route: f.route, Role: role, Allowed: f.allowed,
	}, "", "  ")
	if err != nil { // strings and integers always encode
		body = nil
	}
	body = append(body, '\n')
	boundLastFlush(http.NewResponseController(w), r, time.Minute)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// writeGRPC answers with a trailers-only response: the status travels in the header block, and
// there is no message (gRPC over HTTP/2, "Responses").
func (f *refusal) writeGRPC(w http.ResponseWriter) {
	const invalidArgument, deadlineExceeded, permissionDenied, resourceExhausted, unavailable = 3, 4, 7, 8, 14
	code := unavailable
	switch f.status {
	case http.StatusForbidden:
		code = permissionDenied
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		code = resourceExhausted
	case http.StatusGatewayTimeout:
		code = deadlineExceeded
	case http.StatusBadRequest, http.StatusMisdirectedRequest:
		code = invalidArgument
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", grpcMessage("sidekey: "+f.reason+": "+f.detail))
	w.WriteHeader(http.StatusOK)
}

// grpcMessage percent-encodes what may not stand in a grpc-message (gRPC over HTTP/2,
// "Status-Message").
func grpcMessage(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}
