package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// maxReply is the largest reply that is read, in bytes.
const maxReply = 1 << 20

// A hidden string does not print: Vault tokens are kept in it. It is a pointer because fmt
// asks no method of an unexported field, and shows a pointer inside a struct as an address.
type hidden struct{ s *string }

func hide(s string) hidden { return hidden{&s} }

func (h hidden) expose() string {
	if h.s == nil {
		return ""
	}
	return *h.s
}

// A client makes single calls. It keeps no token, retries nothing and follows no redirect.
type client struct {
	base        *url.URL
	namespace   string
	correlation func(string) string
	onCall      func(Call)
	timeout     time.Duration
	transport   *http.Transport
	cert        atomic.Pointer[tls.Certificate] // the client certificate; nil until a login offers one
	watch       watch
}

func newClient(cfg Config, base *url.URL) *client {
	var roots *x509.CertPool
	if cfg.CACertPEM != nil {
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(cfg.CACertPEM)
	}
	dialer := &net.Dialer{}
	if base.Scheme == "http" {
		dialer.ControlContext = loopbackOnly
	}
	c := &client{
		base:        base,
		namespace:   cfg.Namespace,
		correlation: cfg.correlation(),
		onCall:      cfg.onCall(),
		timeout:     cfg.callTimeout(),
		transport: &http.Transport{
			Proxy:           nil,
			DialContext:     dialer.DialContext,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			// Calls are rare. A connection for each means that net/http never sends one a
			// second time by itself, as it does on a kept connection that has gone stale: a
			// call is one entry in Vault's audit log.
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
	if cfg.Auth.Method == methodCert {
		c.transport.TLSClientConfig.GetClientCertificate = c.certificate
	}
	c.watch.probe = c.probe
	return c
}

func (c *client) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if cert := c.cert.Load(); cert != nil {
		return cert, nil
	}
	return new(tls.Certificate), nil // offers none
}

// loopbackOnly keeps "localhost" from being a name for another machine.
func loopbackOnly(_ context.Context, _, address string, _ syscall.RawConn) error {
	if ap, err := netip.ParseAddrPort(address); err != nil || !ap.Addr().Unmap().IsLoopback() {
		return errors.New("plain http goes to loopback addresses only")
	}
	return nil
}

// A call is one HTTP request to Vault.
type call struct {
	what   string // for errors, such as "read secret/data/x"
	method string
	path   string // not escaped, without "/v1/"
	token  hidden // empty for a login
	body   any    // written as JSON; nil for none
	bare   bool   // success is 204, or a reply of Vault's whatever it holds

	// correlation is the value of X-Correlation-Id, the same for every attempt.
	correlation string

	// relogin says that 403 may mean that the token has gone, rather than that it may not.
	relogin bool
}

// do makes k, reads its reply and tells of it. The error is a *failure. The reply of a bare call may
// be nil. A 404 that has a reply, as for a deleted version of KV version 2, gives both.
func (c *client) do(ctx context.Context, k call) (*reply, error) {
	began := time.Now()
	status, r, err := c.exchange(ctx, k)
	if f, failed := errors.AsType[*failure](err); failed && f.unsent {
		return r, err
	}
	told := Call{Method: k.method, Path: k.path, Status: status, CorrelationID: k.correlation, Duration: time.Since(began)}
	if r != nil {
		told.RequestID, told.LeaseID = r.RequestID, r.LeaseID
	}
	c.onCall(told)
	return r, err
}

// exchange is do without the telling. The status is 0 if no reply came.
func (c *client) exchange(ctx context.Context, k call) (status int, r *reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ctx, done := c.watch.begin(ctx)
	defer done()
	req, err := c.request(ctx, k)
	if err != nil {
		f := k.unavailable("the request cannot be built")
		f.unsent = true
		return 0, nil, f
	}
	var sent atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	}))
	resp, err := c.transport.RoundTrip(req)
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) { // else it was given up, which says nothing
		c.watch.heard(err == nil)
	}
	if err != nil {
		f := k.broken(ctx, err)
		f.unsent = !sent.Load()
		return 0, nil, f
	}
	defer resp.Body.Close()
	failed := k.judge(resp)
	if resp.StatusCode == http.StatusNoContent || failed != nil && (k.bare || resp.StatusCode != http.StatusNotFound) {
		return resp.StatusCode, nil, failed
	}
	r, err = k.read(ctx, resp)
	switch {
	case failed != nil:
		return resp.StatusCode, r, failed
	case err == nil && k.bare && r.RequestID == "": // something before Vault may say 200 to all
		return resp.StatusCode, nil, k.unavailable("the reply is not one of Vault's")
	}
	return resp.StatusCode, r, err
}

// read reads the reply that resp holds; nil if there is an error.
func (k call) read(ctx context.Context, resp *http.Response) (*reply, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		f := k.broken(ctx, err)
		f.why = "the reply broke off: " + f.why
		return nil, f
	}
	if len(body) > maxReply {
		return nil, k.unavailable("the reply is over 1 MiB")
	}
	r := new(reply)
	if err := json.Unmarshal(body, r); err != nil {
		return nil, k.unavailable("the reply is empty or malformed") // err would quote the reply
	}
	r.date, _ = http.ParseTime(resp.Header.Get("Date")) // zero if it has none
	return r, nil
}

func (c *client) request(ctx context.Context, k call) (*http.Request, error) {
	var body io.Reader = http.NoBody
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, c.url(k.path), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "sidekey")
	req.Header.Set("X-Vault-Request", "true")
	req.Header.Set("X-Correlation-Id", k.correlation)
	if c.namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.namespace)
	}
	if token := k.token.expose(); token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// url escapes each segment of path, so that nothing in it can become a query.
func (c *client) url(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return c.base.String() + "/v1/" + strings.Join(segments, "/")
}

// judge returns nil if resp is a success, else the *failure that its status stands for. It
// never looks at the body: error texts differ between Vault, its versions and OpenBao.
func (k call) judge(resp *http.Response) error {
	status := resp.StatusCode
	f := &failure{what: k.what, why: "status " + strconv.Itoa(status), status: status, kind: credential.ErrUnavailable}
	switch {
	case status == http.StatusOK, k.bare && status == http.StatusNoContent:
		return nil
	case status == http.StatusNoContent && k.method == http.MethodPut:
		f.kind = credential.ErrRefused // a source's write was done, so it is not to be done again
		f.why += " (the path gives nothing back)"
	case status >= 300 && status < 400:
		f.kind = credential.ErrRefused
		f.why += " (redirects are not followed: the address must be that of the active node or of a load balancer)"
	case status == http.StatusTooManyRequests:
		f.retryAfter = retryAfter(resp.Header)
	case status == http.StatusPreconditionFailed, status == 472, status == 473:
		// A node that lags behind, and the secondaries' states of health.
	case status >= 400 && status < 500:
		f.kind = credential.ErrRefused
	}
	return f
}

// broken says why there is no reply.
func (k call) broken(ctx context.Context, err error) *failure {
	if errors.Is(context.Cause(ctx), errStale) {
		f := k.unavailable(errStale.Error())
		f.stale = true
		return f
	}
	f := k.unavailable(reason(err))
	if refusesCertificate(err) {
		f.kind = credential.ErrRefused
		f.hint = "the server wants a client certificate that it trusts, is not revoked and has not expired: look at client_ca_file of Vault's listener"
	}
	return f
}

func (k call) unavailable(why string) *failure {
	return &failure{what: k.what, why: why, kind: credential.ErrUnavailable}
}

func (k call) refused(format string, args ...any) *failure {
	return &failure{what: k.what, why: fmt.Sprintf(format, args...), kind: credential.ErrRefused}
}

// A failure is why a call came to nothing. It holds the path and the status, never a body.
type failure struct {
	what, why  string
	status     int           // 0 if there was no reply
	retryAfter time.Duration // what Vault asked for with 429; 0 if nothing
	kind       error         // credential.ErrRefused or credential.ErrUnavailable
	unsent     bool          // there was no connection, so Vault has not seen the call
	stale      bool          // the watch cut the call off, and Vault answers: it can be made again at once
	hint       string        // what the operator can look at; empty for nothing
}

func (f *failure) Error() string {
	text := "vault: " + f.what + ": " + f.why + ": " + f.kind.Error()
	if f.hint != "" {
		text += "; hint: " + f.hint
	}
	return text
}

func (f *failure) Unwrap() error { return f.kind }

// lost reports whether Vault may have done what was asked of it, though it did not say so. A
// status of 503 is a Vault that does nothing: it is sealed, or no node is active.
func (f *failure) lost() bool {
	return f.kind == credential.ErrUnavailable && !f.unsent &&
		(f.status == 0 || f.status >= http.StatusInternalServerError && f.status != http.StatusServiceUnavailable)
}

// retryAfter reads the header of RFC 9110 section 10.2.3; 0 if it is absent or malformed. A
// date is on the server's clock, which this one need not agree with.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	then, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, then.Sub(now))
}

// refusesCertificate reports whether the server ended the connection because of the client
// certificate, or the lack of one (the alerts of RFC 8446 section 6.2).
func refusesCertificate(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	const badCertificate, accessDenied, certificateRequired = 42, 49, 116
	for alert := tls.AlertError(badCertificate); alert <= accessDenied; alert++ {
		if op.Err.Error() == alert.Error() && alert != 47 { // illegal_parameter
			return true
		}
	}
	return op.Err.Error() == tls.AlertError(certificateRequired).Error()
}

// reason says what was wrong with a connection, without what the other side sent: net/http
// quotes malformed replies.
func reason(err error) string {
	var (
		op   *net.OpError
		cert *tls.CertificateVerificationError
		head tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "given up by the caller"
	case errors.As(err, &cert):
		return cert.Error()
	case errors.As(err, &head):
		return "the server does not speak TLS"
	case errors.As(err, &op):
		return op.Error()
	}
	return "connection failed"
}
