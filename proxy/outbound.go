package proxy

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

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
	return textproto.CanonicalMIMEHeaderKey(strings.Trim(strings.NewReplacer("_", "-", ".", "-").Replace(name), "-"))
}

// hasQueryKey reports whether query has a parameter that some server would take for key: after
// decoding, whatever its case, with "_" for what PHP cannot have in a name, up to a NUL. A query
// that cannot be decoded has every key.
func hasQueryKey(query, key string) bool {
	fold := func(k string) string {
		k, _, _ = strings.Cut(k, "\x00")
		return strings.ToLower(strings.NewReplacer(".", "_", " ", "_", "[", "_", "-", "_").Replace(strings.Trim(k, " ")))
	}
	for pair := range strings.SplitSeq(query, "&") {
		k, _, _ := strings.Cut(pair, "=")
		k, err := url.QueryUnescape(k)
		name, _, _ := strings.Cut(k, "[") // name[] and name[0] are name to PHP, Rails and qs
		if err != nil || fold(k) == fold(key) || fold(name) == fold(key) {
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
	for name, values := range h {
		if overrides[folded(name)] {
			return &refusal{status: http.StatusBadRequest, reason: "override_refused", detail: "the request has a header " + folded(name)}
		}
		if f := folded(name); f != name && (hopByHop[f] || notForwarded[f]) {
			return &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "the request has an alias of header " + f}
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				return &refusal{status: http.StatusBadRequest, reason: "bad_request", detail: "the request has a malformed header"}
			}
		}
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
// cancel is called if the upstream leaves the agent's body unread for too long.
func (ex *exchange) outbound(ctx context.Context, cancel func()) (*http.Request, *refusal) {
	in := ex.r
	out := (&http.Request{
		Method: in.Method,
		URL:    outboundURL(ex.target),
		Header: make(http.Header, len(in.Header)+1),
	}).WithContext(ctx)
	out.Host = out.URL.Host
	if out.URL.RequestURI() != ex.target.RequestURI() {
		return nil, &refusal{status: http.StatusInternalServerError, reason: "internal", detail: "the target could not be kept as it was"}
	}
	ex.copyHeader(out)
	if f := ex.dropAgentCredentials(out); f != nil {
		return nil, f
	}
	ex.body.rc = in.Body
	out.ContentLength = in.ContentLength
	switch {
	case in.ContentLength != 0:
		ex.body.stall = ex.s.cfg.stallTimeout()
		ex.body.unread = time.AfterFunc(ex.body.stall, cancel)
		out.Body = &ex.body
	case !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, in.Method):
		// A transport sends a request without a body a second time, if the agent calls it
		// idempotent, and a body that it cannot rewind only once.
		out.Body = io.NopCloser(http.NoBody)
	}
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

func (ex *exchange) copyHeader(out *http.Request) {
	in := ex.r.Header
	nominated := map[string]bool{}
	for _, v := range in["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			nominated[textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))] = true
		}
	}
	for name, values := range in {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if !hopByHop[canonical] && !notForwarded[canonical] && !nominated[canonical] {
			out.Header[canonical] = append(out.Header[canonical], values...)
		}
	}
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
		if f := folded(name); agentCredentials[f] || f == folded(carrier.Header) {
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

// inject puts the credential on out and checks that it is there exactly once (I6) and that
// nothing else of the target moved (I3).
func (ex *exchange) inject(out *http.Request) *refusal {
	if ex.binding == nil {
		return nil
	}
	failed := &refusal{status: http.StatusServiceUnavailable, reason: "credential_unavailable", route: ex.rec.Route,
		detail: "credential " + ex.rec.Credential + " cannot be put on a request; only an operator can change that"}
	if ex.target.Scheme != "https" { // I11; the policy refuses such a route, this refuses the bytes
		return failed
	}
	if err := ex.binding.Injector.Inject(out, ex.iss); err != nil {
		ex.s.cfg.Log.Error().Str("credential", ex.rec.Credential).Err(err).Msg("credential cannot be injected")
		return failed
	}
	carrier, found := ex.binding.Injector.Carrier(), 0
	if carrier.Header != "" {
		for name, values := range out.Header {
			if folded(name) == folded(carrier.Header) {
				found += len(values)
			}
		}
	} else if added, ok := strings.CutPrefix(out.URL.RawQuery, ex.target.Query); ok && added != "" {
		found = 1
	}
	want := ex.target.Path
	if got := out.URL.EscapedPath(); found != 1 || got != want || out.URL.Host != out.Host {
		return failed
	}
	return nil
}

// A countingBody counts the bytes of a body that were read. The agent's own one also notices that
// nobody reads on: unread is armed while the bytes of a Read are on their way upstream. A slow agent
// does not trip it.
type countingBody struct {
	rc     io.ReadCloser
	n      atomic.Int64
	broken atomic.Bool // reading failed; not by the end of the body
	stall  time.Duration
	unread *time.Timer // nil: nobody minds
}

func (b *countingBody) Read(p []byte) (int, error) {
	if b.unread != nil {
		b.unread.Stop()
	}
	n, err := b.rc.Read(p)
	b.n.Add(int64(n))
	switch {
	case err != nil && err != io.EOF:
		b.broken.Store(true)
	case err == nil && b.unread != nil:
		b.unread.Reset(b.stall)
	}
	return n, err
}

func (b *countingBody) Close() error {
	if b.unread != nil {
		b.unread.Stop()
	}
	return b.rc.Close()
}

func (b *countingBody) count() int64 { return b.n.Load() }
