package credential

import (
	"context"
	"errors"
	"slices"
	"time"
)

// sweep retires what has expired, and gives up what was retired and no request carries. c.mu is
// held.
func (c *Cache) sweep(now time.Time) {
	for h := range c.live {
		if !before(now, h.iss.ExpiresAt) {
			h.retired = true
		}
		if !h.retired {
			continue
		}
		if c.current == h {
			c.current = nil
		}
		c.giveUpIfUnused(h, now)
	}
}

// giveUpIfUnused gives h up in the background, unless a request still carries it. c.mu is held.
func (c *Cache) giveUpIfUnused(h *held, now time.Time) {
	if _, ok := c.live[h]; !ok || h.uses > 0 || now.Before(h.revokeAt) {
		return
	}
	delete(c.live, h)
	c.calls.Go(func() { c.giveUp(c.work, h) })
}

// giveUp ends h at its source, has that recorded, and wipes its bytes. If the source is unavailable
// it puts h back, to try again later; after Close there is no later.
func (c *Cache) giveUp(ctx context.Context, h *held) {
	h.iss.uses.close()
	err := c.revoke(ctx, h.iss)
	if errors.Is(err, ErrUnavailable) && c.putBack(h) {
		return
	}
	h.iss.uses.recording.Wait()
	c.cfg.Recorder.Revoked(h.iss, err)

	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !errors.Is(err, ErrExpired) {
		c.unrevoked = append(unexpired(c.unrevoked, c.cfg.Now()), h.iss)
	}
	h.gone = true
	h.wipeIfUnused()
}

func (c *Cache) putBack(h *held) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	h.revokeAt = c.cfg.Now().Add(revokeAgain)
	c.live[h] = struct{}{}
	c.notify()
	return true
}

// revoke ends iss at its source. An expired one is not left out: it may be the age at which it has
// to be read again that has come, and not the end of its lease.
func (c *Cache) revoke(ctx context.Context, iss *Issuance) error {
	expired := !before(c.cfg.Now(), iss.ExpiresAt)
	err := c.revokeAtSource(ctx, iss)
	if err == nil && expired {
		return ErrExpired
	}
	return err
}

func (c *Cache) revokeAtSource(ctx context.Context, iss *Issuance) error {
	r, ok := c.cfg.Source.(Revoker)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.revokeTimeout())
	defer cancel()
	return r.Revoke(ctx, iss)
}

// Close ends the cache: nothing is handed out any more, who waits gets [ErrClosed], and everything
// that was issued and not yet given up is revoked and recorded, whether or not a request still
// carries it. A use that [Issuance.RecordUse] is recording is recorded first, and none after; the
// bytes that a request carries are wiped when it releases them.
//
// Close returns when all calls to the source have ended, each bounded by ctx and its own timeout,
// and returns those issuances that have not expired and could not be revoked, at any time of the
// cache's life. Closing again waits for the first to be done, which is bounded by both contexts then, and
// returns the same.
func (c *Cache) Close(ctx context.Context) []*Issuance {
	defer context.AfterFunc(ctx, c.stopWork)()
	c.mu.Lock()
	first, f := !c.closed, c.flight
	if first {
		c.closed = true
		c.current = nil
		close(c.closing)
	}
	c.mu.Unlock()
	if first {
		c.close(f)
	}
	<-c.over
	c.mu.Lock()
	defer c.mu.Unlock()
	return unexpired(slices.Clone(c.unrevoked), c.cfg.Now())
}

// close gives everything up, also what f brings, the call that was under way.
func (c *Cache) close(f *flight) {
	defer close(c.over)
	defer c.stopWork()
	c.giveUpAll()
	if f != nil { // it may bring one more
		<-f.done
		c.giveUpAll()
	}
	c.calls.Wait()
}

func unexpired(list []*Issuance, now time.Time) []*Issuance {
	return slices.DeleteFunc(list, func(iss *Issuance) bool { return !before(now, iss.ExpiresAt) })
}

func (c *Cache) giveUpAll() {
	c.mu.Lock()
	left := c.live
	c.live = map[*held]struct{}{}
	c.mu.Unlock()
	for h := range left {
		c.calls.Go(func() { c.giveUp(c.work, h) })
	}
}
