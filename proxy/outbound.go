package proxy

import (
	"context"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/sidekey/sidekey/policy"
)

// hopByHop are the fields that end at this hop (RFC 9110 section 7.6.1), in either direction, in
// canonical form.
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true,
	"Proxy-Authenticate": true, "Proxy-Authorization": true, "Proxy-Authentication-Info": true,
}

// notForwarded are the agent's fields that say something about the way here or are set anew.
var notForwarded = map[string]bool{
	"Host": true, "Content-Length": true, "Expect": true, "Via": true, "Forwarded": true,
	"X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true, "X-Forwarded-Port": true,
	"X-Real-Ip": true,
}

// overrides are the fields by which some frameworks let a request be another one than it was
// matched as.
var overrides = map[string]bool{
	"X-Http-Method-Override": true, "X-Http-Method": true, "X-Method-Override": true,
	"X-Original-Url": true, "X-Rewrite-Url": true, "X-Original-Uri": true,
	"X-Forwarded-Method": true, "X-Forwarded-Uri": true, "X-Original-Method": true,
}

// overrideKey is the query parameter that does the same.
const overrideKey = "_method"

// agentCredentials are the fields in which the agent could bring a credential of its own to a
// host that gets ours. The carrier of the route's credential comes on top.
var agentCredentials = map[string]bool{
	"Authorization": true, "Cookie": true, "Cookie2": true, "X-Api-Key": true, "Api-Key": true, "Apikey": true,
	"X-Auth-Token": true, "X-Access-Token": true, "X-Authorization": true, "Private-Token": true, "Job-Token": true,
	"X-Goog-Api-Key": true, "X-Goog-Iam-Authorization-Token": true, "X-Amz-Security-Token": true,
	"X-Vault-Token": true, "X-Csrf-Token": true,
}

// folded maps a header name to the form in which CGI, WSGI and others make one of several: "_"
// and "." become "-", and those at the ends are nothing.
func folded(name string) string {
	if !strings.ContainsAny(name, "_.") && strings.Trim(name, "-") == name { // as most are
		return textproto.CanonicalMIMEHeaderKey(name)
	}
	return textproto.CanonicalMIMEHeaderKey(strings.Trim(headerFolds.Replace(name), "-"))
}

var (
	headerFolds = strings.NewReplacer("_", "-", ".", "-")
	queryFolds  = strings.NewReplacer(".", "_", " ", "_", "[", "_", "-", "_")
)

// hasQueryKey reports whether query has a parameter that some server would take for key: after
// decoding, whatever its case, with "_" for what PHP cannot have in a name, up to a NUL. A query
// that cannot be decoded has every key.
func hasQueryKey(query, key string) bool {
	fold := func(k string) string {
		k, _, _ = strings.Cut(k, "\x00")
		return strings.ToLower(queryFolds.Replace(strings.Trim(k, " ")))
	}
	if query == "" { // as most are
		return false
	}
	key = fold(key)
	for pair := range strings.SplitSeq(query, "&") {
		k, _, _ := strings.Cut(pair, "=")
		k, err := url.QueryUnescape(k)
		name, _, _ := strings.Cut(k, "[") // name[] and name[0] are name to PHP, Rails and qs
		if err != nil || fold(k) == key || fold(name) == key {
			return true
		}
	}
	return false
}

// parseHeader looks for what makes a request ambiguous, and for an upgrade.
func (ex *exchange) parseHeader() *refusal {
	h := ex.r.Header
	if hasQueryKey(ex.target.Query, overrideKey) {
		return &refusal{status: http.StatusBadRequest, reason: "override_refused", detail: "the query has a parameter " + overrideKey}
	}
	var bad *refusal // an override is told first, whatever the order of the map
	for name, values := range h {
		f := folded(name)
		if overrides[f] {
			return &refusal{status: http.StatusBadRequest, reason: "override_refused", detail: "the request has a header " + f}
		}
		if f != name && (hopByHop[f] || notForwarded[f]) {
			bad = &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "the request has an alias of header " + f}
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				bad = &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "the request has a malformed header"}
			}
		}
	}
	if bad != nil {
		return bad
	}
	if e := h["Expect"]; len(e) > 1 || len(e) == 1 && !strings.EqualFold(e[0], "100-continue") {
		return &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "the request expects something other than 100-continue"}
	}
	protocols := h["Upgrade"]
	if len(protocols) == 0 {
		return nil
	}
	ex.upgrade = len(protocols) == 1 && strings.EqualFold(protocols[0], "websocket") && ex.r.Method == http.MethodGet &&
		ex.r.ProtoMajor == 1 && ex.r.ContentLength == 0 && httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
	if !ex.upgrade {
		return &refusal{status: http.StatusBadRequest, reason: "upgrade_refused", detail: "the only upgrade is to websocket, by GET in HTTP/1.1, on routes that say websocket: true"}
	}
	return nil
}

// outbound makes the request that is to be sent, anew: nothing of the inbound head is relayed
// that is not copied here (I5). The URL is built from the matched target (I1), and what stands in
// it is byte for byte what was matched (I3).
// cut ends the use if the upstream leaves the agent's body unread for too long.
func (ex *exchange) outbound(ctx context.Context, cut context.CancelCauseFunc) (*http.Request, *refusal) {
	in := ex.r
	out := (&http.Request{
		Method: in.Method,
		URL:    outboundURL(ex.target),
	}).WithContext(ctx)
	out.Host = out.URL.Host
	if out.URL.RequestURI() != ex.target.RequestURI() {
		return nil, &refusal{status: http.StatusInternalServerError, reason: "internal", detail: "the target could not be kept as it was"}
	}
	ex.copyHeader(out)
	if f := ex.dropAgentCredentials(out); f != nil {
		return nil, f
	}
	if f := ex.correlate(out); f != nil {
		return nil, f
	}
	ex.giveBody(out, cut)
	if isGRPC(in.Header) {
		out.Header.Set("Te", "trailers")
	}
	return out, nil
}

// hostField is the authority of t as a Host field has it: without the scheme's default port.
func hostField(t policy.Target) string {
	host := t.Authority.String()
	if t.Scheme == "https" && t.Port == 443 || t.Scheme == "http" && t.Port == 80 {
		host = host[:strings.LastIndexByte(host, ':')]
	}
	return host
}

func outboundURL(t policy.Target) *url.URL {
	u := &url.URL{Scheme: t.Scheme, Host: hostField(t), Path: t.Path, RawQuery: t.Query, ForceQuery: t.HasQuery && t.Query == ""}
	if path, err := url.PathUnescape(t.Path); err == nil {
		u.Path, u.RawPath = path, t.Path // RawPath always: net/url would escape more than the agent did
	}
	return u
}

// forwarded returns the fields of in that go on, by canonical name.
func forwarded(in http.Header) http.Header {
	out := make(http.Header, len(in)+1)
	nominated := map[string]bool{}
	for _, v := range in["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			nominated[textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))] = true
		}
	}
	for name, values := range in {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if !hopByHop[canonical] && !notForwarded[canonical] && !nominated[canonical] {
			out[canonical] = append(out[canonical], values...)
		}
	}
	return out
}

func (ex *exchange) copyHeader(out *http.Request) {
	out.Header = maps.Clone(ex.header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // else net/http would put in its own
	}
	if ex.upgrade {
		out.Header.Set("Connection", "Upgrade")
		out.Header.Set("Upgrade", "websocket")
		out.Header.Del("Sec-Websocket-Extensions") // frames stay readable
	}
}

// dropAgentCredentials removes what the agent brings to a host that gets our credential. A query
// is not edited, since what was matched is what is sent: there a clash is refused.
func (ex *exchange) dropAgentCredentials(out *http.Request) *refusal {
	if ex.binding == nil {
		return nil
	}
	carrier := ex.binding.Injector.Carrier()
	for name := range out.Header {
		if f := folded(name); agentCredentials[f] || carrier.Header != "" && f == folded(carrier.Header) {
			delete(out.Header, name)
		}
	}
	askForScannable(out.Header)
	if carrier.Query == "" || !hasQueryKey(ex.target.Query, carrier.Query) {
		return nil
	}
	return &refusal{
		status: http.StatusBadRequest, reason: "credential_conflict", route: ex.rec.Route,
		detail: "leave out the query parameter " + carrier.Query + "; Sidekey sets it",
	}
}

// askForScannable asks the upstream for an answer that can be looked through: whole, and not
// compressed.
func askForScannable(h http.Header) {
	for _, name := range []string{"Range", "If-Range", "Accept-Encoding", "Grpc-Accept-Encoding"} {
		h.Del(name)
	}
	h.Set("Accept-Encoding", "identity")
}
