package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/realvault"
)

// A badRequest is one that reached an upstream without a credential that is valid.
type badRequest struct {
	at   time.Time
	what string
}

// A faultVault is a Vault with a KV secret, leased AWS keys and an AppRole, all short-lived, and an
// upstream that keeps count of what it did not let in.
type faultVault struct {
	*realStage
	auth string // vault.auth of the config

	mu  sync.Mutex
	bad []badRequest
}

func newFaultVault(t *testing.T, aws *realvault.AWS) *faultVault {
	t.Helper()
	v := &faultVault{realStage: newRealStage(t, realvault.Options{})}
	v.keyValue(t)
	v.vault.AWSRoles(t, aws)
	v.vault.Write(t, "aws/config/lease", map[string]any{"lease": faultLife.String(), "lease_max": faultLife.String()})
	v.allow(t, "aws/creds/user", "read")
	v.allow(t, "sys/leases/revoke/aws/creds/user/*", "update")
	v.auth = v.approle(t, faultLife.String())
	v.up.check("kv", v.noting(v.up.checks["kv"]))
	v.up.check("leased", v.noting(awsCheck(aws)))
	return v
}

// noting makes c keep what it refuses, and refuse what has the header not exactly once.
func (v *faultVault) noting(c credentialCheck) credentialCheck {
	return func(r *http.Request) error {
		got := r.Header.Values("Authorization")
		err := c(r)
		if err == nil && len(got) != 1 {
			err = errors.New("not one Authorization")
		}
		if err != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			what := fmt.Sprintf("%s with %d bytes in %d values: %v", r.URL.Path, len(strings.Join(got, "")), len(got), err)
			v.bad = append(v.bad, badRequest{time.Now(), what})
		}
		return err
	}
}

// check holds that nothing reached the upstream without a credential that was valid.
func (v *faultVault) check(t *testing.T, m *stallMeter) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, b := range v.bad {
		if m.calm(b.at) {
			t.Errorf("the upstream got %s", b.what)
		}
	}
}

// A stallMeter knows when this machine stood still, as a virtual one does when its host is busy, or
// when Vault did. What is measured meanwhile says nothing of Sidekey.
type stallMeter struct {
	mu     sync.Mutex
	stalls []stall
}

type stall struct{ from, to time.Time }

// newStallMeter returns a meter that runs until the test ends.
func newStallMeter(t *testing.T) *stallMeter {
	m := &stallMeter{}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		const nap = 20 * time.Millisecond
		for last := time.Now(); faultWait(ctx, nap); last = time.Now() {
			if late := time.Since(last) - nap; late > 100*time.Millisecond {
				m.mu.Lock()
				m.stalls = append(m.stalls, stall{last.Add(nap), time.Now()})
				m.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return m
}

// watch has m note, too, when ask, which takes some milliseconds, took much longer. It runs until the
// test ends.
func (m *stallMeter) watch(t *testing.T, ask func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for faultWait(ctx, 100*time.Millisecond) {
			from := time.Now()
			ask()
			if to := time.Now(); to.Sub(from) > 250*time.Millisecond {
				m.mu.Lock()
				m.stalls = append(m.stalls, stall{from, to})
				m.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
}

// between returns for how long the machine stood still between two moments.
func (m *stallMeter) between(from, to time.Time) (sum time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.stalls {
		if s.from.Before(from) {
			s.from = from
		}
		if s.to.After(to) {
			s.to = to
		}
		sum += max(0, s.to.Sub(s.from))
	}
	return sum
}

// slow reports whether the machine stood still for a good part of the time d before a moment.
func (m *stallMeter) slow(at time.Time, d time.Duration) bool {
	return m.between(at.Add(-d), at) > d/10
}

// calm reports whether the machine did not stand still in the second before a moment.
func (m *stallMeter) calm(at time.Time) bool { return m.between(at.Add(-time.Second), at) == 0 }

// A steadyAgent asks for one URL every tenth of a second, whatever becomes of its earlier requests.
type steadyAgent struct {
	credential string // the name of the credential that the URL needs
	url        string
	client     *http.Client
	end        func() // stops it and waits for its last request

	mu  sync.Mutex
	got []sample // in the order of their ends
}

// A sample is one request.
type sample struct {
	sent, done time.Time
	status     int
	refusal    string // or the error, if there is no answer
	retry      int    // Retry-After in seconds
}

const agentEvery = 100 * time.Millisecond

// startSteady starts an agent of sv.
func startSteady(t *testing.T, sv *served, credential, url string) *steadyAgent {
	t.Helper()
	client := sv.client()
	client.h2 = true // one tunnel
	c, done, err := client.http()
	if err != nil {
		t.Fatal(err)
	}
	a := &steadyAgent{credential: credential, url: url, client: c}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for faultWait(ctx, agentEvery) {
			all.Go(a.ask)
		}
	})
	a.end = sync.OnceFunc(func() { cancel(); all.Wait(); done() })
	t.Cleanup(a.end)
	return a
}

func (a *steadyAgent) ask() {
	s := sample{sent: time.Now()}
	resp, err := a.client.Get(a.url)
	if err != nil {
		s.refusal = err.Error()
	} else {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		s.status, s.refusal = resp.StatusCode, resp.Header.Get("Sidekey-Refusal")
		s.retry, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
	}
	s.done = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, s)
}

// first returns the first sample since a moment that has the status.
func (a *steadyAgent) first(status int, since time.Time) (sample, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.got {
		if s.status == status && s.done.After(since) {
			return s, true
		}
	}
	return sample{}, false
}

// usableTo is when the cache hands an issuance out for the last time, or a little before that.
func usableTo(issued audit.Entry) time.Time {
	return issued.ExpiresAt.Add(-issued.ExpiresAt.Sub(issued.IssuedAt) / 20)
}

// wantNoneExpired holds that no request carried an issuance that had expired.
func wantNoneExpired(t *testing.T, trail []audit.Entry, m *stallMeter) {
	t.Helper()
	expires := map[string]time.Time{}
	for _, e := range trail {
		switch e.Event {
		case audit.CredentialIssued:
			expires[e.Issuance] = e.ExpiresAt
		case audit.RequestIntent:
			if !e.Time.Before(expires[e.Issuance]) && m.calm(e.Time) {
				t.Errorf("record %d: a request carries a credential that expired %v before", e.Seq, e.Time.Sub(expires[e.Issuance]))
			}
		}
	}
}
