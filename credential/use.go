package credential

import (
	"fmt"
	"sync"
	"time"
)

// A useGate keeps the records of an issuance's uses before the record of its end.
type useGate struct {
	now   func() time.Time
	until time.Time

	recording sync.WaitGroup // uses being recorded; added to under mu while it is not shut

	mu   sync.Mutex
	shut bool
}

// RecordUse calls record, which writes down that iss is about to be used, and returns its error.
// It is for who acquired iss and has not released it. A session may end, or a machine be suspended,
// between the acquiring and the use: then record is not called and the error wraps [ErrClosed] or
// [ErrExpired]. What record writes comes before what the [Recorder] writes of the end of iss.
//
// record may take long, as a sink may stand still. If iss has expired when it returns, the error wraps
// ErrExpired as well, and what was recorded must not be done.
//
// record must not call a [Cache]. An issuance that comes from no cache has no end to come before.
func (iss *Issuance) RecordUse(record func() error) error {
	if iss.uses == nil {
		return record()
	}
	if err := iss.uses.enter(); err != nil {
		return fmt.Errorf("credential %q: %w", iss.Credential, err)
	}
	defer iss.uses.recording.Done()
	if err := record(); err != nil {
		return err
	}
	if !before(iss.uses.now(), iss.uses.until) {
		return fmt.Errorf("credential %q: %w", iss.Credential, ErrExpired)
	}
	return nil
}

func (g *useGate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.shut:
		return ErrClosed
	case !before(g.now(), g.until):
		return ErrExpired
	}
	g.recording.Add(1)
	return nil
}

// close lets no use in any more. It does not wait for those being recorded.
func (g *useGate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}
