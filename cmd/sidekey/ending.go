package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
)

// revokeGrace bounds what is done for Vault at the end of a session. Kubernetes may kill a
// sidecar 2 s after SIGTERM; short TTLs are the real bound.
const revokeGrace = 2 * time.Second

// leaseGrace is the part of it that the leases get: the token's revocation ends those that are
// left.
const leaseGrace = 1200 * time.Millisecond

// closeSlack is what a cache may take beyond that, to record what it did.
const closeSlack = 200 * time.Millisecond

// The reasons in the trail for which a session ends.
const (
	endStopped = "stopped" // the process was told to stop, or its command has ended
	endFailed  = "failed"
	endTTL     = "ttl"
	endAdmin   = bySocket
)

// An ending is what came of the end of a session.
type ending struct {
	reason    string
	at        time.Time
	unrevoked []string // the lease's id where there is one, else the issuance's
	token     error    // why the Vault token could not be revoked
}

// end ends the session before the process does: its credentials are given up, and requests that need
// one are refused from then on. It reports false, with what came of the first end, if the session
// has ended before.
func (sc *sidecar) end(reason, by, detail string) (ending, bool) {
	sc.endMu.Lock()
	defer sc.endMu.Unlock()
	if e := sc.ended.Load(); e != nil {
		return *e, false
	}
	return sc.recordEnd(reason, by, detail), true
}

// finish ends the session with the process. If it has ended before, the trail gets a last record all
// the same.
func (sc *sidecar) finish(reason string) {
	sc.endMu.Lock()
	defer sc.endMu.Unlock()
	if sc.ended.Load() != nil {
		sc.trail.note(audit.Record{Event: audit.SessionEnded, Reason: reason})
		return
	}
	sc.recordEnd(reason, "", "")
}

// recordEnd gives the credentials up and records that. sc.endMu is held.
func (sc *sidecar) recordEnd(reason, by, detail string) ending {
	e := sc.giveUp()
	e.reason, e.at = reason, time.Now()
	sc.ended.Store(&e)
	rec := audit.Record{Event: audit.SessionEnded, Reason: reason, By: by, Detail: detail, Unrevoked: e.unrevoked}
	if e.token != nil {
		rec.Error = "token_not_revoked"
	}
	sc.trail.note(rec)
	return e
}

// endAtTTL ends the session when its time is over.
func (sc *sidecar) endAtTTL(ctx context.Context) {
	timer := time.NewTimer(sc.cfg.Session.TTL)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		sc.log.Warn().Dur("ttl_ms", sc.cfg.Session.TTL).Msg("the session's time is over; its credentials are revoked")
		sc.end(endTTL, "", "")
	}
}

// endOverdue gives up the credentials if the proxy has not drained in time, and lets the process end:
// whatever holds it up, such as a sink that stands still, must not keep them alive.
func (sc *sidecar) endOverdue(ctx context.Context, drained <-chan struct{}) {
	<-ctx.Done()
	if !within(sc.cfg.DrainGrace+5*time.Second, drained) {
		sc.log.Error().Msg("the proxy did not drain in time; revoking all the same")
		sc.giveUp()
		close(sc.overdue)
	}
}

// errOverdue is how a process ends that could not wait for all of itself.
var errOverdue = errors.New("not all that was under way had an end in time; the audit sink may stand still")

// lastPatience is for how long the process waits for each of the last things that it has to do.
const lastPatience = 2 * time.Second

// allOver waits for what runs beside the proxy, closes the trail, and sends what is left of its copies.
func (sc *sidecar) allOver(aside *errgroup.Group) error {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = aside.Wait()
		if cerr := sc.trail.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("close audit trail: %v", cerr)
		}
	}()
	begin := time.Now()
	over := within(lastPatience, done)
	sc.exporter.finish(lastPatience - time.Since(begin))
	if !over {
		return errOverdue
	}
	return err
}

// giveUp revokes everything that the session holds: leases first, then the tokens. The proxy lets no
// credential out before that begins. Only the first call does anything; all return what came of it.
func (sc *sidecar) giveUp() ending {
	sc.givingUp.Do(func() {
		sc.proxy.EndSession()
		ctx, cancel := context.WithTimeout(context.Background(), revokeGrace)
		defer cancel()
		left := sc.closeCaches(ctx)
		if sc.vault != nil {
			if sc.given.token = sc.vault.Close(ctx); sc.given.token != nil {
				sc.log.Warn().Err(sc.given.token).Msg("a Vault token could not be revoked; it is valid until it expires")
			}
		}
		for _, iss := range left {
			switch {
			case iss.Origin.LeaseID == "":
				sc.given.unrevoked = append(sc.given.unrevoked, iss.ID)
			case sc.given.token != nil || !sc.ownsTokens():
				sc.given.unrevoked = append(sc.given.unrevoked, iss.Origin.LeaseID)
			}
		}
	})
	return sc.given
}

// ownsTokens reports whether the tokens that leases were issued under are the session's own, so that
// their revocation ended the leases.
func (sc *sidecar) ownsTokens() bool {
	return sc.cfg.Vault.Auth.Method != "token" || sc.cfg.Vault.SessionTokenRole != ""
}

// closeCaches closes all caches at once and returns what could not be revoked.
func (sc *sidecar) closeCaches(ctx context.Context) []*credential.Issuance {
	ctx, cancel := context.WithTimeout(ctx, leaseGrace)
	defer cancel()
	var mu sync.Mutex
	var closing sync.WaitGroup
	all, left := sc.stopReplacing()
	for _, c := range all {
		closing.Go(func() {
			issuances := c.cache.Close(ctx)
			c.closeIdle()
			mu.Lock()
			defer mu.Unlock()
			left = append(left, issuances...)
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); closing.Wait() }()
	// Its calls end with ctx, but a record that it waits for may never be written.
	if !within(leaseGrace+closeSlack, done) {
		sc.log.Error().Msg("not all credentials were given up in time; what is left ends with the Vault token, or expires")
	}
	sc.inForce.Load().plain.CloseIdleConnections()
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(left)
}
