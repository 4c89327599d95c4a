package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
)

// retiring are credentials that only a former policy has, until their requests have ended.
type retiring map[*boundCredential]struct{}

var errEnded = errors.New("the session has ended")

// replace puts next in force, in one step, and records that. Requests that began before go on if
// next allows them, too; the credentials that next does not have are revoked when those have ended.
func (sc *sidecar) replace(ctx context.Context, next *bound, detail string) error {
	sc.replacing.Lock()
	defer sc.replacing.Unlock()
	if sc.over {
		return errEnded
	}
	former := sc.inForce.Load()
	sc.trail.SetPolicy(next.Number, next.Policy.SHA256())
	var retired <-chan struct{}
	_, err := sc.trail.Append(audit.Record{Event: audit.PolicyLoaded, PromptSHA256: next.Policy.PromptSHA256(), Detail: detail})
	if err == nil {
		retired, err = sc.proxy.SetGeneration(next.Generation)
	}
	if err != nil {
		sc.trail.SetPolicy(former.Number, former.Policy.SHA256())
		return fmt.Errorf("put the policy in force: %v", err)
	}
	sc.inForce.Store(next)
	for _, c := range next.without(former) {
		sc.tasks.Go(func() error { return c.cache.Run(sc.upkeep) })
		if c.prefetch {
			sc.tasks.Go(func() error { sc.prefetchLater(ctx, c.cache); return nil })
		}
	}
	if gone := former.without(next); len(gone) > 0 {
		for _, c := range gone {
			sc.retiring[c] = struct{}{}
		}
		sc.tasks.Go(func() error { sc.retire(ctx, retired, gone); return nil })
	}
	return nil
}

// retire closes the credentials in gone when no request of their policy is left, or has had time
// enough. At the end of the session giveUp does that, also for those that are being closed here.
func (sc *sidecar) retire(ctx context.Context, retired <-chan struct{}, gone []*boundCredential) {
	select {
	case <-retired:
	case <-time.After(retireAfter):
	case <-ctx.Done():
		return
	}
	for _, c := range gone {
		left := c.cache.Close(ctx)
		c.closeIdle()
		sc.replacing.Lock()
		delete(sc.retiring, c)
		sc.left = append(sc.left, left...)
		sc.replacing.Unlock()
	}
}

// stopReplacing has no policy replaced any more, and returns all credentials that there are, with
// what could not be revoked of those that are gone.
func (sc *sidecar) stopReplacing() (all []*boundCredential, left []*credential.Issuance) {
	sc.replacing.Lock()
	defer sc.replacing.Unlock()
	sc.over = true
	all = append(all, sc.inForce.Load().credentials...)
	for c := range sc.retiring {
		all = append(all, c)
	}
	return all, slices.Clone(sc.left)
}
