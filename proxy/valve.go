package proxy

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The reasons for which the valve is shut. They are codes of the trail, and reasons of refusals.
var (
	errKilled       = errors.New("killed")
	errSessionEnded = errors.New("session_ended")
)

// A valve is what every credential passes on its way out. While it is shut, none does. Whoever
// shuts it returns when nobody is past the look at it and not yet in the trail: no intent that
// carries a credential follows.
type valve struct {
	mu      sync.Mutex
	killed  bool
	ended   bool // for ever
	passing map[*passage]struct{}
	moved   *sync.Cond // a passage got further
}

func newValve() *valve {
	v := &valve{passing: map[*passage]struct{}{}}
	v.moved = sync.NewCond(&v.mu)
	return v
}

// A stage is how far a request with a credential has come. Each includes those before it.
type stage int

const (
	passEntered  stage = iota // its credential may go out; nobody knows yet
	passRecorded              // its intent stands in the trail
	passSent                  // the transport has returned from sending it
	passOver
)

// A passage is the way of one use of a credential through the valve. A nil passage is that of a
// request without one.
type passage struct {
	valve    *valve
	cut      context.CancelCauseFunc // ends the use
	stage    stage
	upgraded bool
}

// shut says why nothing passes, or nil.
func (v *valve) shut() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.why()
}

func (v *valve) why() error {
	switch {
	case v.ended:
		return errSessionEnded
	case v.killed:
		return errKilled
	}
	return nil
}

// enter lets a use in, which is to leave, or says why not. cut ends it.
func (v *valve) enter(cut context.CancelCauseFunc) (*passage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.why(); err != nil {
		return nil, err
	}
	p := &passage{valve: v, cut: cut}
	v.passing[p] = struct{}{}
	return p, nil
}

// reach says that the use has come to at.
func (p *passage) reach(at stage) {
	if p == nil {
		return
	}
	v := p.valve
	v.mu.Lock()
	defer v.mu.Unlock()
	p.stage = at
	if at == passOver {
		delete(v.passing, p)
	}
	v.moved.Broadcast()
}

// upgrade says that the use has become a WebSocket, which does not outlive the session.
func (p *passage) upgrade() {
	if p == nil {
		return
	}
	p.valve.mu.Lock()
	defer p.valve.mu.Unlock()
	p.upgraded = true
	if p.valve.ended {
		p.cut(errSessionEnded)
	}
}

// kill shuts the valve and cuts off what has passed it. It reports whether all of that has
// stopped sending.
func (v *valve) kill() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.killed = true
	for p := range v.passing {
		p.cut(errKilled)
	}
	return len(v.await(passSent)) == 0
}

func (v *valve) resume() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.killed = false
}

func (v *valve) isKilled() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.killed
}

// end shuts the valve for ever. What has passed it goes on, but for WebSockets. It reports whether
// all of that stands in the trail; what does not is cut off.
func (v *valve) end() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	for p := range v.passing {
		if p.upgraded {
			p.cut(errSessionEnded)
		}
	}
	late := v.await(passRecorded)
	for _, p := range late {
		p.cut(errSessionEnded)
	}
	return len(late) == 0
}

// await waits until everything that is passing now has come to at, and returns what does not. A
// trail that does not take a record must not keep anybody for ever. v.mu is held, but while it
// waits.
func (v *valve) await(at stage) (late []*passage) {
	const patience = time.Second
	over := false
	defer time.AfterFunc(patience, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		over = true
		v.moved.Broadcast()
	}).Stop()
	arrived := func(p *passage) bool { return p.stage >= at }
	for late = slices.Collect(maps.Keys(v.passing)); ; v.moved.Wait() {
		if late = slices.DeleteFunc(late, arrived); len(late) == 0 || over {
			return late
		}
	}
}

// Kill stops every use of a credential at once: requests that would carry one are refused with
// 503 and the reason "killed", and those in flight are cut off, WebSockets and half-sent answers
// too. Requests without a credential go on. When it returns, and until [Server.Resume], no intent
// with a credential follows in the trail and no such request begins to be sent. It does not wait
// longer than a second for a trail or an upstream that does not let go; an intent that such a trail
// takes later is not followed by a request. It is safe for concurrent use, before [Server.Run] too.
func (s *Server) Kill() {
	if !s.valve.kill() {
		s.cfg.Log.Error().Msg("credentials are switched off, and a request that was cut off has not ended yet")
	}
}

// Resume undoes [Server.Kill] for the requests to come. What ended with the session stays ended.
func (s *Server) Resume() { s.valve.resume() }

// Killed reports whether [Server.Kill] is in force.
func (s *Server) Killed() bool { return s.valve.isKilled() }

// EndSession stops every use of a credential for good: requests that would carry one are refused
// with 503 and the reason "session_ended". Call it before the credentials are revoked. When it
// returns, no intent with a credential follows in the trail; one that the trail does not take
// within a second is cut off before it is sent. Answers in flight go on, WebSockets are closed.
func (s *Server) EndSession() {
	if !s.valve.end() {
		s.cfg.Log.Error().Msg("the session ended while the audit trail did not take a record; its request was cut off")
	}
	s.closeCertified()
}

// InFlight returns how many requests are being served, and how many tunnels are being set up or
// passed through.
func (s *Server) InFlight() int { return s.gate.count() }

// shutRefusal is what a request with a credential gets while the valve is shut.
func (ex *exchange) shutRefusal(why error) *refusal {
	f := &refusal{status: http.StatusServiceUnavailable, reason: why.Error(), route: ex.rec.Route}
	f.detail = "the session's credentials were revoked; only routes without one still work"
	if why == errKilled {
		f.detail = "an operator stopped the use of credentials; only routes without one work"
	}
	return f
}
