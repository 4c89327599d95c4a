package vault_test

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

func TestNewNamesEveryMistake(t *testing.T) {
	good := func() vault.Config {
		return vault.Config{Address: "https://vault.test:8200", Auth: vault.Auth{Method: "token", TokenFile: "/t"}}
	}
	if _, err := vault.New(good()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*vault.Config)
		says   string
	}{
		{func(c *vault.Config) { c.Address = "" }, "not an absolute URL"},
		{func(c *vault.Config) { c.Address = "vault.test:8200" }, "not an absolute URL"},
		{func(c *vault.Config) { c.Address = "https://:8200" }, "not an absolute URL"},
		{func(c *vault.Config) { c.Address = "http://vault.test:8200" }, "in clear"},
		{func(c *vault.Config) { c.Address = "http://127.0.0.1.evil.test:8200" }, "in clear"},
		{func(c *vault.Config) { c.Address = "http://10.0.0.1:8200" }, "in clear"},
		{func(c *vault.Config) { c.Address = "unix:///run/vault" }, "not an absolute URL"},
		{func(c *vault.Config) { c.Address = "ftp://vault.test" }, "neither https nor http"},
		{func(c *vault.Config) { c.Address = "https://u:" + canary + "@vault.test" }, "a user"},
		{func(c *vault.Config) { c.Address = "https://vault.test?x" }, "a query"},
		{func(c *vault.Config) { c.Address = "https://vault.test/v1/" }, "without /v1"},
		{func(c *vault.Config) { c.Namespace = "a\r\nb" }, "namespace"},
		{func(c *vault.Config) { c.CACertPEM = []byte("x") }, "no PEM certificate"},
		{func(c *vault.Config) { c.CallTimeout = -1 }, "negative"},
		{func(c *vault.Config) { c.Auth = vault.Auth{} }, `method ""`},
		{func(c *vault.Config) { c.Auth.Method = "userpass" }, `method "userpass"`},
		{func(c *vault.Config) { c.Auth.TokenFile = "" }, "holds the token"},
		{func(c *vault.Config) { c.Auth.Mount = "../x" }, "mount"},
		{func(c *vault.Config) { c.Auth.Method = "kubernetes" }, "role is missing"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "kubernetes", Role: "r"} }, "service account"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "approle", RoleID: "r"} }, "SecretID"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "approle", SecretIDFile: "s"} }, "role id"},
		{func(c *vault.Config) {
			c.Auth = vault.Auth{Method: "approle", SecretIDFile: "s", RoleID: "r", RoleIDFile: "f"}
		}, "not both"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "jwt", TokenFile: "t"} }, "role is missing"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "jwt", Role: "r"} }, "holds the JWT"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "cert", KeyFile: "k"} }, "client certificate is missing"},
		{func(c *vault.Config) { c.Auth = vault.Auth{Method: "cert", CertFile: "c"} }, "private key is missing"},
		{func(c *vault.Config) {
			c.Address, c.Auth = "http://127.0.0.1:8200", vault.Auth{Method: "cert", CertFile: "c", KeyFile: "k"}
		}, "takes an https address"},
		{func(c *vault.Config) { c.Auth.SecretIDWrapped = true }, "only approle"},
		{func(c *vault.Config) { c.SessionTokenRole = "a/b" }, "session token role"},
		{func(c *vault.Config) { c.SessionTokenRole = ".." }, "session token role"},
		{func(c *vault.Config) { c.Require = []string{"pod_uid"} }, `"pod_uid" is required`},
	} {
		cfg := good()
		tt.change(&cfg)
		_, err := vault.New(cfg)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), canary) {
			t.Errorf("error %v, want one that says %q", err, tt.says)
		}
	}
	_, err := vault.New(vault.Config{Namespace: " "})
	for _, says := range []string{"address", "namespace", "auth"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
}

func TestLoginMethods(t *testing.T) {
	srv := vaulttest.Start(t)
	srv.PutKV(kvPath, map[string]any{"api_key": canary})
	srv.AddAppRole("approle", "role-1", canary+"-secret-id", time.Hour)
	srv.AddKubernetesRole("cluster-a", "reviewer", canary+"-jwt", time.Hour)
	srv.AddJWTRole("jwt", canary+"-jwt", vaulttest.Role{Name: "reviewer", TTL: time.Hour})
	for _, auth := range []vault.Auth{
		{Method: "token", TokenFile: file(t, srv.AddToken(time.Hour)+"\n")},
		{Method: "token", TokenFile: file(t, srv.RootToken())},
		{Method: "approle", RoleID: "role-1", SecretIDFile: file(t, canary+"-secret-id\n")},
		{Method: "approle", RoleIDFile: file(t, "role-1\n"), SecretIDFile: file(t, canary+"-secret-id")},
		{Method: "kubernetes", Mount: "cluster-a", Role: "reviewer", TokenFile: file(t, canary+"-jwt")},
		{Method: "jwt", Role: "reviewer", TokenFile: file(t, canary+"-jwt\n")},
	} {
		before := len(srv.Requests())
		cfg := appRole(t, srv.URL())
		cfg.Auth, cfg.Namespace = auth, "team/a"
		cfg.Correlation = func(id string) string { return "sk1." + id }
		s := open(t, cfg)
		if s.Ready() {
			t.Errorf("%s: ready before the login", auth.Method)
		}
		login(t, s)
		if !s.Ready() {
			t.Errorf("%s: not ready after the login", auth.Method)
		}
		if got := string(issue(t, kv(s)).Value.Expose()); got != canary {
			t.Errorf("%s: value %q", auth.Method, got)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("%s: close: %v", auth.Method, err)
		}
		checkHeaders(t, srv.Requests()[before:])
	}
}

func checkHeaders(t *testing.T, requests []vaulttest.Request) {
	t.Helper()
	if len(requests) < 2 {
		t.Errorf("%d requests", len(requests))
	}
	for _, r := range requests {
		id, ok := strings.CutPrefix(r.CorrelationID, "sk1.")
		if _, err := uuid.Parse(id); !ok || err != nil && r.Path != kvPath {
			t.Errorf("%s: correlation id %q", r.Path, r.CorrelationID)
		}
		if r.Namespace != "team/a" || !strings.HasPrefix(r.UserAgent, "sidekey") {
			t.Errorf("%s: namespace %q, user agent %q", r.Path, r.Namespace, r.UserAgent)
		}
		if !slices.Contains(r.Header, "X-Vault-Request") || slices.Contains(r.Header, "Authorization") {
			t.Errorf("%s: headers %q", r.Path, r.Header)
		}
		if login := strings.HasSuffix(r.Path, "/login"); slices.Contains(r.Header, "X-Vault-Token") == login {
			t.Errorf("%s: headers %q", r.Path, r.Header)
		}
	}
}

func TestLoginIsRefusedAtOnce(t *testing.T) {
	srv := vaulttest.Start(t)
	dir := t.TempDir()
	for _, tt := range []struct {
		auth     vault.Auth
		says     string
		requests int
	}{
		{vault.Auth{Method: "approle", RoleID: "r", SecretIDFile: file(t, canary)}, "status 403", 1},
		{vault.Auth{Method: "kubernetes", Role: "r", TokenFile: file(t, canary)}, "status 403", 1},
		{vault.Auth{Method: "jwt", Role: "r", TokenFile: file(t, canary)}, "status 403", 1},
		{vault.Auth{Method: "jwt", Role: "r", TokenFile: filepath.Join(dir, "absent")}, dir, 0},
		{vault.Auth{Method: "token", TokenFile: file(t, canary)}, "status 403", 1},
		{vault.Auth{Method: "token", TokenFile: filepath.Join(dir, "absent")}, dir, 0},
		{vault.Auth{Method: "token", TokenFile: dir}, dir, 0},
		{vault.Auth{Method: "token", TokenFile: file(t, " \n")}, "/file: empty", 0},
		{vault.Auth{Method: "token", TokenFile: file(t, canary+" "+canary)}, "/file: more than one word", 0},
		{vault.Auth{Method: "token", TokenFile: file(t, strings.Repeat(canary, 64<<10))}, "/file: over 64 KiB", 0},
		{vault.Auth{Method: "approle", RoleIDFile: filepath.Join(dir, "absent"), SecretIDFile: file(t, canary)}, dir, 0},
	} {
		before := len(srv.Requests())
		cfg := appRole(t, srv.URL())
		cfg.Auth = tt.auth
		s := open(t, cfg)
		wantError(t, s.Login(t.Context()), credential.ErrRefused, tt.says)
		if got := len(srv.Requests()) - before; got != tt.requests {
			t.Errorf("%s: %d requests, want %d", tt.says, got, tt.requests)
		}
		if s.Ready() {
			t.Errorf("%s: ready", tt.says)
		}
	}
}

func TestLoginWaitsForVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := open(t, appRole(t, "http://127.0.0.1:8200"))
		s.SetDial(p.dial)
		srv.Seal()
		var up time.Time
		time.AfterFunc(time.Minute, func() { up = time.Now(); srv.Unseal() })
		login(t, s)
		if late := time.Since(up); late > 1500*time.Millisecond {
			t.Errorf("logged in %v after Vault came up", late)
		}
		if tries := count(srv, loginAt); tries < 40 || tries > 61 { // every 1 to 1.5 s
			t.Errorf("%d tries in a minute", tries)
		}
	})
}

func TestLoginEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		srv.SetDown(true)
		s := open(t, appRole(t, "http://127.0.0.1:8200"))
		s.SetDial(p.dial)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		begin := time.Now()
		wantError(t, s.Login(ctx), credential.ErrUnavailable, "connection failed")
		if took := time.Since(begin); took != 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A reply that says 200 and holds no token is a fault that may pass.
func TestLoginReplies(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		kind   error
	}{
		{200, `{"auth":{"client_token":"x","lease_duration":60}}`, nil},
		{200, ``, credential.ErrUnavailable},
		{200, `{`, credential.ErrUnavailable},
		{200, `{"auth":null}`, credential.ErrUnavailable},
		{200, `{"auth":{"client_token":""}}`, credential.ErrUnavailable},
		{200, `{"auth":{"client_token":"a b"}}`, credential.ErrUnavailable},
		{200, `{"auth":{"client_token":"x","lease_duration":-1}}`, credential.ErrUnavailable},
		{200, `{"auth":{"client_token":"x","lease_duration":1.5}}`, credential.ErrUnavailable},
		{200, `{"auth":{"client_token":"x","lease_duration":60,"metadata":{"a":1}}}`, credential.ErrUnavailable},
		{200, `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, credential.ErrUnavailable},
		{204, ``, credential.ErrUnavailable},
		{307, canary, credential.ErrRefused},
		{404, canary, credential.ErrRefused},
		{412, canary, credential.ErrUnavailable},
		{429, canary, credential.ErrUnavailable},
		{472, canary, credential.ErrUnavailable},
		{473, canary, credential.ErrUnavailable},
		{500, canary, credential.ErrUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			s := open(t, appRole(t, "http://127.0.0.1:8200"))
			s.SetDial(p.dial)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := s.Login(ctx)
			if tt.kind == nil && err != nil {
				t.Errorf("%d %s: %v", tt.status, tt.body, err)
			} else if tt.kind != nil {
				wantError(t, err, tt.kind, "log in at auth/approle/login")
			}
		})
	}
}

func TestFilesAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		cfg := appRole(t, "http://127.0.0.1:8200")
		s := open(t, cfg)
		s.SetDial(p.dial)
		login(t, s)
		srv.RevokeTokens()
		srv.AddAppRole("approle", "reviewer", canary+"-rotated", time.Hour)
		if err := os.WriteFile(cfg.Auth.SecretIDFile, []byte(canary+"-rotated"), 0o600); err != nil {
			t.Fatal(err)
		}
		issue(t, kv(s))
	})
}

func TestTLS(t *testing.T) {
	srv, err := vaulttest.New(vaulttest.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	srv.AddAppRole("approle", "reviewer", canary+"-secret-id", time.Hour)
	cfg := appRole(t, srv.URL())
	cfg.CACertPEM = srv.CACertPEM()
	login(t, open(t, cfg))

	cfg.CACertPEM = nil
	_, err = kv(open(t, cfg)).Issue(t.Context(), "id")
	wantError(t, err, credential.ErrUnavailable, "unknown authority")
}

func TestOldTLSIsRefused(t *testing.T) {
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	cfg := appRole(t, old.URL)
	cfg.CACertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: old.Certificate().Raw})
	_, err := kv(open(t, cfg)).Issue(t.Context(), "id")
	wantError(t, err, credential.ErrUnavailable, "protocol version")
}

// The sidecar's own HTTPS_PROXY may well point at itself.
func TestNoProxyFromTheEnvironment(t *testing.T) {
	if os.Getenv("HTTPS_PROXY") == "" {
		t.Fatal("TestMain did not set HTTPS_PROXY")
	}
	s := open(t, appRole(t, "https://vault.test:8200"))
	var dialled string
	ctx, cancel := context.WithCancel(t.Context())
	s.SetDial(func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		cancel()
		return nil, errors.New("dialling is not part of this test")
	})
	wantError(t, s.Login(ctx), credential.ErrUnavailable, "log in")
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dialled != "vault.test:8200" {
		t.Errorf("dialled %q", dialled)
	}
}

// A name that resolves to another machine must not get a token in clear.
func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	s := open(t, appRole(t, "http://localhost:8200"))
	s.SetHost("192.0.2.1:8200") // as if localhost resolved to it; for documentation only, RFC 5737
	_, err := kv(s).Issue(t.Context(), "id")
	wantError(t, err, credential.ErrUnavailable, "plain http goes to loopback addresses only")
}

func TestTokenDoesNotPrint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := odd(t, http.NotFound) // whose token holds the canary
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if got := s.PrintToken(verb); strings.Contains(got, canary) || strings.Contains(got, hex.EncodeToString([]byte(canary))) {
				t.Errorf("%s: %s", verb, got)
			}
		}
	})
}

// A kept connection that goes stale would make net/http send a read twice by itself.
func TestEachCallHasItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, p := stand(t, time.Hour)
		s := open(t, appRole(t, "http://127.0.0.1:8200"))
		dials := 0
		s.SetDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return p.dial(ctx, network, address)
		})
		login(t, s)
		issue(t, kv(s))
		issue(t, kv(s))
		if n := len(srv.Requests()); dials != 3 || n != 3 {
			t.Errorf("%d connections for %d calls, want 3 for 3", dials, n)
		}
	})
}

func TestLoginBodies(t *testing.T) {
	var got map[string]string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		_, _ = w.Write([]byte(`{"auth":{"client_token":"x","token_type":"batch","lease_duration":60}}`))
	}))
	defer srv.Close()
	cfg := appRole(t, srv.URL)
	cfg.Auth = vault.Auth{Method: "kubernetes", Role: `a"b`, TokenFile: file(t, canary)}
	s := open(t, cfg)
	login(t, s)
	if len(got) != 2 || got["role"] != `a"b` || got["jwt"] != canary {
		t.Errorf("body has %d fields, role %q", len(got), got["role"])
	}
	got = nil
	if err := s.Close(t.Context()); err != nil || got != nil { // a batch token cannot be revoked
		t.Errorf("close: %v, called: %t", err, got != nil)
	}
}
