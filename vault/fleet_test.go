package vault_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/realvault"
	"github.com/sidekey/sidekey/vault"
)

// fleetMark begins the correlation id of every call of a fleet, and tells its calls from the
// test's.
const fleetMark = "fleet-"

// patient is how long a call may take. It is longer than the default, so that on a busy machine the
// fleet is slow and does not ask twice.
const patient = 30 * time.Second

// A fleet is many sidecars in one process, each with a client of its own.
type fleet struct {
	sidecars []*sidecar
	every    time.Duration // from one use of the credentials to the next, give or take half of it
	cut      atomic.Bool   // nothing reaches Vault

	// swept is when Vault's leases were revoked, in nanoseconds since 1970: the upstream refuses
	// what was issued under one before.
	swept atomic.Int64

	mu              sync.Mutex
	began           map[string]time.Time // when each call began, by correlation id
	dials           []time.Time
	issued, revoked int
}

// A sidecar is what one pod runs of Sidekey between its agent and Vault.
type sidecar struct {
	fleet   *fleet
	session *vault.Session
	caches  []*credential.Cache

	mu   sync.Mutex
	uses []use
}

// A use is one time that the agent needed its credentials.
type use struct {
	at time.Time // when it had them, or was refused
	ok bool
}

// newFleet returns n sidecars that are not logged in. cfg is their config but for what tells them
// apart, and sources are those of each. Every tenth sidecar has leased, too.
func newFleet(t *testing.T, n int, cfg vault.Config, leased []vault.SourceConfig, sources ...vault.SourceConfig) *fleet {
	t.Helper()
	f := &fleet{every: time.Second, began: map[string]time.Time{}}
	for i := range n {
		sc := &sidecar{fleet: f}
		cfg.Correlation = func(id string) string { return f.begin(fmt.Sprintf("%s%05d-%s", fleetMark, i, id)) }
		cfg.OnLogin = sc.loggedIn
		cfg.CallTimeout = patient
		sc.session = open(t, cfg)
		sc.session.SetDial(f.dial)
		of := sources
		if i%10 == 0 {
			of = slices.Concat(sources, leased)
		}
		for _, src := range of {
			sc.caches = append(sc.caches, credential.NewCache(credential.CacheConfig{
				Name: src.Path, Source: sc.session.Source(src), Recorder: f,
				IssueTimeout: 2 * patient, RevokeTimeout: patient,
			}))
		}
		f.sidecars = append(f.sidecars, sc)
	}
	return f
}

// begin notes when a call began: Vault's audit log says only when it arrived.
func (f *fleet) begin(correlation string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.began[correlation] = time.Now()
	return correlation
}

// dial notes that a call goes out: each has a connection of its own.
func (f *fleet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	f.mu.Lock()
	f.dials = append(f.dials, time.Now())
	f.mu.Unlock()
	if f.cut.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (f *fleet) Issued(*credential.Issuance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.issued++
	return nil
}

func (f *fleet) Revoked(*credential.Issuance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked++
}

// start starts the sidecars one after the other within d, as a deployment does. The function that
// it returns ends them in the same way. Its error is what could not be revoked. Only its first call does
// anything.
func (f *fleet) start(ctx context.Context, d time.Duration) (stop func() error) {
	ends := make([]context.CancelFunc, len(f.sidecars))
	errs := make([]error, len(f.sidecars))
	var running sync.WaitGroup
	for i, sc := range f.sidecars {
		serving, end := context.WithCancel(ctx)
		ends[i] = end
		running.Go(func() {
			if sleep(serving, f.turn(i, d)) {
				sc.serve(serving)
			}
			errs[i] = sc.close()
		})
	}
	return sync.OnceValue(func() error {
		begin := time.Now()
		for i, end := range ends {
			sleep(ctx, time.Until(begin.Add(f.turn(i, d))))
			end()
		}
		running.Wait()
		return errors.Join(errs...)
	})
}

// turn is when within d it is the turn of sidecar i.
func (f *fleet) turn(i int, d time.Duration) time.Duration {
	return d * time.Duration(i) / time.Duration(len(f.sidecars))
}

// serve does what `sidekey serve` does with Vault, in its order, until ctx ends.
func (sc *sidecar) serve(ctx context.Context) {
	if sc.session.Login(ctx) != nil {
		return
	}
	var wg sync.WaitGroup
	for _, c := range sc.caches {
		_ = c.Prefetch(ctx) // if there is none yet, the agent asks
		wg.Go(func() { _ = c.Run(ctx) })
	}
	wg.Go(func() { _ = sc.session.Run(ctx) })
	for pause := time.Duration(0); sleep(ctx, pause); {
		pause = sc.use(ctx)
	}
	wg.Wait()
}

func (sc *sidecar) loggedIn(l vault.Login) {
	if l.Generation > 1 {
		sc.renew()
	}
}

// renew makes all that the sidecars have due for renewal.
func (f *fleet) renew() {
	for _, sc := range f.sidecars {
		sc.renew()
	}
}

func (sc *sidecar) renew() {
	for _, c := range sc.caches {
		c.Renew()
	}
}

// use needs each credential once, and returns when the agent will need them again. An agent that is
// refused does as it is told by Retry-After.
func (sc *sidecar) use(ctx context.Context) time.Duration {
	pause := sc.fleet.every/2 + rand.N(sc.fleet.every)
	ok := true
	for _, c := range sc.caches {
		err := sc.carry(ctx, c)
		if ctx.Err() != nil {
			return 0
		}
		if err != nil {
			ok = false
		}
		var u *credential.UnusableError
		if errors.As(err, &u) {
			pause = max(u.RetryAfter, 10*time.Millisecond)
		}
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.uses = append(sc.uses, use{time.Now(), ok})
	return pause
}

// carry makes one request with a credential. The upstream refuses one whose lease has been
// revoked, and gets another.
func (sc *sidecar) carry(ctx context.Context, c *credential.Cache) error {
	iss, release, err := c.Acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if iss.Origin.LeaseID == "" || iss.IssuedAt.UnixNano() >= sc.fleet.swept.Load() {
		return nil
	}
	_, releaseNext, err := c.Reissue(ctx, iss)
	if err == nil {
		releaseNext()
	}
	return err
}

func (sc *sidecar) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	left := 0
	for _, c := range sc.caches {
		left += len(c.Close(ctx))
	}
	err := sc.session.Close(ctx)
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("%d issuances were not revoked", left))
	}
	return err
}

// healthy reports whether the session has logged in at least so often and nothing is wrong with it
// nor with its credentials.
func (sc *sidecar) healthy(logins int) bool {
	st := sc.session.Status()
	ok := st.LoggedIn && st.Err == nil && st.Generation >= logins
	for _, c := range sc.caches {
		s := c.Status()
		ok = ok && s.Held && s.Err == nil
	}
	return ok
}

// recover waits until all sidecars are healthy, and returns how long after over that was for each
// that was not when over came. known has their logins until then; nil does not matter.
func (f *fleet) recover(t *testing.T, over time.Time, known []int) (took []time.Duration) {
	t.Helper()
	waiting := map[int]bool{}
	for i := range f.sidecars {
		waiting[i] = true
	}
	for first := true; len(waiting) > 0; first = false {
		for i := range waiting {
			logins := 0
			if known != nil {
				logins = known[i] + 1
			}
			if !f.sidecars[i].healthy(logins) {
				continue
			}
			delete(waiting, i)
			if !first {
				took = append(took, time.Since(over))
			}
		}
		if time.Since(over) > 3*patient {
			t.Fatalf("%d sidecars have not recovered after %v", len(waiting), 3*patient)
		}
		sleep(t.Context(), 5*time.Millisecond)
	}
	return took
}

// logins returns how often each session has logged in.
func (f *fleet) logins() []int {
	n := make([]int, len(f.sidecars))
	for i, sc := range f.sidecars {
		n[i] = sc.session.Status().Generation
	}
	return n
}

// refused returns how many uses failed between two moments.
func (f *fleet) refused(from, to time.Time) int {
	n := 0
	for _, sc := range f.sidecars {
		sc.mu.Lock()
		for _, u := range sc.uses {
			if !u.ok && u.at.After(from) && u.at.Before(to) {
				n++
			}
		}
		sc.mu.Unlock()
	}
	return n
}

// held returns how many tokens and leases the sessions say that they hold.
func (f *fleet) held() (tokens, leases int) {
	for _, sc := range f.sidecars {
		st := sc.session.Status()
		tokens, leases = tokens+st.Tokens, leases+st.Leases
	}
	return tokens, leases
}

// soonest returns the least time from one login of a session to its next, as Vault was asked for
// them, and whose that was.
func (f *fleet) soonest(log []realvault.AuditEntry) (gap time.Duration, whose string) {
	logins := map[string][]time.Time{}
	f.mu.Lock()
	for _, e := range log {
		if c := e.Correlation(); e.Type == "request" && strings.HasPrefix(c, fleetMark) && kindOf(e.Request.Path) == "login" {
			who := c[:len(fleetMark)+5]
			logins[who] = append(logins[who], f.began[c])
		}
	}
	f.mu.Unlock()
	gap = time.Hour
	for _, who := range slices.Sorted(maps.Keys(logins)) {
		times := slices.SortedFunc(slices.Values(logins[who]), time.Time.Compare)
		for i := 1; i < len(times); i++ {
			if d := times[i].Sub(times[i-1]); d < gap {
				gap, whose = d, who
			}
		}
	}
	return gap, whose
}

// sleep waits for d and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
