package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
	"github.com/sidekey/sidekey/vault"
)

// memoryLimit has the collector work harder as the process comes near to it. What the server's
// bounds let live at once is less than half of it.
const memoryLimit = 160 << 20

// A sidecar is everything that runs for one session, in serve, run and demo alike.
type sidecar struct {
	cfg        *config.Config
	policyFile string
	log        zerolog.Logger
	session    audit.Session     // as it began; see trail.attribution
	claims     map[string]string // what Vault's logins are compared with
	began      time.Time
	ca         *mitmca.CA
	vault      *vault.Session // nil if no credential comes from Vault
	inForce    atomic.Pointer[bound]
	reloader   *reloader
	metrics    *metrics
	trail      *trail
	exporter   *exporter // nil: no copies of the trail are sent
	proxy      *proxy.Server
	kill       *killSwitch
	listener   net.Listener
	ops        net.Listener // nil: none
	admin      net.Listener // nil: none
	state      state
	vaultReady atomic.Bool // the first login is done, or there is no Vault

	ready   chan struct{} // closed when agents can be served
	overdue chan struct{} // closed when the credentials were given up and something is still under way

	// For replacing the policy; guarded by replacing, but for tasks and upkeep, which do not change.
	replacing sync.Mutex
	retiring  retiring
	left      []*credential.Issuance // what of the credentials that are gone could not be revoked
	tasks     *errgroup.Group
	upkeep    context.Context // of the credentials

	endMu    sync.Mutex // one end at a time
	ended    atomic.Pointer[ending]
	givingUp sync.Once
	given    ending // what came of giveUp
	over     bool   // no policy is put in force any more; guarded by replacing
}

// newSidecar makes a sidecar from what [prepare] checked, opens its listeners and writes the CA's
// files.
func newSidecar(s *setup, log zerolog.Logger) (*sidecar, error) {
	debug.SetMemoryLimit(memoryLimit)
	sc := &sidecar{
		cfg: s.cfg, policyFile: s.policyFile, log: log, session: s.session, claims: s.claims, began: time.Now(),
		ca: s.ca, vault: s.vault, ready: make(chan struct{}), overdue: make(chan struct{}), retiring: retiring{},
	}
	sc.inForce.Store(s.bound)
	sc.reloader = newReloader(sc, s)
	sc.metrics = newMetrics(s.cfg.Role)
	auditLog, err := sc.openTrail(s, log)
	if err != nil {
		return nil, failed(fmt.Errorf("start audit trail: %v", err))
	}
	s.anchor, s.onLogin, s.onCall = auditLog.Anchor, sc.loggedIn, sc.trail.called
	s.recorder.set(sc.trail)
	if err := sc.listen(); err != nil {
		sc.closeListeners()
		return nil, failed(err)
	}
	s.protected.listens(sc.listener, sc.ops)
	for _, w := range s.policy.Warnings() {
		log.Warn().Str("where", w.Where).Str("key", w.Path).Msg(w.Msg)
	}
	sc.proxy, err = proxy.New(proxy.Config{
		Listener: sc.listener, CA: s.ca, Generation: s.bound.Generation, Trail: sc.trail,
		Session:     policy.Session{ID: cmp.Or(s.claims["session_id"], s.session.ID), Role: s.session.Role, RequestedBy: s.session.RequestedBy},
		RefuseEarly: s.cfg.RefuseEarly, DrainGrace: s.cfg.DrainGrace, Log: log.With().Str("part", "proxy").Logger(),
	})
	if err == nil {
		sc.kill = newKillSwitch(sc.proxy, sc.trail, s.killFile, log)
		sc.metrics.registry.MustRegister(gauges{sc.status})
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

// openTrail starts the trail, and what copies of it are sent by.
func (sc *sidecar) openTrail(s *setup, log zerolog.Logger) (*audit.Log, error) {
	sink := s.sink
	queue := newCopyQueue(sc.metrics.otlpDropped)
	sc.exporter = newExporter(s.cfg.Audit.OTLP, s.otlpRoots, s.session, s.pod, queue, log.With().Str("part", "otlp").Logger())
	if sc.exporter != nil {
		sink = &copyingSink{Sink: sink, queue: queue, synced: s.cfg.Audit.Sync}
	}
	sc.trail = newTrail(s.session.Attribution, sc.metrics, log)
	auditLog, err := audit.New(audit.Config{
		Sink: sink, Sync: s.cfg.Audit.Sync, SegmentBytes: s.cfg.Audit.Segment, Session: s.session, Pod: s.pod,
		Problem: func(err error) { log.Error().Err(err).Msg("audit trail") },
		Posted:  sc.trail.posted,
	})
	sc.trail.Log = auditLog
	return auditLog, err
}

// listen opens the listeners that the config names.
func (sc *sidecar) listen() (err error) {
	if sc.listener, err = net.Listen("tcp", sc.cfg.Listen); err != nil {
		return fmt.Errorf("listen: %v", err)
	}
	if sc.cfg.Ops != "" {
		if sc.ops, err = net.Listen("tcp", sc.cfg.Ops); err != nil {
			return fmt.Errorf("listen for probes: %v", err)
		}
	}
	if sc.cfg.Admin != "" {
		admin, err := listenAdmin(sc.cfg.Admin, sc.log)
		if err != nil {
			return fmt.Errorf("make the admin socket: %v", err)
		}
		sc.admin = admin
	}
	return nil
}

func (sc *sidecar) closeListeners() {
	for _, ln := range []net.Listener{sc.listener, sc.ops, sc.admin} {
		if ln != nil {
			ln.Close()
		}
	}
}

// begin writes the first records. A session that cannot be recorded does not start.
func (sc *sidecar) begin(s *setup) error {
	sum := sha256.Sum256(sc.ca.Certificate().Raw)
	started := audit.Record{Event: audit.SessionStarted, Version: version, CA: hex.EncodeToString(sum[:]), PromptSHA256: s.bound.Policy.PromptSHA256()}
	if n := neighbours(); n > 0 && s.pod.UID != "" {
		// In a pod the sidecar is alone with its user, unless somebody shared the namespace.
		started.Detail = fmt.Sprintf("warning: %d processes of the same user share the PID namespace", n)
		sc.log.Warn().Int("processes", n).Msg("processes of the same user share the PID namespace; give the sidecar a user of its own")
	}
	_, err := sc.trail.Append(started)
	if err == nil {
		sc.trail.SetPolicy(s.bound.Number, s.bound.Policy.SHA256())
		_, err = sc.trail.Append(audit.Record{Event: audit.PolicyLoaded, Detail: s.policyFile + ": " + summary(s.bound.Policy)})
	}
	if err != nil {
		return fmt.Errorf("write the first audit records: %v", err)
	}
	return sc.kill.lookAtFile() // before the first request
}

// url is what the agent's HTTP_PROXY is to be.
func (sc *sidecar) url() string { return "http://" + sc.listener.Addr().String() }

// run serves until ctx ends, drains, ends the session, and returns when all is done.
func (sc *sidecar) run(ctx context.Context) error {
	asideCtx, stopAside := context.WithCancel(context.WithoutCancel(ctx)) // probes and administrators are answered through the drain
	defer stopAside()
	aside := sc.serveAside(asideCtx)
	if sc.exporter != nil {
		go sc.exporter.run()
	}

	g, gctx := errgroup.WithContext(ctx)
	upkeep, stopUpkeep := context.WithCancel(context.WithoutCancel(ctx)) // credentials are kept valid through the drain
	defer stopUpkeep()
	drained := make(chan struct{})
	g.Go(func() error { defer close(drained); defer stopUpkeep(); return sc.proxy.Run(gctx) })
	g.Go(func() error { sc.endOverdue(gctx, drained); return nil })
	g.Go(func() error { sc.endAtTTL(gctx); return nil })
	g.Go(func() error { return sc.open(gctx, upkeep) })
	sc.tasks, sc.upkeep = g, upkeep
	for _, c := range sc.inForce.Load().credentials {
		g.Go(func() error { return c.cache.Run(upkeep) })
	}
	g.Go(func() error { sc.reloader.run(gctx); return nil })
	context.AfterFunc(gctx, func() { sc.state.ready.Store(false) })
	sc.log.Info().Str("listen", sc.listener.Addr().String()).Str("role", sc.cfg.Role).
		Str("policy_sha256", sc.inForce.Load().Policy.SHA256()).Msg("listening")
	over := make(chan error, 1)
	go func() { over <- g.Wait() }()
	var err error
	select {
	case err = <-over:
	case <-sc.overdue:
		err = errOverdue
	}
	reason := endStopped
	if err != nil {
		reason = endFailed
	}
	sc.finish(reason)
	stopAside()
	return errors.Join(err, sc.allOver(aside))
}

// serveAside starts what is beside the proxy: probes, the admin socket, the look at the kill file.
func (sc *sidecar) serveAside(ctx context.Context) *errgroup.Group {
	var g errgroup.Group
	if sc.ops != nil {
		g.Go(func() error { return serveOps(ctx, sc.ops, opsHandler(&sc.state, sc.metrics)) })
	}
	if sc.admin != nil {
		g.Go(func() error { return sc.serveAdmin(ctx) })
	}
	g.Go(func() error { sc.kill.watchFile(ctx); return nil })
	return &g
}

// open logs in to Vault, obtains what is to be at hand, and says that agents can be served; then it
// stays logged in until upkeep ends. Until the first login has succeeded requests that need a
// credential from Vault are refused; if Vault or another source says no, rather than nothing, the
// sidecar fails.
func (sc *sidecar) open(ctx, upkeep context.Context) error {
	if err := sc.login(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	sc.vaultReady.Store(true)
	later, err := sc.prefetch(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	sc.state.ready.Store(true)
	sc.state.started.Store(true)
	close(sc.ready)
	sc.log.Info().Msg("ready")
	var fetching sync.WaitGroup
	defer fetching.Wait()
	for _, c := range later {
		fetching.Go(func() { sc.prefetchLater(ctx, c) })
	}
	if sc.vault == nil {
		return nil
	}
	return sc.vault.Run(upkeep)
}

// login logs in for the first time. Its error is Vault's no.
func (sc *sidecar) login(ctx context.Context) error {
	if sc.vault == nil {
		return nil
	}
	waiting := time.AfterFunc(2*time.Second, func() {
		sc.log.Warn().Str("address", sc.cfg.Vault.Address).Msg("Vault does not answer yet; still trying to log in")
	})
	defer waiting.Stop()
	err := sc.vault.Login(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, credential.ErrClosed) {
		return nil
	}
	return fmt.Errorf("log in to Vault: %v", err)
}

// loggedIn is told of each login. Leases end with the token that they were issued under, so what
// came from Vault is replaced before the former token goes.
func (sc *sidecar) loggedIn(l vault.Login) {
	if sc.trail.attribution() != audit.VaultVerified && vouches(l, sc.claims) {
		sc.trail.raise(audit.VaultVerified, audit.Record{Detail: "Vault's login names the session and the requester"})
	}
	if l.Generation <= 1 {
		return
	}
	for _, c := range sc.inForce.Load().credentials {
		if c.kind == kindVault {
			c.cache.Renew()
		}
	}
}
