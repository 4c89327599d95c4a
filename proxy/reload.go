package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/sidekey/sidekey/policy"
)

// errPolicyChanged ends what the new generation would refuse. It is a code of the trail.
var errPolicyChanged = errors.New("policy_changed")

// SetGeneration has requests that come from now on decided on g and served with it. Whatever is
// under way and would be refused by g, or would carry another credential, is cut off: requests,
// streams, WebSockets and tunnels that are passed through. All else goes on under the former
// generation; retired is closed when the last of its requests has ended, and nothing of it that g
// does not share is used any more. The error is that of an incomplete g, or of one that was in force
// before; then nothing changes.
func (s *Server) SetGeneration(g *Generation) (retired <-chan struct{}, err error) {
	if err := g.prepare(); err != nil {
		return nil, err
	}
	if !g.serving.begin() {
		return nil, errors.New("the generation was in force before: make another")
	}
	former := s.generation.Swap(g)
	s.underWay.recheck(g)
	return former.serving.retire(), nil
}

// current returns the generation that a request that comes now is served with, and counts the
// request. leave is to be called on its serving.
func (s *Server) current() *Generation {
	for {
		if g := s.generation.Load(); g.serving.enter() {
			return g
		}
	}
}

// A serving counts the requests of a generation. Its zero value is in force.
type serving struct {
	mu      sync.Mutex
	n       int
	begun   bool
	retired chan struct{} // nil while the generation is in force
}

// begin reports whether the generation was never in force; it is from then on.
func (s *serving) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.begun
	s.begun = true
	return first
}

// enter reports whether the generation is in force; then it is used.
func (s *serving) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired != nil {
		return false
	}
	s.n++
	return true
}

func (s *serving) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.retired != nil && s.n == 0 {
		close(s.retired)
	}
}

func (s *serving) retire() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = make(chan struct{})
	if s.n == 0 {
		close(s.retired)
	}
	return s.retired
}

// A passing is something under way that a reload may end.
type passing struct {
	allowed func(*Generation) bool
	cut     context.CancelCauseFunc
}

// underWay are all that a reload may end.
type underWay struct {
	mu  sync.Mutex
	all map[*passing]struct{}
}

// goesOn reports whether g allows p. A panic, which would end the process here, is a no.
func (p *passing) goesOn(g *Generation) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return p.allowed(g)
}

// recheck ends what g does not allow.
func (u *underWay) recheck(g *Generation) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p := range u.all {
		if !p.goesOn(g) {
			p.cut(errPolicyChanged)
		}
	}
}

// follow has a reload end what was decided under gen. forget is to be called when it has ended.
func (s *Server) follow(gen *Generation, allowed func(*Generation) bool, cut context.CancelCauseFunc) (forget func()) {
	p := &passing{allowed, cut}
	u := &s.underWay
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := s.generation.Load(); now != gen && !p.goesOn(now) { // since it was decided
		cut(errPolicyChanged)
	}
	if u.all == nil {
		u.all = map[*passing]struct{}{}
	}
	u.all[p] = struct{}{}
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.all, p)
	}
}

// allowedBy reports whether g lets the request go on as it is under way. A body that was not kept
// cannot be looked at again.
func (ex *exchange) allowedBy(g *Generation) bool {
	req := ex.asked
	if g.conditioned {
		if hasAlias(ex.header) {
			return false
		}
		req.Header = ex.header
	}
	if req.Body != nil {
		req.Body = keptBody(ex.held)
	}
	d := g.Policy.Decide(req)
	if !d.Allow {
		return g.Policy.Mode() == policy.Report && ex.binding == nil
	}
	return g.Bindings[d.Route.Credential] == ex.binding
}

// A keptBody is a body that was read, or nil.
type keptBody []byte

func (b keptBody) Bytes() ([]byte, error) {
	if b == nil {
		return nil, errors.New("the body was not kept")
	}
	return b, nil
}

func policyChanged(route string) *refusal {
	return &refusal{status: http.StatusForbidden, reason: errPolicyChanged.Error(), route: route, detail: "the policy was changed while the request was under way, and does not allow it any more"}
}
