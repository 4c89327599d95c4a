package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekey/sidekey/credential"
)

// atOnce bounds the sources that are asked at the same time at the start.
const atOnce = 8

// prefetch obtains the credentials that the policy wants at hand when the agent begins. It tries
// each once and returns those whose sources are unavailable, to be tried again while the agent
// already runs. The error is what sources refused, all of it: an agent that could not work from its
// first request is better not started.
func (sc *sidecar) prefetch(ctx context.Context) (later []*credential.Cache, err error) {
	var mu sync.Mutex
	var refused []error
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, c := range sc.inForce.Load().credentials {
		if !c.prefetch {
			continue
		}
		g.Go(func() error {
			err := c.cache.Prefetch(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil || errors.Is(err, credential.ErrClosed) || ctx.Err() != nil:
			case errors.Is(err, credential.ErrRefused):
				refused = append(refused, err)
			default:
				sc.log.Warn().Str("credential", c.name).Err(err).Msg("a credential cannot be had yet; still trying")
				later = append(later, c.cache)
			}
			return nil
		})
	}
	g.Wait()
	slices.SortFunc(refused, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return later, errors.Join(refused...)
}

// prefetchLater tries until the credential is there, or refused, or the session ends. Requests that
// need it meanwhile ask for themselves.
func (sc *sidecar) prefetchLater(ctx context.Context, c *credential.Cache) {
	for {
		err := c.Prefetch(ctx)
		switch {
		case err == nil || errors.Is(err, credential.ErrClosed) || ctx.Err() != nil:
			return
		case errors.Is(err, credential.ErrRefused):
			sc.log.Error().Err(err).Msg("a credential was refused; requests that need it are, too")
			return
		}
		pause := time.Second
		if u, ok := errors.AsType[*credential.UnusableError](err); ok {
			pause = max(pause, u.RetryAfter)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
