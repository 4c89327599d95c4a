package policy

import (
	"cmp"
	"time"
)

// maxBurst bounds how many requests a rate per minute or hour lets through at once.
const maxBurst = 100

// Limits bound how much may be sent by a route. A zero field is no limit. They take no part in
// matching: the route that decides is found without them, and whoever sends the request holds it
// to them. Each is the route's own, shared by all requests of the session.
type Limits struct {
	// Rate is how often a request may be sent.
	Rate Rate

	// Body is the most bytes that a request's body may have, as it is sent. It also bounds what the
	// route's conditions take: they refuse a larger body with [BodyNotAcceptable].
	Body int64

	// Response is the most bytes that an answer's body may have, as it is received.
	Response int64

	// Concurrency is how many requests may be under way at once, each until its answer has ended. A
	// WebSocket is under way until it is closed.
	Concurrency int

	// Timeout is how long a request may take, from its decision to the end of the answer; of a
	// WebSocket, until it is open.
	Timeout time.Duration

	// Budget is what may be sent in the whole session.
	Budget Budget
}

// Bodies that conditions read are held in memory.
const (
	defaultBody = 1 << 20  // where the route has no Limits.Body
	largestBody = 16 << 20 // that Limits.Body may say then
)

// BodyBound returns how much of a body a caller has to hold for the conditions of p, at most 16
// MiB: a [Body] that fails beyond it fails no condition that could be met. It is 0 if no condition
// reads a body.
func (p *Policy) BodyBound() int64 {
	bound := int64(0)
	for _, r := range p.routes {
		if r.ReadsBody() {
			bound = max(bound, cmp.Or(r.Limits.Body, defaultBody))
		}
	}
	return bound
}

// A Rate is a number of requests in a span of time, as a token bucket has it: one token comes back
// every [Rate.Interval], and at most [Rate.Burst] are there. The zero Rate is no limit.
type Rate struct {
	N   int           // from 1 to 1 000 000
	Per time.Duration // a second, a minute or an hour
}

// Burst returns how many requests may be sent at once after a pause: N, but at most 100 where N is
// per minute or hour.
func (r Rate) Burst() int {
	if r.Per > time.Second {
		return min(r.N, maxBurst)
	}
	return r.N
}

// Interval returns how long it takes until one more request may be sent; 0 for the zero Rate.
func (r Rate) Interval() time.Duration {
	if r.N <= 0 {
		return 0
	}
	return r.Per / time.Duration(r.N)
}

// A Budget is what may be used up in one session, and does not come back. A zero field is no limit.
type Budget struct {
	// Requests is how many requests may be sent.
	Requests int64

	// Bytes is how many bytes the bodies of requests and of answers may have together, as they are
	// on the wire; what passes through a WebSocket counts, both ways.
	Bytes int64
}
