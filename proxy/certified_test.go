package proxy_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/proxy"
)

// A clientCA is a source of client certificates, for agent-1, agent-2 and so on.
type clientCA struct {
	t     testing.TB
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	ttl   time.Duration // 0: an hour
	wrong bool          // the key is another one's
	n     atomic.Int64
}

func newClientCA(t testing.TB) *clientCA {
	ca := &clientCA{t: t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.cert = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key))(t)))(t)
	return ca
}

func (ca *clientCA) Issue(context.Context, string) (*credential.Issuance, error) {
	n := ca.n.Add(1)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(ca.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1 + n), Subject: pkix.Name{CommonName: fmt.Sprint("agent-", n)}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	leaf := must(x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key))(ca.t)
	if ca.wrong {
		key = ca.key
	}
	now := time.Now()
	return &credential.Issuance{
		Value:       credential.NewSecret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))(ca.t)})),
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}),
		IssuedAt:    now, ExpiresAt: now.Add(cmp.Or(ca.ttl, time.Hour)),
	}, nil
}

// bearing has the credential be a client certificate of ca.
func bearing(ca *clientCA) option {
	return func(_ *proxy.Config, o *rigOptions) { o.source, o.injector = ca, inject.ClientCertificate() }
}

// newCertifiedRig makes a rig whose upstream lets in only whom ca knows, in HTTP/2 if the upstream is
// to speak it.
func newCertifiedRig(t *testing.T, ca *clientCA, h2 bool, upstream http.HandlerFunc, opts ...option) *rig {
	r := newRig(t, reissuePolicy, upstream, append([]option{bearing(ca)}, opts...)...)
	r.upstream.TLS.ClientAuth, r.upstream.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	r.upstream.TLS.ClientCAs.AddCert(ca.cert)
	if !h2 {
		r.upstream.TLS.NextProtos = []string{"http/1.1"}
	}
	return r
}

// agentOf is who an upstream takes the other side for.
func agentOf(req *http.Request) string { return req.TLS.PeerCertificates[0].Subject.CommonName }

// waitOpen waits until the upstream has n connections.
func (r *rig) waitOpen(n int64) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.upstreams.open.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("the upstream has %d connections, want %d", r.upstreams.open.Load(), n)
		}
	}
}

// I6: a client certificate is shown to the upstream, in the handshake and nowhere else, and the
// connection serves further requests with the same one.
func TestClientCertificate(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newCertifiedRig(t, newClientCA(t), h2, func(w http.ResponseWriter, req *http.Request) {
			fmt.Fprintf(w, "%s %s %q", agentOf(req), req.Proto, req.Header["Authorization"])
		})
		c := r.client(h2)
		for range 3 {
			want := "agent-1 " + map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2] + " []"
			if resp, body := r.do(c, "GET", r.at("api.test", "/v1/x?a=b"), http.Header{"Authorization": {"Bearer own"}}, nil); resp.StatusCode != 200 || body != want {
				t.Errorf("got %s %q, want %q", resp.Status, body, want)
			}
		}
		if n := r.upstreams.accepted.Load(); n != 1 {
			t.Errorf("%d connections for three requests with one certificate", n)
		}
		if resp, body := r.do(c, "GET", r.at("open.test", "/x"), nil, nil); resp.StatusCode != 502 {
			t.Errorf("without a credential: %s %s", resp.Status, body)
		}
		in := r.trail.records(audit.RequestIntent)
		if in[0]["issuance"] == nil || in[0]["credential"] != "api" {
			t.Errorf("intent %v", in[0])
		}
		r.stopAndWait()
		r.waitOpen(0) // the pool is no concern of the rig's
	}
}

// A connection never carries a request of another issuance. The refused certificate's connections end,
// but for the answers that are on their way on them.
func TestClientCertificateRotates(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		streaming, end := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(end) })
		defer release()
		ca := newClientCA(t)
		r := newCertifiedRig(t, ca, h2, func(w http.ResponseWriter, req *http.Request) {
			switch agent := agentOf(req); {
			case req.URL.Path == "/v1/stream":
				io.WriteString(w, agent)
				w.(http.Flusher).Flush()
				close(streaming)
				<-end
				io.WriteString(w, " to the end")
			case agent == "agent-1":
				w.WriteHeader(http.StatusUnauthorized)
			default:
				io.WriteString(w, agent)
			}
		})
		resp, err := r.client(h2).Get(r.at("api.test", "/v1/stream"))
		if err != nil {
			t.Fatal(err)
		}
		<-streaming
		c := r.client(h2)
		for range 3 {
			if resp, body := r.do(c, "GET", r.at("api.test", "/v1/x"), nil, nil); resp.StatusCode != 200 || body != "agent-2" {
				t.Errorf("h2=%v: got %s %q", h2, resp.Status, body)
			}
		}
		r.waitOpen(2)
		release()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "agent-1 to the end" {
			t.Errorf("h2=%v: the stream: %q %v", h2, b, err)
		}
		resp.Body.Close()
		r.waitOpen(1) // of the certificate in use
		if n := ca.n.Load(); n != 2 || len(r.got()) != 5 {
			t.Errorf("h2=%v: %d certificates, and the upstream got %d requests", h2, n, len(r.got()))
		}
	}
}

// The connections of a certificate that has expired end.
func TestClientCertificateExpires(t *testing.T) {
	ca := newClientCA(t)
	ca.ttl = 500 * time.Millisecond
	r := newCertifiedRig(t, ca, true, ok)
	r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	r.waitOpen(0)
}

// I13: where the certificate is not asked for, nothing is sent.
func TestClientCertificateNotAskedFor(t *testing.T) {
	r := newRig(t, reissuePolicy, ok, bearing(newClientCA(t)))
	resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "upstream_tls" || !strings.Contains(body, "no client certificate") || len(r.got()) != 0 {
		t.Errorf("got %s %s", resp.Status, body)
	}
}

// I1, I9: upstreams are verified and addresses guarded as with every other credential.
func TestClientCertificateUpstream(t *testing.T) {
	r := newCertifiedRig(t, newClientCA(t), true, ok)
	r.upstream.TLS.GetCertificate = nil // httptest's own certificate is for example.com
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "upstream_tls" || len(r.got()) != 0 {
		t.Errorf("got %s %s", resp.Status, resp.Header.Get("Sidekey-Refusal"))
	}
	r = newCertifiedRig(t, newClientCA(t), true, ok, func(_ *proxy.Config, o *rigOptions) {
		o.resolve["api.test"] = netip.MustParseAddr("169.254.169.254")
	})
	resp, _ = r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "address_refused" {
		t.Errorf("got %s %s", resp.Status, resp.Header.Get("Sidekey-Refusal"))
	}
}

// A key that is not the certificate's is no credential.
func TestClientCertificateUnusable(t *testing.T) {
	ca := newClientCA(t)
	ca.wrong = true
	r := newCertifiedRig(t, ca, true, ok)
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if resp.StatusCode != 503 || resp.Header.Get("Sidekey-Refusal") != "credential_unavailable" || len(r.trail.records(audit.RequestIntent)) != 0 || r.upstreams.accepted.Load() != 0 {
		t.Errorf("got %s %s", resp.Status, resp.Header.Get("Sidekey-Refusal"))
	}
}

// A transport that cannot show a certificate is a mistake of whoever binds it.
func TestClientCertificateNeedsTransport(t *testing.T) {
	p := newPiped(t, roundTrip(endless))
	g := p.generation(pipedPolicy, canary)
	g.Bindings["api"].Injector = inject.ClientCertificate()
	_, err := proxy.New(proxy.Config{Listener: newPipeListener(), CA: must(mitmca.New(mitmca.Config{}))(t), Trail: promptTrail{p.trail.log}, Generation: g})
	if err == nil || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("New: %v", err)
	}
}
