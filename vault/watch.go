package vault

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// probeEvery is how long a call hangs before Vault's health is asked for, how long that may
	// take, and how long it is until the next time.
	probeEvery = time.Second

	// cutEvery is the least time between two cuts: when Vault is so slow that its health comes
	// and goes, calls must be left to end by themselves.
	cutEvery = 10 * time.Second
)

// errStale means that Vault was gone when a call began and is back, so that the call's
// connection may never answer.
var errStale = errors.New("no answer, though Vault answers again")

// A watch keeps an outage from lasting longer here than it did: when Vault vanishes without
// closing connections and returns, a call that began in between would hang until it times
// out. While a call hangs, the watch asks for Vault's health, which needs no token and leaves
// no entry in Vault's audit log. If Vault was silent and now answers, it cuts the hanging calls off.
// The zero watch, with a probe, is ready for use.
type watch struct {
	probe func(ctx context.Context) bool

	mu     sync.Mutex
	calls  map[*watched]struct{}
	stop   context.CancelFunc // ends the goroutine that probes; nil if there is none
	silent bool               // Vault was not heard when it last should have been
	cut    time.Time          // when calls were last cut off
}

type watched struct {
	began  time.Time
	cancel context.CancelCauseFunc
}

// begin watches a call until done is called. The context that it returns ends with errStale
// as its cause if the call is cut off.
func (w *watch) begin(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &watched{time.Now(), cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = map[*watched]struct{}{}
	}
	w.calls[c] = struct{}{}
	if w.stop == nil {
		probing, stop := context.WithCancel(context.WithoutCancel(ctx))
		w.stop = stop
		go w.run(probing)
	}
	return ctx, func() { w.end(c) }
}

func (w *watch) end(c *watched) {
	c.cancel(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if delete(w.calls, c); len(w.calls) == 0 {
		w.stop()
		w.stop = nil
	}
}

// heard says whether a call got a reply.
func (w *watch) heard(answered bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = !answered
}

func (w *watch) run(ctx context.Context) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if !w.hangs(began) {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, probeEvery)
		answered := w.probe(asking)
		cancel()
		if ctx.Err() == nil {
			w.judge(began, answered)
		}
	}
}

// hangs reports whether a call has been under way for long enough to ask.
func (w *watch) hangs(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.calls {
		if now.Sub(c.began) >= probeEvery {
			return true
		}
	}
	return false
}

// judge takes note of a probe begun at began.
func (w *watch) judge(began time.Time, answered bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	returned := w.silent && answered
	w.silent = !answered
	if !returned || !w.cut.IsZero() && time.Since(w.cut) < cutEvery {
		return
	}
	w.cut = time.Now()
	for c := range w.calls {
		if c.began.Before(began) {
			c.cancel(errStale)
		}
	}
}

// probe reports whether Vault answers. A standby answers with 429, 472 or 473.
func (c *client) probe(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("sys/health"), http.NoBody)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "sidekey")
	req.Header.Set("X-Vault-Request", "true")
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode < http.StatusInternalServerError
}
