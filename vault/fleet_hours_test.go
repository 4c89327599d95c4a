package vault_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// A profile is what a sidecar is configured with, as far as it decides what it asks of Vault.
type profile struct {
	name     string
	ttl      time.Duration // of the login's token
	child    bool          // session_token_role
	batch    bool          // the login brings batch tokens
	kv       int           // credentials of KV
	maxAge   time.Duration
	leased   int // credentials with a lease
	leaseTTL time.Duration
}

// logins is how many there are in an hour: one at two thirds of each token's TTL.
func (p profile) logins() float64 { return 1.5 * float64(time.Hour) / float64(p.ttl) }

// issues is how often a credential of the given life is obtained in an hour: with each login, and at
// two thirds of its life in between. What falls on the login comes before it half of the time.
func (p profile) issues(life time.Duration) float64 {
	between := float64(p.ttl) / float64(life)
	n := float64(int(between))
	if n == between {
		n -= 0.5
	}
	return p.logins() * (1 + n)
}

// requests is what docs/scaling.md says that a sidecar in use asks of Vault in an hour.
func (p profile) requests() float64 {
	perLogin := 2.0 // the login, and the revocation of the token before
	switch {
	case p.batch:
		perLogin = 1
	case p.child:
		perLogin = 4 // the child token is made, and revoked too
	}
	total := p.logins() * perLogin
	if p.kv > 0 {
		total += float64(p.kv) * p.issues(p.maxAge)
	}
	if p.leased > 0 {
		total += float64(p.leased) * p.issues(p.leaseTTL) * 2 // each lease is revoked when it has been replaced
	}
	return total
}

// TestRequestsPerSidecarHour counts what one sidecar in use asks of Vault over 100 hours, and holds
// the formula of docs/scaling.md to it.
func TestRequestsPerSidecarHour(t *testing.T) {
	const h, m = time.Hour, time.Minute
	for _, p := range []profile{
		{name: "idle", ttl: h},
		{name: "one KV", ttl: h, kv: 1, maxAge: h},
		{name: "typical", ttl: h, child: true, kv: 2, maxAge: h, leased: 1, leaseTTL: h},
		{name: "typical, KV read often", ttl: h, child: true, kv: 2, maxAge: 5 * m, leased: 1, leaseTTL: h},
		{name: "typical, TTLs of 15 min", ttl: 15 * m, child: true, kv: 2, maxAge: 15 * m, leased: 1, leaseTTL: 15 * m},
		{name: "typical, TTLs of 4 h", ttl: 4 * h, child: true, kv: 2, maxAge: 4 * h, leased: 1, leaseTTL: 4 * h},
		{name: "batch", ttl: h, batch: true, kv: 3, maxAge: h},
	} {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { p.run(t, 100) })
		})
	}
}

func (p profile) run(t *testing.T, hours int) {
	srv, pipes := stand(t, p.ttl)
	cfg := appRole(t, "http://127.0.0.1:8200")
	if p.batch {
		srv.AddJWTRole("jwt", canary+"-jwt", vaulttest.Role{Name: "reviewer", TTL: p.ttl, Batch: true})
		cfg.Auth = vault.Auth{Method: "jwt", Role: "reviewer", TokenFile: file(t, canary+"-jwt")}
	}
	if p.child {
		srv.AddTokenRole(vaulttest.Role{Name: "session", TTL: p.ttl})
		cfg.SessionTokenRole = "session"
	}
	var sources []vault.SourceConfig
	for range p.kv {
		sources = append(sources, vault.SourceConfig{Path: kvPath, Field: "api_key", MaxAge: p.maxAge})
	}
	for i := range p.leased {
		path := fmt.Sprintf("engine/creds/%d", i)
		srv.AddDynamic(path, p.leaseTTL, func(int) map[string]string { return map[string]string{"token": canary} })
		sources = append(sources, vault.SourceConfig{Path: path, Field: "token"})
	}
	f := newFleet(t, 1, cfg, nil, sources...)
	f.every = time.Minute
	f.sidecars[0].session.SetDial(pipes.dial)
	stop := f.start(t.Context(), 0)
	begin := time.Now()
	time.Sleep(time.Duration(hours) * time.Hour)
	asked := map[string]int{}
	for _, r := range srv.Requests() {
		asked[kindOf(r.Path)]++
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := f.refused(begin, time.Now()); n > 0 {
		t.Errorf("%d uses were refused", n)
	}
	got, want := float64(len(srv.Requests()))/float64(hours), p.requests()
	var each strings.Builder
	for _, kind := range []string{"login", "child", "issue", "revoke"} {
		fmt.Fprintf(&each, ", %s %.1f", kind, float64(asked[kind])/float64(hours))
	}
	t.Logf("%s: %.1f requests in an hour, by the formula %.1f%s", p.name, got, want, &each)
	if got < want*0.85 || got > want*1.15 {
		t.Errorf("%.1f requests in an hour, want %.1f", got, want)
	}
}
