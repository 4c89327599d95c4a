package vaulttest_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client makes calls and keeps the last reply.
type client struct {
	t     *testing.T
	http  *http.Client
	url   string
	token string
}

type reply struct {
	Errors        []string
	RequestID     string `json:"request_id"`
	LeaseID       string `json:"lease_id"`
	LeaseDuration int    `json:"lease_duration"`
	Data          map[string]any
	Auth          struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int    `json:"lease_duration"`
	}
}

// do makes a call and returns its status and its reply.
func (c client) do(method, path, body string) (int, reply) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", c.token)
	req.Header.Set("X-Correlation-Id", "corr")
	req.Header.Set("X-Vault-Namespace", "ns")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, reply{}
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	var r reply
	if b.Len() > 0 {
		if err := json.Unmarshal(b.Bytes(), &r); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, b.Bytes())
		}
	}
	return resp.StatusCode, r
}

func (c client) want(status int, method, path, body string) reply {
	c.t.Helper()
	got, r := c.do(method, path, body)
	if got != status {
		c.t.Errorf("%s %s: status %d %q, want %d", method, path, got, r.Errors, status)
	}
	if (r.RequestID != "") != (status == 200) && len(r.Data) == 0 {
		c.t.Errorf("%s %s: status %d, request_id %q", method, path, status, r.RequestID)
	}
	return r
}

func start(t *testing.T) (*vaulttest.Server, client) {
	srv := vaulttest.Start(t)
	return srv, client{t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, srv.URL(), srv.RootToken()}
}

func TestKV(t *testing.T) {
	srv, c := start(t)
	srv.PutKV("secret/data/a", map[string]any{"k": "v1"})
	srv.PutKV("secret/data/a", map[string]any{"k": "v2"})
	srv.PutKV1("kv/a", map[string]any{"k": "v"})
	r := c.want(200, "GET", "secret/data/a", "")
	if got := fmt.Sprint(r.Data["data"], r.Data["metadata"].(map[string]any)["version"]); got != "map[k:v2] 2" {
		t.Errorf("KV version 2: %s", got)
	}
	srv.DeleteKV("secret/data/a")
	if r = c.want(404, "GET", "secret/data/a", ""); r.Data["data"] != nil || r.Data["metadata"] == nil {
		t.Errorf("deleted: %v", r.Data)
	}
	if r = c.want(200, "GET", "kv/a", ""); r.Data["k"] != "v" || r.LeaseID != "" || r.LeaseDuration == 0 {
		t.Errorf("KV version 1: %+v", r)
	}
	c.want(404, "GET", "secret/data/b", "")
	c.want(405, "PUT", "secret/data/b", "{}")
}

func TestTokens(t *testing.T) {
	now := time.Now()
	srv, err := vaulttest.New(vaulttest.Config{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	c := client{t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, srv.URL(), ""}
	srv.PutKV("secret/data/a", map[string]any{"k": "v"})
	c.want(403, "GET", "secret/data/a", "")
	c.token = srv.AddToken(time.Minute, "other/")
	c.want(403, "GET", "secret/data/a", "")
	if r := c.want(200, "GET", "auth/token/lookup-self", ""); r.Data["ttl"] != 60.0 {
		t.Errorf("ttl %v", r.Data["ttl"])
	}
	now = now.Add(time.Minute)
	if r := c.want(403, "GET", "auth/token/lookup-self", ""); !slices.Equal(r.Errors, []string{"permission denied"}) {
		t.Errorf("errors %q", r.Errors)
	}
	c.token = srv.AddToken(0)
	now = now.Add(1000 * time.Hour)
	c.want(200, "GET", "secret/data/a", "")
	c.want(204, "POST", "auth/token/revoke-self", "")
	c.want(403, "GET", "secret/data/a", "")
	if n := srv.LiveTokens(); n != 0 {
		t.Errorf("%d live tokens", n)
	}
	srv.Deny("secret/")
	c.token = srv.AddToken(0)
	c.want(403, "GET", "secret/data/a", "")
	c.token = srv.RootToken()
	c.want(200, "GET", "secret/data/a", "")
}

func TestLogins(t *testing.T) {
	srv, c := start(t)
	srv.AddAppRole("ci", "r1", "s1", time.Hour)
	srv.AddKubernetesRole("kubernetes", "k1", "j1", time.Minute)
	c.token = ""
	c.want(400, "POST", "auth/ci/login", `{"role_id":"r1","secret_id":"s2"}`)
	c.want(403, "POST", "auth/approle/login", `{"role_id":"r1","secret_id":"s1"}`) // nothing is mounted there
	c.want(400, "POST", "auth/kubernetes/login", `{"role":"k2","jwt":"j1"}`)
	c.want(400, "POST", "auth/kubernetes/login", `malformed`)
	if r := c.want(200, "POST", "auth/ci/login", `{"role_id":"r1","secret_id":"s1"}`); r.Auth.LeaseDuration != 3600 {
		t.Errorf("lease_duration %d", r.Auth.LeaseDuration)
	}
	c.token = c.want(200, "POST", "auth/kubernetes/login", `{"role":"k1","jwt":"j1"}`).Auth.ClientToken
	c.want(200, "GET", "auth/token/lookup-self", "")
	requests := srv.Requests()
	if got := requests[len(requests)-1].DisplayName; got != "kubernetes-k1" {
		t.Errorf("display name %q", got)
	}
}

func TestTokenRoles(t *testing.T) {
	srv, c := start(t)
	srv.AddAppRole("approle", "r", "s", time.Hour)
	srv.AddJWTRole("jwt", "j", vaulttest.Role{Name: "b", TTL: time.Hour, Batch: true, Metadata: map[string]string{"pod": "p"}})
	srv.AddTokenRole(vaulttest.Role{Name: "child", TTL: time.Hour})
	srv.AddTokenRole(vaulttest.Role{Name: "orphan", TTL: time.Hour, Orphan: true, NoDefault: true})
	srv.PutKV("secret/data/a", map[string]any{"k": "v"})
	parent := c.want(200, "POST", "auth/approle/login", `{"role_id":"r","secret_id":"s"}`).Auth.ClientToken
	batch := c.want(200, "POST", "auth/jwt/login", `{"role":"b","jwt":"j"}`).Auth.ClientToken
	c.token = batch
	c.want(200, "GET", "secret/data/a", "")
	c.want(400, "POST", "auth/token/create/child", `{}`)
	c.want(400, "POST", "auth/token/revoke-self", "")
	c.token = parent
	c.want(400, "POST", "auth/token/create/absent", `{}`)
	orphan := c.want(200, "POST", "auth/token/create/orphan", `{}`).Auth.ClientToken
	r := c.want(200, "POST", "auth/token/create/child", `{"meta":{"session":"x"},"ttl":"60s"}`)
	if r.Auth.LeaseDuration != 60 {
		t.Errorf("the child lives for %d s", r.Auth.LeaseDuration)
	}
	c.token = r.Auth.ClientToken
	c.want(200, "GET", "secret/data/a", "")
	if got := srv.Requests()[len(srv.Requests())-1].Metadata["session"]; got != "x" {
		t.Errorf("the child's metadata is %q", got)
	}
	c.token = parent
	c.want(204, "POST", "auth/token/revoke-self", "")
	c.token = r.Auth.ClientToken
	c.want(403, "GET", "secret/data/a", "")
	c.token = orphan
	c.want(403, "POST", "auth/token/revoke-self", "")
	c.want(200, "GET", "secret/data/a", "")
}

func TestWrapping(t *testing.T) {
	srv, c := start(t)
	c.token = srv.Wrap("auth/approle/role/r/secret-id", map[string]any{"secret_id": "s"}, time.Minute)
	lookup := `{"token":"` + c.token + `"}`
	if r := c.want(200, "POST", "sys/wrapping/lookup", lookup); r.Data["creation_path"] != "auth/approle/role/r/secret-id" {
		t.Errorf("made at %v", r.Data["creation_path"])
	}
	if r := c.want(200, "POST", "sys/wrapping/unwrap", ""); r.Data["secret_id"] != "s" {
		t.Error("the SecretID is missing")
	}
	c.want(400, "POST", "sys/wrapping/unwrap", "")
	c.want(400, "POST", "sys/wrapping/lookup", lookup)
}

func TestLeases(t *testing.T) {
	now := time.Now()
	srv, err := vaulttest.New(vaulttest.Config{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	c := client{t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, srv.URL(), srv.AddToken(time.Hour)}
	srv.AddDynamic("github/token/r", 10*time.Minute, func(n int) map[string]string {
		return map[string]string{"token": fmt.Sprint("t", n)}
	})
	first := c.want(200, "GET", "github/token/r", "")
	second := c.want(200, "GET", "github/token/r", "")
	if first.Data["token"] != "t1" || second.Data["token"] != "t2" || first.LeaseID == second.LeaseID || first.LeaseDuration != 600 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	wantLeases := func(live, revoked int) {
		t.Helper()
		if l, r := srv.Leases(); len(l) != live || len(r) != revoked {
			t.Errorf("%d live, %d revoked, want %d, %d", len(l), len(r), live, revoked)
		}
	}
	wantLeases(2, 0)
	c.want(204, "PUT", "sys/leases/revoke/"+first.LeaseID, "")
	c.want(204, "PUT", "sys/leases/revoke/"+first.LeaseID, "")
	wantLeases(1, 1)
	c.want(200, "GET", "github/token/r", "")
	c.want(204, "POST", "sys/leases/revoke", `{"lease_id":"`+second.LeaseID+`"}`)
	wantLeases(1, 2)
	now = now.Add(11 * time.Minute)
	wantLeases(0, 2)
	c.want(200, "GET", "github/token/r", "")
	c.want(204, "PUT", "auth/token/revoke-self", "")
	wantLeases(0, 3)
	c.token = srv.AddToken(time.Minute)
	c.want(200, "GET", "github/token/r", "")
	now = now.Add(time.Minute)
	wantLeases(0, 4)
	c.token = srv.AddToken(time.Minute)
	c.want(200, "GET", "github/token/r", "")
	srv.RevokeTokens()
	wantLeases(0, 5)
}

func TestFaults(t *testing.T) {
	srv, c := start(t)
	srv.FailNext(500, 473)
	c.want(500, "GET", "auth/token/lookup-self", "")
	c.want(473, "GET", "auth/token/lookup-self", "")
	c.want(200, "GET", "auth/token/lookup-self", "")
	srv.Seal()
	c.want(503, "GET", "auth/token/lookup-self", "")
	if status, _ := c.do("GET", "sys/health", ""); status != 503 {
		t.Errorf("health of a sealed server: %d", status)
	}
	srv.Unseal()
	srv.SetDown(true)
	if status, _ := c.do("GET", "auth/token/lookup-self", ""); status != 0 {
		t.Errorf("a server that is down answered %d", status)
	}
	srv.SetDown(false)
	srv.SetLatency(20 * time.Millisecond)
	begin := time.Now()
	c.want(200, "GET", "auth/token/lookup-self", "")
	if took := time.Since(begin); took < 20*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
	if status, _ := c.do("GET", "sys/health", ""); status != 200 {
		t.Errorf("health: %d", status)
	}
}

func TestRecord(t *testing.T) {
	srv, c := start(t)
	srv.AddDynamic("d", time.Minute, func(int) map[string]string { return map[string]string{"k": "canary-7f2a"} })
	r := c.want(200, "GET", "d", "")
	requests := srv.Requests()
	if len(requests) != 1 {
		t.Fatalf("%d requests", len(requests))
	}
	got := requests[0]
	if got.ID != r.RequestID || got.LeaseID != r.LeaseID || got.Path != "d" || got.Operation != "read" || got.Status != 200 ||
		got.CorrelationID != "corr" || got.Namespace != "ns" || got.DisplayName != "root" || got.Time.IsZero() {
		t.Errorf("record %+v", got)
	}
	if s := fmt.Sprintf("%+v", got); strings.Contains(s, "canary") || strings.Contains(s, c.token) {
		t.Errorf("the record holds a secret: %s", s)
	}
}

func TestTLS(t *testing.T) {
	srv, err := vaulttest.New(vaulttest.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(srv.CACertPEM()) || !strings.HasPrefix(srv.URL(), "https://127.0.0.1:") {
		t.Fatalf("URL %s, certificate %s", srv.URL(), srv.CACertPEM())
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	client{t, &http.Client{Transport: transport}, srv.URL(), srv.RootToken()}.want(200, "GET", "auth/token/lookup-self", "")
}
