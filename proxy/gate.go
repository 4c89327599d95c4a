package proxy

import (
	"net/http"
	"sync"
	"time"
)

// A gate counts those inside, up to a bound, and can be closed.
type gate struct {
	mu     sync.Mutex
	inside int
	most   int
	closed bool
	empty  chan struct{} // closed when the gate is and nobody is inside
}

func newGate(most int) *gate { return &gate{most: most, empty: make(chan struct{})} }

// enter lets the caller in, or says why not: nil means in, and then leave is to be called once.
func (g *gate) enter() *refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return &refusal{status: http.StatusServiceUnavailable, reason: "draining", retryAfter: time.Second}
	case g.inside >= g.most:
		return &refusal{status: http.StatusServiceUnavailable, reason: "overloaded", retryAfter: time.Second}
	}
	g.inside++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.signal()
}

// count returns how many are inside.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// close lets nobody in any more. The channel is closed when the last one has left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.signal()
	return g.empty
}

func (g *gate) signal() {
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}
