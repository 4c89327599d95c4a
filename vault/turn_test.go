package vault_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// faulty serves srv behind what the test puts in its way.
type faulty struct {
	mu     sync.Mutex
	logins []time.Time // when each login came in
	fault  http.HandlerFunc
}

func (f *faulty) set(fault http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faulty) times() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.logins)
}

func (f *faulty) over(srv *vaulttest.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		if r.URL.Path == "/v1/"+loginAt {
			f.logins = append(f.logins, time.Now())
		}
		fault := f.fault
		f.mu.Unlock()
		if fault == nil {
			fault = srv.ServeHTTP
		}
		fault(w, r)
	}
}

func reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func say(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// hang takes requests and never answers, not even after the fault has ended.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // until then net/http does not notice that the client has gone
	<-r.Context().Done()
}

// Whatever is wrong with Vault, a session whose token has expired asks at most once a second,
// and reads work within 2 s after it is over.
func TestRecovery(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"reset":     reset,
		"half-open": hang,
		"sealed":    say(503, `{"errors":["Vault is sealed"]}`),
		"limited":   say(429, `{"errors":[]}`, "Retry-After", "1"),
		"empty":     say(200, ``),
		"wrong":     say(200, `{"auth":"`+canary+`"}`),
		"html":      say(200, `<html>`),
		"huge":      say(200, `{"auth":"`+string(make([]byte, 2<<20))+`"}`),
		"standby":   say(500, `{"errors":["local node not active"]}`),
	} {
		for shift := range 5 { // when it is over, within the second
			synctest.Test(t, func(t *testing.T) {
				srv, _ := stand(t, 10*time.Second)
				var f faulty
				s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
				login(t, s)
				defer run(t, s)()
				time.Sleep(3 * time.Second)
				f.set(fault)
				time.Sleep(10*time.Second + time.Duration(shift)*197*time.Millisecond)
				if s.Ready() {
					t.Fatalf("%s: ready with an expired token", name)
				}
				f.set(nil)
				over := time.Now()
				for {
					if _, err := kv(s).Issue(t.Context(), "id"); err == nil {
						break
					}
					if time.Since(over) > time.Minute {
						t.Fatalf("%s: not recovered after a minute", name)
					}
					time.Sleep(50 * time.Millisecond)
				}
				if took := time.Since(over); took >= 2*time.Second {
					t.Errorf("%s: recovered after %v", name, took)
				}
				atMostOneASecond(t, name, f.times())
			})
		}
	}
}

func atMostOneASecond(t *testing.T, name string, logins []time.Time) {
	t.Helper()
	for i := 1; i < len(logins); i++ {
		if gap := logins[i].Sub(logins[i-1]); gap < time.Second {
			t.Errorf("%s: %v from one login to the next", name, gap)
		}
	}
}

// While the token is still good, a Vault that is down is asked less and less, and yet in time.
func TestLoginsAheadOfExpiryBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		login(t, s)
		defer run(t, s)()
		f.set(reset)
		time.Sleep(59 * time.Minute) // due after 36 to 44 minutes
		n := len(f.times())
		if n < 30 || n > 160 {
			t.Errorf("%d logins in the last third of the hour, want one in 15s", n)
		}
		time.Sleep(2 * time.Minute)
		f.set(nil)
		over := time.Now()
		for !s.Ready() {
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(over); took > 1600*time.Millisecond {
			t.Errorf("logged in after %v", took)
		}
		atMostOneASecond(t, "down", f.times())
	})
}

// Vault locks out roles that fail too often.
func TestRefusedLoginsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, 10*time.Second)
		var f faulty
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		login(t, s)
		defer run(t, s)()
		f.set(say(400, canary))
		time.Sleep(30 * time.Minute)
		if n := len(f.times()); n < 30 || n > 110 {
			t.Errorf("%d logins in 30m, want one in 30s", n)
		}
		if st := s.Status(); st.LoggedIn || !errors.Is(st.Err, credential.ErrRefused) {
			t.Errorf("status %+v", st)
		}
		f.set(nil)
		time.Sleep(61 * time.Second)
		if st := s.Status(); !st.LoggedIn || st.Err != nil {
			t.Errorf("status %+v", st)
		}
	})
}

func TestLoginHonoursRetryAfter(t *testing.T) {
	soon := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where the clock of synctest begins
	for _, tt := range []struct {
		header   []string
		min, max time.Duration
	}{
		{[]string{"Retry-After", "7"}, 7 * time.Second, 7500 * time.Millisecond},
		{[]string{"Retry-After", "0"}, time.Second, 1500 * time.Millisecond},
		{[]string{"Retry-After", "86400"}, time.Minute, 60500 * time.Millisecond}, // at most a minute
		{[]string{"Retry-After", soon.Add(7 * time.Second).Format(http.TimeFormat)}, 7 * time.Second, 7500 * time.Millisecond},
		{[]string{ // on a server whose clock is an hour ahead
			"Retry-After", soon.Add(time.Hour + 7*time.Second).Format(http.TimeFormat),
			"Date", soon.Add(time.Hour).Format(http.TimeFormat),
		}, 7 * time.Second, 7500 * time.Millisecond},
		{[]string{"Retry-After", canary}, time.Second, 1500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := stand(t, time.Hour)
			var f faulty
			f.set(say(429, canary, tt.header...))
			s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
			time.AfterFunc(100*time.Millisecond, func() { f.set(nil) })
			begin := time.Now()
			login(t, s)
			if took := time.Since(begin); took < tt.min || took > tt.max {
				t.Errorf("%q: logged in after %v", tt.header, took)
			}
		})
	}
}

// A fleet of sessions whose tokens a restart of Vault has swept away does not come back at once.
func TestFleetComesBackSpreadOut(t *testing.T) {
	const fleet = 200
	for name, outage := range map[string]time.Duration{"tokens lost": 0, "down for long": 35 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, 30*time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			sessions := make([]*vault.Session, fleet)
			cfg := appRole(t, "http://127.0.0.1:8200")
			for i := range sessions {
				sessions[i] = openOver(t, p, cfg)
				time.Sleep(2 * time.Second / fleet)
				login(t, sessions[i])
				wg.Go(func() { _ = sessions[i].Run(ctx) })
			}
			time.Sleep(5 * time.Second)
			srv.SetDown(true)
			time.Sleep(outage)
			srv.RevokeTokens()
			srv.SetDown(false)
			before, over := len(srv.Requests()), time.Now()
			var late atomic.Int64
			for _, s := range sessions { // all at once
				wg.Go(func() {
					for {
						if _, err := kv(s).Issue(ctx, "id"); err == nil || ctx.Err() != nil {
							break
						}
						time.Sleep(50 * time.Millisecond)
					}
					for took := int64(time.Since(over)); ; {
						if old := late.Load(); took <= old || late.CompareAndSwap(old, took) {
							return
						}
					}
				})
			}
			time.Sleep(5 * time.Second)
			cancel()
			wg.Wait()
			peak, total := peakLogins(srv.Requests()[before:], 100*time.Millisecond)
			t.Logf("%s: %d logins, at most %d in 100ms, all back after %v", name, total, peak, time.Duration(late.Load()))
			if total != fleet || peak > fleet/4 || time.Duration(late.Load()) >= 2*time.Second {
				t.Errorf("%s: %d logins, at most %d in 100ms, the last session back after %v", name, total, peak, time.Duration(late.Load()))
			}
		})
	}
}

// peakLogins returns the most logins that came within a window, and how many came.
func peakLogins(requests []vaulttest.Request, window time.Duration) (peak, total int) {
	var times []time.Time
	for _, r := range requests {
		if r.Path == loginAt {
			times = append(times, r.Time)
		}
	}
	first := 0
	for i, at := range times {
		for at.Sub(times[first]) >= window {
			first++
		}
		peak = max(peak, i-first+1)
	}
	return peak, len(times)
}

// A token that Vault has lost is replaced soon even if the last login failed long ago and the
// next is far away.
func TestLostTokenDoesNotWaitForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		login(t, s)
		defer run(t, s)()
		f.set(reset)
		time.Sleep(50 * time.Minute) // due after 44 at most; pauses are up to 30 s by now
		f.set(nil)
		srv.RevokeTokens()
		begin := time.Now()
		issue(t, kv(s))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a read took %v", took)
		}
	})
}
