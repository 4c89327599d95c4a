package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
)

// killPoll is how often the kill file is looked for.
const killPoll = 500 * time.Millisecond

// The reasons in the trail: how the kill switch was engaged or released.
const (
	bySocket = "admin_socket"
	byFile   = "kill_file"
)

// A valve is what the kill switch works on; the proxy is one.
type valve interface {
	Kill()
	Resume()
}

// A killSwitch stops the use of all credentials while it is engaged: over the admin socket, by a
// file, or by both. It works first and records then; it lets go only after that is recorded. It is
// safe for concurrent use.
type killSwitch struct {
	valve valve
	trail interface {
		Append(audit.Record) (audit.Ref, error)
	}
	file string // its presence engages the switch; "" for none
	log  zerolog.Logger

	mu   sync.Mutex
	held map[string]string // how it is engaged (bySocket, byFile), to by whom
}

func newKillSwitch(v valve, t *trail, file string, log zerolog.Logger) *killSwitch {
	return &killSwitch{valve: v, trail: t, file: file, log: log, held: map[string]string{}}
}

var errHeldByFile = errors.New("a file holds the kill switch engaged; remove it first")

// engage engages the switch, unless it is engaged in this way already.
func (k *killSwitch) engage(how, who, detail string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.held[how]; ok {
		return
	}
	k.held[how] = who
	k.valve.Kill()
	k.log.Warn().Str("how", how).Str("who", who).Msg("kill switch engaged: no credential is used")
	if _, err := k.trail.Append(audit.Record{Event: audit.KillEngaged, Reason: how, By: who, Detail: detail}); err != nil {
		k.log.Error().Err(err).Msg("the kill switch is engaged, and that could not be recorded")
	}
}

// release releases what [killSwitch.engage] did; the valve opens when nothing holds it any more. It
// changes nothing if that cannot be recorded, or if the socket's user asks while the file is there.
func (k *killSwitch) release(how, who, detail string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.held[byFile]; ok && how == bySocket {
		return errHeldByFile
	}
	if _, ok := k.held[how]; !ok {
		return nil
	}
	if _, err := k.trail.Append(audit.Record{Event: audit.KillReleased, Reason: how, By: who, Detail: detail}); err != nil {
		return errors.New("it cannot be recorded, so the kill switch stays engaged")
	}
	delete(k.held, how)
	k.log.Warn().Str("how", how).Str("who", who).Bool("still_engaged", len(k.held) > 0).Msg("kill switch released")
	if len(k.held) == 0 {
		k.valve.Resume()
	}
	return nil
}

// by says who holds the switch engaged; empty if nobody does.
func (k *killSwitch) by() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]string, len(k.held))
	for how, who := range k.held {
		out[how] = who
	}
	return out
}

// watchFile follows the kill file until ctx ends.
func (k *killSwitch) watchFile(ctx context.Context) {
	if k.file == "" {
		return
	}
	tick := time.NewTicker(killPoll)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := k.lookAtFile()
		if err != nil && !failing {
			k.log.Error().Err(err).Msg("the kill file cannot be followed; the kill switch stays as it is")
		}
		failing = err != nil
	}
}

// lookAtFile engages or releases the switch as the file is there or not. A link that leads nowhere
// is there, too. If nobody can tell, the switch stays as it is.
func (k *killSwitch) lookAtFile() error {
	if k.file == "" {
		return nil
	}
	_, err := os.Lstat(k.file)
	switch {
	case err == nil:
		k.engage(byFile, k.file, "")
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return k.release(byFile, k.file, "")
	}
	return err
}
