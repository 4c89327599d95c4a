package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

const (
	maxHeld    = 1 << 20  // bytes of one body that is kept to be sent again
	maxAllHeld = 32 << 20 // bytes of all that are kept at one time
)

// errUnread ends the use whose body an upstream does not read. It is a code of the trail.
var errUnread = errors.New("upstream_timeout")

var (
	errTooLarge = errors.New("the body is too large to be kept")
	errNoRoom   = errors.New("too many bodies are kept")
)

// hold keeps the request's body if the policy says that it may be sent twice. One whose length is
// not declared could be one side of a dialogue; it streams like all others, and so does one for
// which there is no room.
func (ex *exchange) hold() *refusal {
	if ex.held != nil || ex.route == nil || !ex.route.ReplaySafe || ex.r.ContentLength <= 0 {
		return nil
	}
	switch err := ex.keep(maxHeld); err {
	case nil, errTooLarge, errNoRoom:
		return nil
	default:
		return ex.brokenBody()
	}
}

// keep reads the request's body into memory, in held. If it is larger than limit, or there is no
// room for it, it can still be read from its beginning. letGo is to be called when the request has
// ended.
func (ex *exchange) keep(limit int64) error {
	const step = 32 << 10
	in, declared := ex.r.Body, ex.r.ContentLength
	if declared > limit {
		return errTooLarge
	}
	if declared > 0 && !ex.reserve(declared) {
		return errNoRoom
	}
	rc := http.NewResponseController(ex.w)
	defer rc.SetReadDeadline(time.Time{})
	var kept bytes.Buffer
	again := func() { ex.r.Body = unreadBody{io.MultiReader(&kept, in), in} }
	for {
		if declared < 0 && !ex.reserve(step) {
			again()
			return errNoRoom
		}
		rc.SetReadDeadline(time.Now().Add(ex.s.cfg.stallTimeout())) // who sends nothing keeps no room
		_, err := io.CopyN(&kept, in, step)
		switch {
		case err != nil && err != io.EOF:
			return err
		case int64(kept.Len()) > limit:
			again()
			return errTooLarge
		case err == io.EOF:
			if ex.held = kept.Bytes(); ex.held == nil {
				ex.held = []byte{}
			}
			return nil
		}
	}
}

// reserve takes n bytes of the room for bodies, if there is as much.
func (ex *exchange) reserve(n int64) bool {
	if ex.s.held.Add(n) > maxAllHeld {
		ex.s.held.Add(-n)
		return false
	}
	ex.reserved += n
	return true
}

// letGo gives back the room that was reserved.
func (ex *exchange) letGo() { ex.s.held.Add(-ex.reserved) }

// An unreadBody is a body of which what was read can be read again.
type unreadBody struct {
	io.Reader
	io.Closer
}

// brokenBody is what becomes of a request whose body cannot be read to its end.
func (ex *exchange) brokenBody() *refusal {
	ctx := ex.r.Context()
	if f := ex.cutOff(ctx); f != nil {
		return f
	}
	if ctx.Err() != nil {
		return ex.agentGone()
	}
	return &refusal{status: http.StatusBadRequest, reason: "bad_request", route: ex.rec.Route, detail: "the request's body is malformed or broke off"}
}

// giveBody makes the body of out. cut is called if the upstream leaves it unread for too long.
func (ex *exchange) giveBody(out *http.Request, cut context.CancelCauseFunc) {
	in := ex.r
	ex.body = &countingBody{rc: in.Body, counted: ex.counted, end: func(over *breach) error { return ex.end(over, cut) }}
	if ex.route != nil {
		ex.body.most = ex.route.Limits.Body
	}
	if ex.held != nil {
		ex.body.rc = io.NopCloser(bytes.NewReader(ex.held))
	}
	out.ContentLength = in.ContentLength
	if ex.held != nil {
		out.ContentLength = int64(len(ex.held))
	}
	switch {
	case out.ContentLength != 0:
		ex.body.stall = ex.s.cfg.stallTimeout()
		ex.body.unread = time.AfterFunc(ex.body.stall, func() { cut(errUnread) })
		out.Body = ex.body
	case calledIdempotent(out.Header) && !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, in.Method):
		// A transport sends a request without a body a second time, if the agent calls it
		// idempotent, and a body that it cannot rewind only once. It sends that one in chunks,
		// which some upstreams do not take: all others say Content-Length: 0.
		out.Body = io.NopCloser(http.NoBody)
	}
}

// calledIdempotent reports whether h has one of the fields that net/http takes for a promise that the
// request may be sent twice.
func calledIdempotent(h http.Header) bool {
	return h["Idempotency-Key"] != nil || h["X-Idempotency-Key"] != nil
}

// A countingBody counts the bytes of a body that were read. The agent's own one also notices that
// nobody reads on: unread is armed while the bytes of a Read are on their way upstream. A slow agent
// does not trip it.
type countingBody struct {
	rc     io.ReadCloser
	n      atomic.Int64
	broken atomic.Bool // reading failed; not by the end of the body
	stall  time.Duration
	unread *time.Timer // nil: nobody minds

	counted *count              // against budgets
	most    int64               // bytes that may be sent; 0: any number
	end     func(*breach) error // what becomes of a use that is over a limit; nil if it goes on
}

func (b *countingBody) Read(p []byte) (int, error) {
	if b.unread != nil {
		b.unread.Stop()
	}
	n, err := b.rc.Read(p)
	if sent := b.n.Add(int64(n)); b.most > 0 && sent > b.most {
		if err := b.end(errBodyTooLarge); err != nil {
			return 0, err
		}
	}
	if !b.counted.add(n) {
		if err := b.end(errBudgetExhausted); err != nil {
			return 0, err
		}
	}
	switch {
	case err != nil && err != io.EOF:
		b.broken.Store(true)
	case err == nil && b.unread != nil:
		b.unread.Reset(b.stall)
	}
	return n, err
}

func (b *countingBody) Close() error {
	if b.unread != nil {
		b.unread.Stop()
	}
	return b.rc.Close()
}

func (b *countingBody) count() int64 { return b.n.Load() }
