package proxy

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidekey/sidekey/policy"
)

// A breach is a limit that a request does not keep. Its text is the code of it in the trail.
type breach struct {
	code, detail string
	status       int
}

func (b *breach) Error() string { return b.code }

var (
	errBodyTooLarge        = &breach{"body_too_large", "the request's body is larger than the route's limits.body", http.StatusRequestEntityTooLarge}
	errResponseTooLarge    = &breach{"response_too_large", "the answer is larger than the route's limits.response", http.StatusBadGateway}
	errBudgetExhausted     = &breach{"budget_exhausted", "the budget of the route, or of the session, is used up; nothing comes back before the session's end", http.StatusTooManyRequests}
	errRouteTimeout        = &breach{"route_timeout", "the request took longer than the route's limits.timeout", http.StatusGatewayTimeout}
	errRateExceeded        = &breach{"rate_exceeded", "the route takes no more requests just now", http.StatusTooManyRequests}
	errConcurrencyExceeded = &breach{"concurrency_exceeded", "the route takes no more requests just now", http.StatusTooManyRequests}
)

// A limiter knows what was sent by each route in this session, whichever generation has the route.
type limiter struct {
	mu     sync.Mutex
	meters map[string]*meter // by the name of the route; that of all routes is under ""
}

// A meter is what limits are held against. All but used are guarded by the limiter's lock.
type meter struct {
	next     time.Time // when the bucket has all its tokens
	underWay int
	requests int64
	used     atomic.Int64 // bytes
}

func (l *limiter) meter(route string) *meter {
	m := l.meters[route]
	if m == nil {
		if l.meters == nil {
			l.meters = map[string]*meter{}
		}
		m = &meter{}
		l.meters[route] = m
	}
	return m
}

// enter counts a request in at now. If a limit keeps it out, it says which and, if waiting helps,
// for how long; then the request is counted only if the route reports. leave is to be called when a
// request that was counted has ended.
func (l *limiter) enter(route *policy.Route, session policy.Budget, now time.Time) (c *count, over *breach, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c = &count{l: l, route: l.meter(route.Name), all: l.meter(""), limits: route.Limits, session: session}
	switch {
	case spent(session, c.all), spent(route.Limits.Budget, c.route):
		over = errBudgetExhausted
	case route.Limits.Concurrency > 0 && c.route.underWay >= route.Limits.Concurrency:
		over, wait = errConcurrencyExceeded, time.Second
	default:
		if wait = c.route.take(route.Limits.Rate, now); wait > 0 {
			over = errRateExceeded
		}
	}
	if over != nil && route.Mode != policy.Report {
		return nil, over, wait
	}
	c.route.underWay++
	c.route.requests++
	c.all.requests++
	return c, over, wait
}

func spent(b policy.Budget, m *meter) bool {
	return b.Requests > 0 && m.requests >= b.Requests || b.Bytes > 0 && m.used.Load() >= b.Bytes
}

// take takes a token from the bucket, or says how long it is until there is one.
func (m *meter) take(r policy.Rate, now time.Time) (wait time.Duration) {
	interval := r.Interval()
	if interval == 0 {
		return 0
	}
	full := time.Duration(r.Burst()) * interval
	next := m.next
	if next.Before(now) {
		next = now
	} else if empty := now.Add(full); next.After(empty) { // a reload has loosened the rate
		next, m.next = empty, empty
	}
	next = next.Add(interval)
	if wait = next.Sub(now) - full; wait > 0 {
		return wait
	}
	m.next = next
	return 0
}

// A count is one request that a limiter counts. The nil count is of a request that no limit is for.
type count struct {
	l          *limiter
	route, all *meter
	limits     policy.Limits
	session    policy.Budget
}

func (c *count) leave() {
	if c == nil {
		return
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.route.underWay--
}

// add counts n bytes and reports whether they stay within the budgets.
func (c *count) add(n int) bool {
	if c == nil {
		return true
	}
	within := func(m *meter, b policy.Budget) bool { return m.used.Add(int64(n)) <= b.Bytes || b.Bytes == 0 }
	route, all := within(c.route, c.limits.Budget), within(c.all, c.session)
	return route && all
}

// limit holds the request to the limits of its route and session. What a route only reports is
// recorded. The request's count, which may be nil, is in ex from then on.
func (ex *exchange) limit() *refusal {
	session := ex.gen.Policy.Budget()
	if ex.route == nil || ex.route.Limits == (policy.Limits{}) && session == (policy.Budget{}) {
		return nil
	}
	var over *breach
	var wait time.Duration
	if most := ex.route.Limits.Body; most > 0 && ex.r.ContentLength > most {
		over = errBodyTooLarge
	}
	if over == nil || ex.route.Mode == policy.Report {
		var kept *breach
		if ex.counted, kept, wait = ex.s.limiter.enter(ex.route, session, time.Now()); over == nil {
			over = kept
		}
	}
	if over == nil || ex.exceeds(over) == nil {
		return nil
	}
	f := ex.limitRefusal(over)
	f.retryAfter = wait
	return f
}

// exceeds returns over if that ends the request, and nil if its route only reports: then the records
// say why it would have been refused. Of several reasons they have the first. It may be called while
// the use is under way, by whoever moves its bytes.
func (ex *exchange) exceeds(over *breach) error {
	if ex.route.Mode != policy.Report {
		return over
	}
	ex.over.CompareAndSwap(nil, over)
	return nil
}

// limitRefusal is what becomes of a request that was ended by a limit before it had an answer. It is
// nil if cause is no limit.
func (ex *exchange) limitRefusal(cause error) *refusal {
	over, ok := cause.(*breach)
	if !ok {
		return nil
	}
	return &refusal{status: over.status, reason: over.code, route: ex.rec.Route, detail: over.detail}
}

// limitTime has cut end a use when the route's time for the request is over; stop prevents that.
func (ex *exchange) limitTime(cut context.CancelCauseFunc) (stop func() bool) {
	if ex.route == nil || ex.route.Limits.Timeout == 0 {
		return func() bool { return true }
	}
	return time.AfterFunc(time.Until(ex.decided.Add(ex.route.Limits.Timeout)), func() { ex.end(errRouteTimeout, cut) }).Stop
}

// end has cut end the use for over, and returns that, unless the route only reports.
func (ex *exchange) end(over *breach, cut context.CancelCauseFunc) error {
	err := ex.exceeds(over)
	if err != nil {
		cut(err)
	}
	return err
}

// limitAnswer has the body of resp end the use when it is more than a limit allows.
func (ex *exchange) limitAnswer(resp *http.Response, cut context.CancelCauseFunc) *refusal {
	if ex.counted == nil {
		return nil
	}
	m := &meteredBody{ReadCloser: resp.Body, ex: ex, cut: cut, most: ex.route.Limits.Response}
	if m.most > 0 && resp.ContentLength > m.most && ex.r.Method != http.MethodHead {
		if err := ex.exceeds(errResponseTooLarge); err != nil {
			return ex.limitRefusal(err)
		}
	}
	resp.Body = m
	if rwc, ok := m.ReadCloser.(io.ReadWriteCloser); ok {
		m.most = 0 // a WebSocket has no end to speak of
		resp.Body = &meteredConn{m, rwc}
	}
	return nil
}

// A meteredBody is the body of an answer that ends the use at a limit.
type meteredBody struct {
	io.ReadCloser
	ex   *exchange
	cut  context.CancelCauseFunc
	most int64 // 0: no limit
	n    int64
}

func (m *meteredBody) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.n += int64(n)
	if m.most > 0 && m.n > m.most {
		if err := m.ex.end(errResponseTooLarge, m.cut); err != nil {
			return 0, err
		}
	}
	if err := m.count(n); err != nil {
		return 0, err
	}
	return n, err
}

func (m *meteredBody) count(n int) error {
	if m.ex.counted.add(n) {
		return nil
	}
	return m.ex.end(errBudgetExhausted, m.cut)
}

// A meteredConn is the upstream's side of a WebSocket, metered both ways.
type meteredConn struct {
	*meteredBody
	w io.Writer
}

func (m *meteredConn) Write(p []byte) (int, error) {
	if err := m.count(len(p)); err != nil {
		return 0, err
	}
	return m.w.Write(p)
}
