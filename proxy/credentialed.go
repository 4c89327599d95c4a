package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// codeRefused is the outcome of a use whose answer the agent does not get, because the request is
// sent again.
const codeRefused = "credential_refused"

// idempotent are the methods by which a request may be sent twice (RFC 9110 section 9.2.2; TRACE is
// never proxied).
var idempotent = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodOptions: true, http.MethodPut: true, http.MethodDelete: true,
}

// issued is an issuance that was handed out, with what gives it back.
type issued struct {
	*credential.Issuance
	release func()
}

// credential acquires the route's credential, or takes the one that stands for a refused one, with
// all that goes with it, and passes the valve. cut ends the use. release is never nil without a
// refusal.
func (ex *exchange) credential(ctx context.Context, cut context.CancelCauseFunc) (release func(), f *refusal) {
	if ex.binding == nil {
		return func() {}, nil
	}
	got, err := ex.acquire(ctx)
	if err != nil {
		if f := ex.cutOff(ctx); f != nil { // while it waited
			return nil, f
		}
		return nil, ex.credentialRefusal(err)
	}
	ex.iss = got.Issuance
	ex.rec.Issuance = got.ID
	var short bool
	if ex.secrets, short = ex.s.known.add(ex.binding.Injector, ex.iss); short {
		ex.s.cfg.Log.Warn().Str("credential", ex.iss.Credential).Msg("credential is too short to be looked for in answers")
	}
	transport, done, err := ex.binding.transport(ex.iss)
	if err != nil {
		got.release()
		return nil, ex.notInjected(err)
	}
	ex.transport = transport
	if ex.pass, err = ex.s.valve.enter(cut); err != nil {
		done()
		got.release()
		return nil, ex.shutRefusal(err)
	}
	return func() {
		ex.pass.reach(passOver)
		done()
		got.release()
	}, nil
}

// acquire returns what stands for a refused issuance, if this is the second use, or what the
// cache has. While the valve is shut the cache, which may ask the source, is left alone.
func (ex *exchange) acquire(ctx context.Context) (issued, error) {
	if ex.again != nil {
		return *ex.again, nil
	}
	if err := ex.s.valve.shut(); err != nil {
		return issued{}, err
	}
	iss, release, err := ex.binding.Credential.Acquire(ctx)
	return issued{iss, release}, err
}

// credentialRefusal is the answer to a request whose credential cannot be had.
func (ex *exchange) credentialRefusal(err error) *refusal {
	switch {
	case errors.Is(err, errKilled):
		return ex.shutRefusal(errKilled)
	case errors.Is(err, errSessionEnded), errors.Is(err, credential.ErrClosed):
		return ex.shutRefusal(errSessionEnded)
	}
	f := &refusal{
		status: http.StatusServiceUnavailable, reason: "credential_unavailable", route: ex.rec.Route, retryAfter: time.Second,
		detail: fmt.Sprintf("credential %q could not be obtained; try again later", ex.rec.Credential),
	}
	if errors.Is(err, credential.ErrRefused) {
		f.detail = fmt.Sprintf("the source refused credential %q; only an operator can change that", ex.rec.Credential)
	}
	u, ok := errors.AsType[*credential.UnusableError](err)
	if ok {
		f.retryAfter = max(u.RetryAfter, time.Second)
	}
	if !ok || u.First() { // not a line for each request of an outage
		ex.s.cfg.Log.Warn().Str("credential", ex.rec.Credential).Err(err).Msg("credential unavailable")
	}
	return f
}

// inject puts the credential on out and checks that it is there exactly once (I6) and that
// nothing else of the target moved (I3).
func (ex *exchange) inject(out *http.Request) *refusal {
	if ex.binding == nil {
		return nil
	}
	if ex.target.Scheme != "https" { // I11; the policy refuses such a route, this refuses the bytes
		return ex.notInjected(errors.New("the target is not https"))
	}
	if err := ex.binding.Injector.Inject(out, ex.iss); err != nil {
		return ex.notInjected(err)
	}
	if out.URL.EscapedPath() != ex.target.Path || out.URL.Host != out.Host || ex.carried(out) != 1 {
		return ex.notInjected(errors.New("it does not stand there once"))
	}
	if err := ex.correlated(out); err != nil {
		return ex.notInjected(err)
	}
	return nil
}

// carried counts how often out carries the credential: in the injector's place, or by its connection.
func (ex *exchange) carried(out *http.Request) (found int) {
	switch carrier := ex.binding.Injector.Carrier(); {
	case carrier.Header != "":
		for name, values := range out.Header {
			if folded(name) == folded(carrier.Header) {
				found += len(values)
			}
		}
	case carrier.Query != "":
		if added, ok := strings.CutPrefix(out.URL.RawQuery, ex.target.Query); ok && added != "" {
			found = 1
		}
	default:
		if pool, ok := ex.transport.(*certifiedPool); ok && pool.issuance == ex.iss.ID {
			found = 1
		}
	}
	return found
}

func (ex *exchange) notInjected(err error) *refusal {
	ex.s.cfg.Log.Error().Str("credential", ex.rec.Credential).Err(err).Msg("credential cannot be injected")
	return &refusal{
		status: http.StatusServiceUnavailable, reason: "credential_unavailable", route: ex.rec.Route,
		detail: "credential " + ex.rec.Credential + " cannot be put on a request; only an operator can change that",
	}
}

// replaced obtains another credential if the upstream refused the one that it was sent, which it
// says by 401 (RFC 9110 section 15.5.2; gRPC's UNAUTHENTICATED comes with a 200 and is handed on).
// It reports whether the request is to be sent again: then the outcome of this use is recorded, and
// its answer is for nobody. For a request that cannot be sent again nobody waits: it is the next one
// that gets the other credential.
func (ex *exchange) replaced(ctx context.Context, resp *http.Response) bool {
	if ex.binding == nil || resp.StatusCode != http.StatusUnauthorized || ex.s.valve.shut() != nil {
		return false
	}
	if !ex.mayBeSentAgain() {
		ex.s.reissues.start(ctx, ex.binding.Credential, ex.iss)
		return false
	}
	iss, release, err := ex.binding.Credential.Reissue(ctx, ex.iss)
	if err != nil {
		ex.s.cfg.Log.Info().Str("credential", ex.rec.Credential).Err(err).Msg("the upstream refused the credential, and there is no other")
		return false
	}
	refused := ex.intent.Seq
	ex.recordOutcome(resp.StatusCode, codeRefused)
	ex.rec.Detail = fmt.Sprintf("sent again: the upstream refused the credential of record %d", refused)
	ex.again = &issued{iss, release}
	ex.started = time.Now()
	return true
}

// mayBeSentAgain reports whether sending the request twice is as good as once, by its method or by
// the word of the policy, and its body, if any, can still be sent. There is no third time.
func (ex *exchange) mayBeSentAgain() bool {
	if ex.again != nil {
		return false
	}
	if ex.r.ContentLength == 0 {
		return idempotent[ex.r.Method] || ex.route.ReplaySafe
	}
	return ex.route.ReplaySafe && ex.held != nil
}

// reissues are the refused credentials that are being obtained anew with no request waiting. There
// is at most one call for each.
type reissues struct {
	mu      sync.Mutex
	cancel  map[string]context.CancelFunc // by the refused issuance's id
	closed  bool
	running sync.WaitGroup
}

// start has c replace refused, unless that is under way. It returns at once; ctx's end does not
// stop it.
func (r *reissues) start(ctx context.Context, c CredentialCache, refused *credential.Issuance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.cancel[refused.ID] != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if r.cancel == nil {
		r.cancel = map[string]context.CancelFunc{}
	}
	r.cancel[refused.ID] = cancel
	r.running.Go(func() {
		_, release, err := c.Reissue(ctx, refused)
		if err == nil {
			release()
		}
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.cancel, refused.ID)
	})
}

// close ends what is under way, waits for it, and lets nothing start.
func (r *reissues) close() {
	r.mu.Lock()
	r.closed = true
	for _, cancel := range r.cancel {
		cancel()
	}
	r.mu.Unlock()
	r.running.Wait()
}
