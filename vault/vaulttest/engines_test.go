package vaulttest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/vault/vaulttest"
)

// put writes body to path and returns the status and the reply.
func put(t *testing.T, srv *vaulttest.Server, token, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequest("PUT", srv.URL()+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&reply) // 204 has none
	return resp.StatusCode, reply
}

// The statuses are those of Vault 1.21.
func TestEngineStatuses(t *testing.T) {
	srv := vaulttest.Start(t)
	if _, err := srv.AddTransitKey("transit", "ed", "ed25519"); err != nil {
		t.Fatal(err)
	}
	if _, err := srv.AddPKI("pki", "agent", vaulttest.PKI{TTL: time.Minute, Lease: true}); err != nil {
		t.Fatal(err)
	}
	srv.AddWrite("kv/x", 0, func(int, map[string]any) map[string]any { return nil })
	root := srv.RootToken()
	for _, tt := range []struct {
		token, path, body string
		status            int
	}{
		{root, "transit/sign/ed", `{"input":"YQ=="}`, 200},
		{root, "transit/sign/ed", `{"input":"a"}`, 400},
		{root, "transit/sign/ed", `{"input":"YQ==","prehashed":true}`, 400},
		{"none", "transit/sign/ed", `{"input":"YQ=="}`, 403},
		{root, "pki/issue/agent", `{"common_name":"a.test"}`, 200},
		{root, "pki/issue/agent", `{}`, 400},
		{root, "pki/sign/agent", `{"common_name":"a.test"}`, 400},
		{root, "pki/sign/agent", `{"common_name":"a.test","csr":"x"}`, 400},
		{root, "kv/x", `{}`, 204},
	} {
		status, reply := put(t, srv, tt.token, tt.path, tt.body)
		if status != tt.status || (status == 200) != (reply["request_id"] != nil) {
			t.Errorf("%s %s: %d %v, want %d", tt.path, tt.body, status, reply, tt.status)
		}
	}
	if live, _ := srv.Leases(); len(live) != 1 || !strings.HasPrefix(live[0].Path, "pki/issue/") {
		t.Errorf("leases %v", live)
	}
	if _, err := srv.AddTransitKey("transit", "x", "rsa-1024"); err == nil {
		t.Error("a key of a type that is not known")
	}
}

// The Date header is of the clock that tokens and leases expire by.
func TestDate(t *testing.T) {
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	srv, err := vaulttest.New(vaulttest.Config{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	resp, err := http.Get(srv.URL() + "/v1/sys/health")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := http.ParseTime(resp.Header.Get("Date")); err != nil || !got.Equal(now) {
		t.Errorf("Date %v, %v", got, err)
	}
}
