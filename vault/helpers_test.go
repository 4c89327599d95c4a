package vault_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

func TestMain(m *testing.M) {
	// net/http reads it once in a process, so it must be there before the first test: see
	// TestNoProxyFromTheEnvironment. Loopback addresses never go through a proxy.
	_ = os.Setenv("HTTPS_PROXY", "http://proxy.test:3128")
	goleak.VerifyTestMain(m)
}

// canary is part of every secret in these tests.
const canary = "canary-7f2a"

const (
	kvPath  = "secret/data/agents/reviewer"
	dynPath = "github/token/reviewer"
	loginAt = "auth/approle/login"
)

// pipes is a listener without sockets: inside a synctest bubble, time moves only when every
// goroutine waits, and waiting for a socket does not count.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8200} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	server, client := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A logBuffer collects the log; at the end of the test it must hold no secret.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// stand starts the stand-in over pipes, with an AppRole whose tokens live for ttl, a KV secret
// and a dynamic path with leases of 10 minutes.
func stand(t *testing.T, ttl time.Duration) (*vaulttest.Server, *pipes) {
	t.Helper()
	p := newPipes()
	srv, err := vaulttest.New(vaulttest.Config{Listener: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	srv.AddAppRole("approle", "reviewer", canary+"-secret-id", ttl)
	srv.PutKV(kvPath, map[string]any{"api_key": canary + "-kv"})
	srv.AddDynamic(dynPath, 10*time.Minute, func(int) map[string]string {
		return map[string]string{"token": canary + "-dynamic"}
	})
	return srv, p
}

// appRole returns a config that logs in with the AppRole of stand.
func appRole(t *testing.T, url string) vault.Config {
	t.Helper()
	log := new(logBuffer)
	t.Cleanup(func() {
		if strings.Contains(log.String(), canary) {
			t.Errorf("the log holds a secret: %s", log)
		}
	})
	return vault.Config{
		Address: url,
		Auth:    vault.Auth{Method: "approle", RoleID: "reviewer", SecretIDFile: file(t, canary+"-secret-id\n")},
		Log:     zerolog.New(log),
	}
}

func open(t *testing.T, cfg vault.Config) *vault.Session {
	t.Helper()
	s, err := vault.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// session returns a session over pipes that is logged in.
func session(t *testing.T, p *pipes) *vault.Session {
	t.Helper()
	s := open(t, appRole(t, "http://127.0.0.1:8200"))
	s.SetDial(p.dial)
	login(t, s)
	return s
}

func login(t *testing.T, s *vault.Session) {
	t.Helper()
	if err := s.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func dynamic(s *vault.Session) credential.Source {
	return s.Source(vault.SourceConfig{Path: dynPath, Field: "token"})
}

func kv(s *vault.Session) credential.Source {
	return s.Source(vault.SourceConfig{Path: kvPath, Field: "api_key"})
}

func issue(t *testing.T, src credential.Source) *credential.Issuance {
	t.Helper()
	iss, err := src.Issue(t.Context(), "id")
	if err != nil {
		t.Fatal(err)
	}
	return iss
}

func revoke(t *testing.T, src credential.Source, iss *credential.Issuance) {
	t.Helper()
	if err := src.(credential.Revoker).Revoke(t.Context(), iss); err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err is of kind, says something and holds no secret.
func wantError(t *testing.T, err, kind error, says string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v, want %v", err, kind)
		return
	}
	for _, other := range []error{credential.ErrRefused, credential.ErrUnavailable, credential.ErrClosed} {
		if other != kind && errors.Is(err, other) {
			t.Errorf("error %v wraps both %v and %v", err, kind, other)
		}
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("error %q does not say %q", err, says)
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("error %q holds a secret", err)
	}
}

// count returns how many requests for path the server answered.
func count(srv *vaulttest.Server, path string) int {
	n := 0
	for _, r := range srv.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

// odd serves handler over pipes behind a login that works, and returns a session.
func odd(t *testing.T, handler http.HandlerFunc) *vault.Session {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/auth/approle/login", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"auth":{"client_token":"` + canary + `-token","lease_duration":3600}}`))
	})
	mux.HandleFunc("/", handler)
	return session(t, serve(t, mux.ServeHTTP))
}

// serve serves handler over pipes.
func serve(t *testing.T, handler http.HandlerFunc) *pipes {
	t.Helper()
	p := newPipes()
	srv := &http.Server{Handler: handler}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(p) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return p
}

// run starts s.Run and returns a function that ends it and waits.
func run(t *testing.T, s *vault.Session) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}
