package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/proxy"
	"github.com/sidekey/sidekey/vault"
)

// revokeGrace bounds what is done for Vault at the end of a session. Kubernetes may kill a
// sidecar 2 s after SIGTERM; short TTLs are the real bound.
const revokeGrace = 2 * time.Second

// memoryLimit has the collector work harder as the process comes near to it. What the server's
// bounds let live at once is less than half of it.
const memoryLimit = 160 << 20

// A sidecar is everything that runs for one session, in serve, run and demo alike.
type sidecar struct {
	cfg      *config.Config
	log      zerolog.Logger
	ca       *mitmca.CA
	vault    *vault.Session // nil if no credential comes from Vault
	bound    *bound
	metrics  *metrics
	trail    *trail
	proxy    *proxy.Server
	listener net.Listener
	ops      net.Listener // nil: none
	state    state

	ready chan struct{} // closed when agents can be served
	ended sync.Once     // the session's credentials are given up once
}

// newSidecar makes a sidecar from what [prepare] checked, opens its listeners and writes the CA's
// files.
func newSidecar(s *setup, log zerolog.Logger) (*sidecar, error) {
	if err := harden(); err != nil {
		return nil, failed(err)
	}
	debug.SetMemoryLimit(memoryLimit)
	sc := &sidecar{cfg: s.cfg, log: log, ca: s.ca, vault: s.vault, ready: make(chan struct{})}
	sc.metrics = newMetrics(s.cfg.Role, func() bool { return s.vault == nil || s.vault.Ready() })
	auditLog, err := audit.New(audit.Config{Sink: s.sink, Sync: s.cfg.Audit.Sync, Session: s.session, Pod: s.pod})
	if err != nil {
		return nil, failed(fmt.Errorf("start audit trail: %v", err))
	}
	sc.trail = newTrail(auditLog, sc.metrics, log)
	s.anchor = auditLog.Anchor
	s.recorder.set(sc.trail)
	if sc.listener, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return nil, failed(fmt.Errorf("listen: %v", err))
	}
	if s.cfg.Ops != "" {
		if sc.ops, err = net.Listen("tcp", s.cfg.Ops); err != nil {
			sc.listener.Close()
			return nil, failed(fmt.Errorf("listen for probes: %v", err))
		}
	}
	s.protected.listens(sc.listener, sc.ops)
	sc.bound = s.bound
	for _, w := range s.policy.Warnings() {
		log.Warn().Str("where", w.Where).Str("key", w.Path).Msg(w.Msg)
	}
	sc.proxy, err = proxy.New(proxy.Config{
		Listener: sc.listener, CA: s.ca, Generation: s.bound.Generation, Trail: sc.trail,
		RefuseEarly: s.cfg.RefuseEarly, DrainGrace: s.cfg.DrainGrace, Log: log.With().Str("part", "proxy").Logger(),
	})
	if err == nil {
		err = s.ca.WriteFiles(s.cfg.CADir, s.systemRoots)
	}
	if err == nil {
		err = sc.begin(s)
	}
	if err != nil {
		sc.closeListeners()
		return nil, failed(err)
	}
	return sc, nil
}

func (sc *sidecar) closeListeners() {
	sc.listener.Close()
	if sc.ops != nil {
		sc.ops.Close()
	}
}

// begin writes the first records. A session that cannot be recorded does not start.
func (sc *sidecar) begin(s *setup) error {
	sum := sha256.Sum256(sc.ca.Certificate().Raw)
	started := audit.Record{Event: audit.SessionStarted, Version: version, CA: hex.EncodeToString(sum[:])}
	if n := neighbours(); n > 0 && s.pod.UID != "" {
		// In a pod the sidecar is alone with its user, unless somebody shared the namespace.
		started.Detail = fmt.Sprintf("warning: %d processes of the same user share the PID namespace", n)
		sc.log.Warn().Int("processes", n).Msg("processes of the same user share the PID namespace; give the sidecar a user of its own")
	}
	_, err := sc.trail.Append(started)
	if err == nil {
		sc.trail.SetPolicy(1, s.bound.Policy.SHA256())
		_, err = sc.trail.Append(audit.Record{Event: audit.PolicyLoaded, Detail: fmt.Sprintf("%s: mode %s, %d routes, %d credentials",
			s.policyFile, s.bound.Policy.Mode(), len(s.bound.Policy.Routes()), len(s.bound.Policy.Credentials()))})
	}
	if err != nil {
		return fmt.Errorf("write the first audit records: %v", err)
	}
	return nil
}

// url is what the agent's HTTP_PROXY is to be.
func (sc *sidecar) url() string { return "http://" + sc.listener.Addr().String() }

// run serves until ctx ends, drains, ends the session, and returns when all is done.
func (sc *sidecar) run(ctx context.Context) error {
	opsCtx, stopOps := context.WithCancel(context.WithoutCancel(ctx)) // probes answer through the drain
	var ops errgroup.Group
	if sc.ops != nil {
		ops.Go(func() error { return serveOps(opsCtx, sc.ops, opsHandler(&sc.state, sc.metrics)) })
	}
	g, gctx := errgroup.WithContext(ctx)
	drained := make(chan struct{})
	g.Go(func() error { defer close(drained); return sc.proxy.Run(gctx) })
	g.Go(func() error { sc.endOverdue(gctx, drained); return nil })
	g.Go(func() error { return sc.keepLoggedIn(gctx) })
	g.Go(func() error { return sc.endAtTTL(gctx) })
	context.AfterFunc(gctx, func() { sc.state.ready.Store(false) })
	sc.log.Info().Str("listen", sc.listener.Addr().String()).Str("role", sc.cfg.Role).
		Str("policy_sha256", sc.bound.Policy.SHA256()).Msg("listening")
	err := g.Wait()

	sc.endCredentials()
	ended := audit.Record{Event: audit.SessionEnded, Reason: "stopped"}
	if err != nil {
		ended.Reason = "failed"
	}
	sc.trail.note(ended)
	if cerr := sc.trail.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close audit trail: %v", cerr)
	}
	stopOps()
	return errors.Join(err, ops.Wait())
}

// keepLoggedIn logs in to Vault and stays logged in. Until the first login has succeeded requests
// that need a credential are refused; if Vault says no, rather than nothing, the sidecar fails.
func (sc *sidecar) keepLoggedIn(ctx context.Context) error {
	if sc.vault != nil {
		waiting := time.AfterFunc(2*time.Second, func() {
			sc.log.Warn().Str("address", sc.cfg.Vault.Address).Msg("Vault does not answer yet; still trying to log in")
		})
		err := sc.vault.Login(ctx)
		waiting.Stop()
		switch {
		case ctx.Err() != nil || errors.Is(err, credential.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("log in to Vault: %v", err)
		}
	}
	sc.state.ready.Store(true)
	sc.state.started.Store(true)
	close(sc.ready)
	sc.log.Info().Msg("ready")
	if sc.vault == nil {
		return nil
	}
	return sc.vault.Run(ctx)
}

// endAtTTL gives up the session's credentials when its time is over. The proxy goes on, and
// answers session_ended.
func (sc *sidecar) endAtTTL(ctx context.Context) error {
	timer := time.NewTimer(sc.cfg.Session.TTL)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		sc.log.Warn().Dur("ttl_ms", sc.cfg.Session.TTL).Msg("the session's time is over; its credentials are revoked")
		sc.endCredentials()
	}
	return nil
}

// endOverdue gives up the credentials if the proxy has not drained in time: whatever holds it up must
// not keep them alive.
func (sc *sidecar) endOverdue(ctx context.Context, drained <-chan struct{}) {
	<-ctx.Done()
	select {
	case <-drained:
	case <-time.After(sc.cfg.DrainGrace + 5*time.Second):
		sc.log.Error().Msg("the proxy did not drain in time; revoking all the same")
		sc.endCredentials()
	}
}

// endCredentials revokes everything that the session holds: leases first, then the token.
func (sc *sidecar) endCredentials() {
	sc.ended.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), revokeGrace)
		defer cancel()
		var closing sync.WaitGroup
		sc.bound.close(func(c *credential.Cache) { closing.Go(func() { c.Close(ctx) }) })
		closing.Wait()
		if sc.vault == nil {
			return
		}
		if err := sc.vault.Close(ctx); err != nil {
			sc.log.Warn().Err(err).Msg("the Vault token could not be revoked; it is valid until it expires")
		}
	})
}
