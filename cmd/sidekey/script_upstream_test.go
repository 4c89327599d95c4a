package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/sidekey/sidekey/internal/mitmca"
)

// An upstream is a real server, https (HTTP/1.1 and 2) on one port and http on another.
type upstream struct {
	secret string // replaced in everything it echoes
	ca     *mitmca.CA
	hits   atomic.Int64 // requests
	mu     sync.Mutex
	gates  map[string]chan struct{}
	git    http.Handler // below /git/; nil for none
	tls    net.Listener
	plain  net.Listener
	server [2]*http.Server
	first  string // the first credential that /fresh saw
}

// newUpstream starts an upstream whose certificate names whatever host the client asks for.
func newUpstream(secret string) (*upstream, error) {
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		return nil, err
	}
	u := &upstream{secret: secret, ca: ca, gates: map[string]chan struct{}{}}
	if u.tls, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if u.plain, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	leaf := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.Leaf(h.ServerName) }
	mutual := &tls.Config{GetCertificate: leaf, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"}}
	u.server[0] = &http.Server{Handler: u.handler(), TLSConfig: &tls.Config{GetCertificate: leaf, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if strings.HasPrefix(h.ServerName, "mutual.") {
			return mutual, nil
		}
		return nil, nil
	}}}
	u.server[1] = &http.Server{Handler: u.server[0].Handler}
	go u.server[0].ServeTLS(u.tls, "", "")
	go u.server[1].Serve(u.plain)
	return u, nil
}

// close drops all connections.
func (u *upstream) close() {
	u.server[0].Close()
	u.server[1].Close()
}

func port(ln net.Listener) string {
	_, p, _ := net.SplitHostPort(ln.Addr().String())
	return p
}

// cmdUpstream starts the upstream. It sets $UPSTREAM_PORT, $UPSTREAM_HTTP_PORT, $UPSTREAM_CA (a file)
// and $UPSTREAM (NAME with the port).
func cmdUpstream(ts *testscript.TestScript, args []string) {
	st := storyOf(ts)
	if len(args) != 1 || st.up != nil {
		ts.Fatalf("usage: upstream NAME, once")
	}
	u, err := newUpstream(st.canary)
	ts.Check(err)
	ts.Defer(u.close)
	st.up = u
	file := ts.MkAbs("upstream-ca.crt")
	ts.Check(os.WriteFile(file, u.ca.CertificatePEM(), 0o644))
	ts.Setenv("UPSTREAM_CA", file)
	ts.Setenv("UPSTREAM_PORT", port(u.tls))
	ts.Setenv("UPSTREAM_HTTP_PORT", port(u.plain))
	ts.Setenv("UPSTREAM", args[0]+":"+port(u.tls))
}

// cmdControl steers the upstream from aside:
//
//	control hits               print how many requests reached it
//	control sse-next|slow-go   let /sse send its next event, /slow finish
//	control -wait slow-started wait until /slow began
func cmdControl(ts *testscript.TestScript, args []string) {
	u := storyOf(ts).up
	switch {
	case len(args) == 1 && args[0] == "hits":
		fmt.Fprintf(ts.Stdout(), "hits=%d\n", u.hits.Load())
	case len(args) == 1:
		u.open(args[0])
	case len(args) == 2 && args[0] == "-wait":
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ts.Check(u.await(ctx, args[1]))
	default:
		ts.Fatalf("control: unknown: %q", args)
	}
}

func (u *upstream) gate(name string) chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gates[name] == nil {
		u.gates[name] = make(chan struct{}, 100)
	}
	return u.gates[name]
}

// open lets one await of the same name pass.
func (u *upstream) open(name string) { u.gate(name) <- struct{}{} }

func (u *upstream) await(ctx context.Context, name string) error {
	select {
	case <-u.gate(name):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nobody opened %s: %w", name, ctx.Err())
	}
}

func (u *upstream) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", u.echo)
	mux.HandleFunc("/echo/", u.echo)
	mux.HandleFunc("/fresh", u.fresh)
	mux.HandleFunc("/claims", claims)
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "client", r.TLS.PeerCertificates[0].Subject.CommonName)
	})
	mux.HandleFunc("/sse", u.sse)
	mux.HandleFunc("/slow", u.slow)
	mux.HandleFunc("/trickle", u.trickle)
	mux.HandleFunc("/upload", upload)
	mux.HandleFunc("/bytes/{n}", sendBytes)
	mux.HandleFunc("/trailer", trailer)
	mux.HandleFunc("/ws", u.ws)
	mux.HandleFunc("/status/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		w.WriteHeader(n)
	})
	mux.HandleFunc("/git/", func(w http.ResponseWriter, r *http.Request) {
		if u.git == nil {
			http.NotFound(w, r)
			return
		}
		u.git.ServeHTTP(w, r)
	})
	rpc := grpc.NewServer(grpc.UnaryInterceptor(u.metadata))
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.hits.Add(1)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// mask replaces the credential by its digest.
func (u *upstream) mask(s string) string { return strings.ReplaceAll(s, u.secret, digest(u.secret)) }

// echo tells what came: the whole Authorization as its digest, the credential elsewhere as its.
func (u *upstream) echo(w http.ResponseWriter, r *http.Request) {
	header := map[string]string{}
	for name, values := range r.Header {
		if name == "Authorization" {
			for i := range values {
				values[i] = digest(values[i])
			}
		}
		header[name] = u.mask(strings.Join(values, " | "))
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	enc.Encode(map[string]any{"method": r.Method, "target": u.mask(r.RequestURI), "host": r.Host, "proto": r.Proto, "header": header})
}

// fresh refuses the first credential that it sees, for ever.
func (u *upstream) fresh(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	got := r.Header.Get("Authorization")
	if u.first == "" {
		u.first = got
	}
	if got == u.first {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprintln(w, digest(got))
}

// claims tells what a JWT claims.
func claims(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	fmt.Fprintf(w, "%s\n", text)
}

// sse sends three events, each but the first only after `control sse-next`.
func (u *upstream) sse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for n := 1; n <= 3; n++ {
		if n > 1 && u.await(r.Context(), "sse-next") != nil {
			return
		}
		fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", n, n)
		http.NewResponseController(w).Flush()
	}
}

// slow ends only after `control slow-go`.
func (u *upstream) slow(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "begin\n")
	http.NewResponseController(w).Flush()
	u.open("slow-started")
	if u.await(r.Context(), "slow-go") == nil {
		io.WriteString(w, "end\n")
	}
}

// trickle opens the gate trickle-got when the first bytes of the body have come.
func (u *upstream) trickle(w http.ResponseWriter, r *http.Request) {
	first := make([]byte, 5)
	if _, err := io.ReadFull(r.Body, first); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	u.open("trickle-got")
	rest, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s%s\n", first, rest)
}

func upload(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "size=%d sha256=%s\n", n, hex.EncodeToString(h.Sum(nil)))
}

func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	io.Copy(w, pattern(n))
}

func trailer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Trailer", "X-Checksum")
	io.WriteString(w, "body\n")
	w.Header().Set("X-Checksum", "42")
}

// ws sends back every message, and says in the first what credential came.
func (u *upstream) ws(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	ctx := r.Context()
	if c.Write(ctx, websocket.MessageText, []byte(digest(r.Header.Get("Authorization")))) != nil {
		return
	}
	for {
		kind, message, err := c.Read(ctx)
		if err != nil {
			return
		}
		if c.Write(ctx, kind, message) != nil {
			return
		}
	}
}

// metadata answers every unary call with the credential's digest in the header and a trailer.
func (u *upstream) metadata(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("x-authorization", digest(strings.Join(in.Get("authorization"), ""))))
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "the end", "x-echo", strings.Join(in.Get("x-note"), "")))
	return next(ctx, req)
}

// pattern reads as n bytes that are the same each time.
func pattern(n int64) io.Reader {
	block := make([]byte, 1<<16)
	for i := range block {
		block[i] = byte(i * 31 >> 3)
	}
	return io.LimitReader(&cycle{block: block}, n)
}

type cycle struct {
	block []byte
	at    int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.block[c.at:])
	c.at = (c.at + n) % len(c.block)
	return n, nil
}
