package main

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// clockLife is how long the credentials of these tests live, and tokens half as long again.
const clockLife = 6 * time.Second

// A wallClock is a wall clock with an error that can be set; the monotonic clock has none.
type wallClock struct{ off atomic.Int64 }

// set sets the error, which takes effect at once.
func (c *wallClock) set(off time.Duration) { c.off.Store(int64(off)) }

// wall is what vault reads: it keeps to the wall clock.
func (c *wallClock) wall() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.off.Load()))
}

// both is what [time.Now] would return. No function of package time makes a Time whose two readings
// disagree, as they do when the clock is set, so this knows how a Time with both is laid out: seconds
// of the wall clock from bit 30, the monotonic reading in another word.
func (c *wallClock) both() time.Time {
	t := time.Now()
	*(*uint64)(unsafe.Pointer(&t)) += uint64(c.off.Load()/int64(time.Second)) << 30
	return t
}

// A clockStage is a session and its caches, all by one clock.
type clockStage struct {
	clock  *wallClock
	caches map[string]*credential.Cache
	valid  map[string]func(*credential.Issuance) error
	meter  *stallMeter

	mu     sync.Mutex
	issued map[string]int       // by credential
	born   map[string]time.Time // by issuance
	errs   []error              // what was wrong
	gaps   []error              // why there was no credential
	slow   int                  // gaps while the machine or Vault stood still
}

// Issued implements [credential.Recorder].
func (st *clockStage) Issued(iss *credential.Issuance) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.issued[iss.Credential]++
	st.born[iss.ID] = time.Now()
	return nil
}

// Revoked implements [credential.Recorder].
func (st *clockStage) Revoked(*credential.Issuance, error) {}

// A clockVault is a Vault whose KV values, AWS keys, certificates and signed JWTs live for clockLife or
// are asked for again as often.
type clockVault struct {
	*realStage
	auth  vault.Auth
	valid map[string]func(*credential.Issuance) error // by the right time, whatever the sidecar's
}

func newClockVault(t *testing.T) *clockVault {
	t.Helper()
	v := &clockVault{realStage: newRealStage(t, realvault.Options{})}
	v.keyValue(t)
	aws := realvault.StartAWS(t)
	v.vault.AWSRoles(t, aws)
	v.vault.Write(t, "aws/config/lease", map[string]any{"lease": clockLife.String(), "lease_max": clockLife.String()})
	v.allow(t, "aws/creds/user", "read")
	v.vault.PKI(t, "agent", clockLife.String())
	v.allow(t, "pki/issue/agent", "update")
	v.allow(t, "sys/leases/revoke/*", "update")
	v.vault.Mount(t, "transit", "transit", nil)
	v.vault.Write(t, "transit/keys/jwt", map[string]any{"type": "ecdsa-p256"})
	v.allow(t, "transit/sign/jwt", "update")
	roleID, secretID := v.vault.AppRole(t, "tester", tokenRole((clockLife * 3 / 2).String()))
	v.auth = vault.Auth{Method: "approle", RoleID: roleID, SecretIDFile: v.file(t, "secret-id", secretID)}
	v.valid = map[string]func(*credential.Issuance) error{
		"kv": func(*credential.Issuance) error { return nil }, "leased": keysOf(aws), "pki": certificateNow, "jwt": claimsNow,
	}
	return v
}

// clockSources are what the credentials of a stage come from.
var clockSources = map[string]vault.SourceConfig{
	"kv":     {Path: "secret/data/agents/tester", Field: "api_key", MaxAge: clockLife},
	"leased": {Path: "aws/creds/user", Field: "secret_key", UserField: "access_key"},
	"pki":    {Path: "pki/issue/agent", Write: true, Certificate: true, Data: map[string]any{"common_name": "a.example.test"}},
	"jwt":    {Path: "transit/sign/jwt", JWT: &vault.JWTConfig{Algorithm: "ES256", TTL: time.Minute}, MaxAge: clockLife},
}

// stage starts a session by a clock that is off, through address, and uses its credentials twenty
// times a second until the test ends.
func (v *clockVault) stage(t *testing.T, address string, off time.Duration, m *stallMeter) *clockStage {
	t.Helper()
	st := &clockStage{
		clock: &wallClock{}, valid: v.valid, meter: m,
		caches: map[string]*credential.Cache{}, issued: map[string]int{}, born: map[string]time.Time{},
	}
	st.clock.set(off)
	session, err := vault.New(vault.Config{Address: address, Now: st.clock.wall, Auth: v.auth, OnLogin: func(vault.Login) {
		for _, c := range st.caches {
			c.Renew()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range clockSources {
		st.caches[name] = credential.NewCache(credential.CacheConfig{Name: name, Source: session.Source(cfg), Recorder: st, Now: st.clock.both})
	}
	if err := session.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { session.Run(ctx) })
	for name, c := range st.caches {
		all.Go(func() { c.Run(ctx) })
		all.Go(func() {
			for faultWait(ctx, 50*time.Millisecond) {
				st.use(ctx, name, c)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		all.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for name, c := range st.caches {
			if left := c.Close(ctx); len(left) > 0 {
				t.Errorf("%s: %d issuances were not revoked", name, len(left))
			}
		}
		if err := session.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return st
}

// use uses a credential once, as a request would.
func (st *clockStage) use(ctx context.Context, name string, c *credential.Cache) {
	iss, release, err := c.Acquire(ctx)
	now := time.Now()
	if err == nil {
		defer release()
		st.mu.Lock()
		age := now.Sub(st.born[iss.ID])
		st.mu.Unlock()
		if err = st.valid[name](iss); err == nil && age > clockLife {
			err = fmt.Errorf("used %v after it came, and it lives for %v", age, clockLife)
		}
		if err == nil || !st.meter.calm(now) {
			return
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := errors.AsType[*credential.UnusableError](err); ok && st.meter.slow(now, clockLife) {
		st.slow++
	} else if ok {
		st.gaps = append(st.gaps, err)
	} else if ctx.Err() == nil {
		st.errs = append(st.errs, fmt.Errorf("%s: %w", name, err))
	}
}

// check holds that no credential was used that was not valid, and that there was one at all times, or
// not at all times if gaps.
func (st *clockStage) check(t *testing.T, gaps bool) {
	t.Helper()
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := len(st.errs); n > 0 {
		t.Errorf("%d credentials were not valid when they were used, the first: %v", n, st.errs[0])
	}
	if st.slow > 0 {
		t.Logf("%d times there was no credential because the machine or Vault stood still", st.slow)
	}
	if n := len(st.gaps); !gaps && n > 0 {
		t.Errorf("%d times there was no credential, first: %v", n, st.gaps[0])
	} else if gaps && n+st.slow == 0 {
		t.Error("there was a credential at all times")
	}
}

// checkPace holds that nothing was asked for much more often than it had to be: each two thirds of its
// life, with each new token, and with each step of the clock.
func (st *clockStage) checkPace(t *testing.T, since time.Time) {
	t.Helper()
	st.mu.Lock()
	defer st.mu.Unlock()
	lives := float64(time.Since(since)-st.meter.between(since, time.Now())) / float64(clockLife)
	for name, n := range st.issued {
		if float64(n) < lives-1 || float64(n) > 3*lives+5 {
			t.Errorf("%s: %d issuances in %.1f lives", name, n, lives)
		}
	}
}

func keysOf(aws *realvault.AWS) func(*credential.Issuance) error {
	return func(iss *credential.Issuance) error {
		secret, id := inject.Copies(inject.Basic(""), iss)
		if !aws.Accepts(string(id), string(secret)) {
			return errors.New("AWS does not know these keys")
		}
		return nil
	}
}

// certificateNow says whether a certificate is valid by the right time.
func certificateNow(iss *credential.Issuance) error {
	block, _ := pem.Decode(iss.Certificate)
	if block == nil {
		return errors.New("no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if now := time.Now(); err == nil && (now.Before(cert.NotBefore) || now.After(cert.NotAfter)) {
		err = fmt.Errorf("the certificate is valid from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	return err
}

// claimsNow says whether a JWT is valid by the right time.
func claimsNow(iss *credential.Issuance) error {
	token, _ := inject.Copies(inject.Bearer(), iss)
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		return errors.New("no JWT")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var claims struct{ Nbf, Exp int64 }
	if err := json.Unmarshal(b, &claims); err != nil {
		return err
	}
	if now := time.Now().Unix(); now < claims.Nbf || now >= claims.Exp {
		return fmt.Errorf("the JWT is valid from %d to %d, and it is %d", claims.Nbf, claims.Exp, now)
	}
	return nil
}

// TestRealVaultClock: a clock that is an hour off, or is set by an hour while the session runs, is
// not to be felt: no request goes without a credential, none gets one that has expired by the right
// time, and Vault is asked about as often as ever. It is not parallel: lives are short.
func TestRealVaultClock(t *testing.T) {
	checkBoth(t)
	meter, v := newStallMeter(t), newClockVault(t)
	meter.watch(t, func() { statusOf(v.vault.Addr + "/v1/sys/health") })
	way := newFaultProxy(t, v.vault.Addr)
	began := time.Now()
	stages := map[string]*clockStage{
		"right": v.stage(t, v.address, 0, meter), "an hour late": v.stage(t, v.address, -time.Hour, meter),
		"an hour early": v.stage(t, v.address, time.Hour, meter), "set four times": v.stage(t, v.address, 0, meter),
	}
	alone := v.stage(t, "http://"+way.addr, 0, meter)
	for i, off := range []time.Duration{-time.Hour, 0, time.Hour, 0} {
		faultWait(t.Context(), clockLife+time.Duration(i)*clockLife/8) // each at another point of a life
		stages["set four times"].clock.set(off)
		if i == 0 {
			alone.clock.set(off)
			way.refuse(t)
		}
	}
	faultWait(t.Context(), clockLife)
	for name, st := range stages {
		t.Run(name, func(t *testing.T) {
			st.check(t, false)
			st.checkPace(t, began)
		})
	}
	t.Run("set back while Vault is gone", func(t *testing.T) { alone.check(t, true) })
	way.listen(t)
}

// checkBoth holds that a wallClock sets the wall clock, and that alone.
func checkBoth(t *testing.T) {
	t.Helper()
	var c wallClock
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		c.set(off)
		before, got := time.Now(), c.both()
		if mono, wall := got.Sub(before), got.Round(0).Sub(before.Round(0)); mono < 0 || mono > time.Minute || (wall-off-mono).Abs() > time.Millisecond {
			t.Fatalf("set by %v, the monotonic reading moved by %v and the other by %v: time.Time has another layout", off, mono, wall)
		}
	}
}
