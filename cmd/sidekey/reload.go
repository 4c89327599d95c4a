package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
)

const (
	// reloadPoll is how often the policy's files are looked at though nobody said that they changed:
	// not every filesystem says so.
	reloadPoll = 2 * time.Second

	// reloadPause is for how long the files must stay as they are: more of a change may be coming.
	reloadPause = 50 * time.Millisecond

	// retireAfter is for how long requests that began under a former policy keep the credentials
	// that only it has.
	retireAfter = time.Minute
)

// A reloader replaces the policy when its files change. A policy that cannot be taken leaves the one
// in force as it is. It works from one goroutine; only status is for others.
type reloader struct {
	sc        *sidecar
	binder    *binder
	protected *protected
	addresses []netip.Addr // for which the CA can make certificates
	path      string
	files     map[string][]byte // as they were when the policy was loaded last, or refused
	seen      string            // the digest of the files when they were looked at last

	mu      sync.Mutex
	refused *refusedPolicy // nil if the files hold the policy in force
}

// A refusedPolicy is what stands in the policy's files and was not taken.
type refusedPolicy struct {
	At       time.Time `json:"at"`
	Mistakes []string  `json:"mistakes"` // "policy.yaml:14:12: routes[2].host: what is wrong"
}

func newReloader(sc *sidecar, s *setup) *reloader {
	return &reloader{
		sc: sc, binder: s.binder, protected: s.protected, addresses: addressesOf(s.policy), path: s.policyFile,
		files: s.policyFiles, seen: digestOf(s.policyFiles),
	}
}

// status returns why the policy's files are not what is in force; nil if they are.
func (r *reloader) status() *refusedPolicy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// run follows the policy's files until ctx ends. A SIGHUP has them looked at at once.
func (r *reloader) run(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var events chan fsnotify.Event
	var errs chan error // of the watcher, which waits until they are taken; the poll makes up for what it missed
	w, err := fsnotify.NewWatcher()
	if err != nil {
		r.sc.log.Warn().Err(err).Dur("every_ms", reloadPoll).Msg("changes of the policy are not announced; its files are looked at all the same")
	} else {
		defer w.Close()
		events, errs = w.Events, w.Errors
	}
	tick := time.NewTicker(reloadPoll)
	defer tick.Stop()
	for {
		watch(w, r.files)
		select {
		case <-events:
		case <-tick.C:
		case <-errs:
		case <-hup:
		case <-ctx.Done():
			return
		}
		if digestOf(readAgain(r.files)) != r.seen {
			r.load(ctx)
		}
	}
}

// watch has w tell of the directories of files. One that is not there, or watched already, does not
// matter.
func watch(w *fsnotify.Watcher, files map[string][]byte) {
	if w == nil {
		return
	}
	for name := range files {
		w.Add(filepath.Dir(name))
	}
}

// read reads the policy until its files, those that it includes too, are the same a moment later: half
// of a file that is being written may be a policy, and a wider one. ok is false if ctx ends before.
func (r *reloader) read(ctx context.Context) (pol *policy.Policy, ok bool, err error) {
	for {
		pol, r.files, err = loadPolicy(r.path)
		r.seen = digestOf(r.files)
		select {
		case <-time.After(reloadPause):
		case <-ctx.Done():
			return nil, false, nil
		}
		if digestOf(readAgain(r.files)) == r.seen {
			return pol, true, err
		}
	}
}

// readAgain returns what the files hold now; nil for those that cannot be read.
func readAgain(files map[string][]byte) map[string][]byte {
	out := make(map[string][]byte, len(files))
	for name := range files {
		out[name], _ = readAtMost(name, maxPolicyFile)
	}
	return out
}

func digestOf(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name])
		fmt.Fprintf(h, "%s\x00%t\x00%x\n", name, files[name] == nil, sum)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// load reads the policy and puts it in force, or refuses it.
func (r *reloader) load(ctx context.Context) {
	pol, ok, err := r.read(ctx)
	if !ok {
		return
	}
	former := r.sc.inForce.Load()
	if err == nil && pol.SHA256() == former.Policy.SHA256() {
		r.accept("the policy's files hold again what is in force")
		return
	}
	var next *bound
	ms := mistakes{where: func(string) string { return r.path }}
	ms.add("", "", err)
	if err == nil {
		ms.Mistakes = append(ms.Mistakes, r.judge(pol)...)
	}
	if len(ms.Mistakes) == 0 {
		next, err = r.binder.rebind(pol, former)
		ms.add("", "", err)
	}
	if len(ms.Mistakes) > 0 {
		r.refuse(ms.Mistakes)
		return
	}
	if err := r.sc.replace(ctx, next, fmt.Sprintf("%s: %s", r.path, summary(pol))); err != nil {
		r.refuse(policy.Mistakes{{Where: r.path, Msg: err.Error()}})
		r.seen = "" // it is nothing in the files: try again
		return
	}
	r.accept("policy reloaded")
	for _, w := range pol.Warnings() {
		r.sc.log.Warn().Str("where", w.Where).Str("key", w.Path).Msg(w.Msg)
	}
}

// judge returns what is wrong with a policy beyond what parsing tells.
func (r *reloader) judge(pol *policy.Policy) (ms policy.Mistakes) {
	if role := r.sc.cfg.Role; pol.Role() != role {
		ms = append(ms, policy.Mistake{Where: r.path, Path: "role", Msg: fmt.Sprintf("the process is for role %q and the file is for role %q", role, pol.Role())})
	}
	for _, a := range addressesOf(pol) {
		if !slices.Contains(r.addresses, a) {
			ms = append(ms, policy.Mistake{
				Where: r.path, Path: "routes", Msg: fmt.Sprintf("the certificate authority of this process cannot speak for %s", a),
				Hint: "restart sidekey: it is made for the addresses in the policy of the start, as names are not limited",
			})
		}
	}
	ms = append(ms, r.protected.forbiddenRoutes(pol)...)
	return append(ms, failedTests(pol)...)
}

// summary says in a few words what a policy is.
func summary(p *policy.Policy) string {
	return fmt.Sprintf("mode %s, %d routes, %d credentials", p.Mode(), len(p.Routes()), len(p.Credentials()))
}

func (r *reloader) accept(msg string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = nil
	pol := r.sc.inForce.Load()
	r.sc.log.Info().Uint64("generation", pol.Number).Str("policy_sha256", pol.Policy.SHA256()).Msg(msg)
}

// refuse keeps the policy in force and tells everybody why.
func (r *reloader) refuse(ms policy.Mistakes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = &refusedPolicy{At: time.Now().UTC()}
	r.sc.metrics.policyRefused.Inc()
	for _, m := range ms {
		r.refused.Mistakes = append(r.refused.Mistakes, policy.Mistake{Where: m.Where, Path: m.Path, Msg: m.Msg}.String())
		r.sc.log.Error().Str("where", m.Where).Str("key", m.Path).Str("hint", m.Hint).Msg("the policy is not taken: " + m.Msg)
	}
	r.sc.trail.note(audit.Record{Event: audit.PolicyRefused, Reason: "invalid_policy", Detail: ms.Error()})
}
