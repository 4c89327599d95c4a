package vault_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

const (
	outage = 5 * time.Second // how long Vault is away

	mayIssuePKI  = `path "pki/issue/agent" { capabilities = ["update"] }`
	mayRevokePKI = `path "sys/leases/revoke/pki/issue/agent/*" { capabilities = ["update"] }`
)

var leasedPKI = vault.SourceConfig{
	Path: "pki/issue/agent", Write: true, Certificate: true, Data: map[string]any{"common_name": "agent.example.test"},
}

// fleetSize is how many sidecars there are in one process: 500, or what SIDEKEY_FLEET says, for those
// who want to know what their machine can bear.
func fleetSize(t *testing.T) int {
	t.Helper()
	value, ok := os.LookupEnv("SIDEKEY_FLEET")
	if !ok {
		return 500
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("SIDEKEY_FLEET is %q, want how many", value)
	}
	return n
}

// TestRealVaultFleet: 500 sidecars start within 2 s before one Vault, which then crashes and comes
// back, is sealed and unsealed, and comes back without its tokens. Each time all that the sidecars
// have is due for renewal at the same moment, which is worse than life. All recover, no agent is
// refused while what it uses is valid, no session logs in more than once a second, and nothing is left.
//
// docs/scaling.md has what it prints. It is not parallel because other tests would change that.
func TestRealVaultFleet(t *testing.T) {
	srv := startReal(t, realvault.Options{TLS: true}, mayReadKV, mayIssuePKI, mayRevokePKI)
	srv.PKI(t, "agent", "60s")
	f := newFleet(t, fleetSize(t), realAppRole(t, srv, "10m"), []vault.SourceConfig{leasedPKI},
		vault.SourceConfig{Path: realKV, Field: "api_key", MaxAge: time.Minute})
	r := &reporter{t: t, srv: srv, fleet: f}
	stop := f.start(t.Context(), 2*time.Second)
	defer stop()
	defer r.print()

	r.phase("start", func() []time.Duration { return f.recover(t, time.Now(), nil) })
	r.census()
	r.phase("crash", func() []time.Duration {
		srv.Down(t)
		f.renew()
		sleep(t.Context(), outage)
		over := time.Now()
		srv.Up(t)
		return f.recover(t, over, nil)
	})
	r.phase("seal", func() []time.Duration {
		srv.Seal(t)
		f.renew()
		sleep(t.Context(), outage)
		over := time.Now()
		srv.Unseal(t)
		return f.recover(t, over, nil)
	})
	if n := f.refused(r.phases[1].from, time.Now()); n > 0 {
		t.Errorf("%d uses were refused, though all credentials were valid", n)
	}
	r.phase("tokens lost", func() []time.Duration { return f.lose(t, srv) })
	r.phase("end", func() []time.Duration {
		// Refused means that the token had gone with the others.
		if err := stop(); errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("left behind: %.500s", err)
		}
		return nil
	})
	// A session does not know of a token whose login it gave up, or the watch cut off.
	granted, known := logins(t, srv, "approle"), 0
	for _, n := range f.logins() {
		known += n
	}
	if granted > known {
		t.Logf("%d of %d logins got no answer in time; their tokens are left until they expire", granted-known, granted)
	}
	realvault.Eventually(t, "leases and tokens to be gone", func() bool {
		return len(srv.Leases(t, "pki/issue/agent/")) == 0 && len(srv.Tokens(t)) <= granted-known
	})
	if f.issued != f.revoked {
		t.Errorf("%d issuances, of which %d were given up", f.issued, f.revoked)
	}
}

// lose has Vault come back without its tokens and their leases.
func (f *fleet) lose(t *testing.T, srv *realvault.Server) []time.Duration {
	t.Helper()
	f.cut.Store(true)
	logins := f.logins()
	srv.Must(t, "PUT", "sys/leases/revoke-prefix/auth/approle/login", srv.RootToken, map[string]any{"sync": true})
	over := time.Now()
	f.swept.Store(over.UnixNano())
	f.cut.Store(false)
	f.renew()
	return f.recover(t, over, logins)
}

// A reporter collects what happened in each phase, and prints it.
type reporter struct {
	t      *testing.T
	srv    *realvault.Server
	fleet  *fleet
	phases []phase
}

type phase struct {
	name     string
	from, to time.Time
	took     []time.Duration // to recover
	cpu      time.Duration   // of Vault
}

func (r *reporter) phase(name string, run func() []time.Duration) {
	r.t.Helper()
	p := phase{name: name, from: time.Now()}
	before, _ := cpuOf(r.srv)
	defer func() {
		after, _ := cpuOf(r.srv)
		p.to, p.cpu = time.Now(), after-before
		r.phases = append(r.phases, p)
	}()
	p.took = run()
}

// census prints what Vault has to keep for the fleet.
func (r *reporter) census() {
	tokens, leases := r.fleet.held()
	data, _ := r.srv.Must(r.t, "LIST", "auth/token/accessors", r.srv.RootToken, nil)["data"].(map[string]any)
	accessors, _ := data["keys"].([]any)
	n := float64(len(r.fleet.sidecars))
	r.t.Logf("held by each sidecar: %.2f tokens, %.2f leases; Vault lists %d accessors, 2 of which are not the fleet's",
		float64(tokens)/n, float64(leases)/n, len(accessors))
}

func (r *reporter) print() {
	log := r.srv.AuditEntries(r.t)
	var table strings.Builder
	fmt.Fprintf(&table, "%-12s %6s %8s %7s %7s %7s %7s %9s %8s %6s  %s\n", "phase", "s", "requests", "logins", "issues", "revokes",
		"peak/s", "peak/0.1s", "refused", "cpu s", "had to wait, and for how long after the outage")
	for _, p := range r.phases {
		l := loadOf(log, p.from, p.to)
		fmt.Fprintf(&table, "%-12s %6.1f %8d %7d %7d %7d %7d %9d %8d %6.1f  %d: %s\n", p.name, p.to.Sub(p.from).Seconds(), len(l.times),
			l.kinds["login"], l.kinds["issue"], l.kinds["revoke"], peak(l.times, time.Second), peak(l.times, 100*time.Millisecond),
			r.fleet.refused(p.from, p.to), p.cpu.Seconds(), len(p.took), quantiles(p.took))
		if len(l.times) > 10*len(r.fleet.sidecars) {
			r.t.Errorf("%s: %d requests of %d sidecars", p.name, len(l.times), len(r.fleet.sidecars))
		}
	}
	r.t.Logf("%d sidecars, %d CPUs for them and Vault, %s/%s:\n%s", len(r.fleet.sidecars), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, &table)
	gap, whose := r.fleet.soonest(log)
	r.t.Logf("the shortest time from one login of a session to its next: %v", gap)
	if gap < 950*time.Millisecond {
		r.t.Errorf("%s logged in again after %v, want at least a second", whose, gap)
	}
}

// TestRealVaultFleetJitter shows what the jitter of logins is for: 500 sessions that started in the
// same moment, while Vault was away, log in when it is back. Whoever else uses the machine can
// blur that, so there are three attempts.
func TestRealVaultFleetJitter(t *testing.T) {
	const window = 100 * time.Millisecond
	for attempt := 1; ; attempt++ {
		without := comeback(t, func(of time.Duration) time.Duration { return of / 2 })
		with := comeback(t, nil)
		for _, w := range []time.Duration{window, time.Second} {
			t.Logf("at most, in %v: %d connections without jitter, %d with it; %d logins without, %d with", w,
				peak(without.dials, w), peak(with.dials, w), peak(without.logins, w), peak(with.logins, w))
		}
		t.Logf("logged in without jitter: %s; with it: %s", quantiles(without.took), quantiles(with.took))
		// Not by the logins: how many a busy Vault takes in at once is for the machine to say.
		if 2*peak(with.dials, window) <= peak(without.dials, window) {
			return
		}
		if attempt == 3 {
			t.Fatal("want at most half the connections with jitter")
		}
	}
}

// A surge is what came to Vault when it was back.
type surge struct {
	dials  []time.Time // connections that were begun
	logins []time.Time // that Vault's audit log has
	took   []time.Duration
}

// comeback has the sessions of a fleet start at once, while Vault is down, and waits until all are
// logged in. A spread of nil leaves the jitter to chance.
func comeback(t *testing.T, spread func(time.Duration) time.Duration) surge {
	t.Helper()
	srv := startReal(t, realvault.Options{TLS: true}, mayReadKV)
	f := newFleet(t, fleetSize(t), realAppRole(t, srv, "5m"), nil)
	for _, sc := range f.sidecars {
		sc.session.SetSpread(spread)
	}
	srv.Down(t)
	stop := f.start(t.Context(), 0)
	defer stop()
	sleep(t.Context(), 4*time.Second)
	over := time.Now()
	srv.Up(t)
	s := surge{took: f.recover(t, over, nil)}
	to := time.Now()
	s.logins = loadOf(srv.AuditEntries(t), over, to).times
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, at := range f.dials {
		if at.After(over) && at.Before(to) {
			s.dials = append(s.dials, at)
		}
	}
	return s
}

// TestRealVaultThroughput prints what one Vault can do of each thing that sidecars ask, over TLS and with
// a connection for each call, as they ask it.
func TestRealVaultThroughput(t *testing.T) {
	srv := startReal(t, realvault.Options{TLS: true}, mayReadKV, mayIssuePKI, mayRevokePKI)
	srv.PKI(t, "agent", "30s")
	service := realAppRole(t, srv, "5m")
	role := reviewerRole("5m")
	role["token_type"] = "batch"
	roleID, secretID := srv.AppRole(t, "batch", role)
	batch := realConfig(t, srv, vault.Auth{Method: "approle", RoleID: roleID, SecretIDFile: file(t, secretID)}, secretID)
	reader := realSession(t, service)
	kv, leased := realKVSource(reader), reader.Source(leasedPKI)

	for _, op := range []struct {
		name string
		do   func() error
	}{
		{"read of KV version 2", func() error { _, err := kv.Issue(t.Context(), "id"); return err }},
		{"login and revocation", func() error { return loginOnce(t, service) }},
		{"login, batch token", func() error { return loginOnce(t, batch) }},
		{"lease and revocation", func() error {
			iss, err := leased.Issue(t.Context(), "id")
			if err != nil {
				return err
			}
			return leased.(credential.Revoker).Revoke(t.Context(), iss)
		}},
	} {
		r := measure(t, srv, 1500*time.Millisecond, op.do)
		t.Logf("%-22s %6.0f/s, %4.1f ms of Vault's processor time each", op.name, r.perSecond, r.cpu.Seconds()*1000)
		if r.perSecond < 1 {
			t.Errorf("%s: %v/s", op.name, r.perSecond)
		}
	}
}

// loginOnce is a session that does nothing.
func loginOnce(t *testing.T, cfg vault.Config) error {
	s, err := vault.New(cfg)
	if err != nil {
		return err
	}
	return errors.Join(s.Login(t.Context()), s.Close(t.Context()))
}
