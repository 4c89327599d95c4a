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
	"net/netip"
	"net/url"
	"strconv"
	"strings"
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
	timeout     time.Duration
	transport   *http.Transport
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
	return &client{
		base:        base,
		namespace:   cfg.Namespace,
		correlation: cfg.correlation(),
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
	body   map[string]string
	bare   bool // success has no reply to read

	// correlation is the value of X-Correlation-Id, the same for every attempt.
	correlation string

	// relogin says that 403 may mean that the token has gone, rather than that it may not.
	relogin bool
}

// do makes k and reads its reply. The error is a *failure. The reply of a bare call is nil.
func (c *client) do(ctx context.Context, k call) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, k.unavailable("the request cannot be built")
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, k.unavailable(reason(err))
	}
	defer resp.Body.Close()
	if err := k.judge(resp); err != nil {
		return nil, err
	}
	if k.bare {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, k.unavailable("the reply broke off: " + reason(err))
	}
	if len(body) > maxReply {
		return nil, k.unavailable("the reply is over 1 MiB")
	}
	r := new(reply)
	if err := json.Unmarshal(body, r); err != nil {
		return nil, k.unavailable("the reply is empty or malformed") // err would quote the reply
	}
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
	case status >= 300 && status < 400:
		f.kind = credential.ErrRefused
		f.why += " (redirects are not followed: the address must be that of the active node or of a load balancer)"
	case status == http.StatusTooManyRequests:
		f.retryAfter = retryAfter(resp.Header.Get("Retry-After"))
	case status == http.StatusPreconditionFailed, status == 472, status == 473:
		// A node that lags behind, and the secondaries' states of health.
	case status >= 400 && status < 500:
		f.kind = credential.ErrRefused
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
}

func (f *failure) Error() string { return "vault: " + f.what + ": " + f.why + ": " + f.kind.Error() }

func (f *failure) Unwrap() error { return f.kind }

// retryAfter reads the header of RFC 9110 section 10.2.3; 0 if it is absent or malformed.
func retryAfter(h string) time.Duration {
	if n, err := strconv.ParseUint(h, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, time.Until(t))
	}
	return 0
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
