package policy

// A Verdict says what would become of a recorded request.
type Verdict string

// The verdicts. A trail does not hold what conditions look at, and of an allowed request it has the
// pattern of the route and not the path.
const (
	WouldAllow Verdict = "allow"
	WouldDeny  Verdict = "deny"

	// MayDeny means that some paths of the recorded pattern would be denied.
	MayDeny Verdict = "may_deny"

	// MayAllow means that it hangs on conditions, of which nothing is recorded.
	MayAllow Verdict = "conditions"
)

// A Replay is what would become of a [Seen] by another policy.
type Replay struct {
	Verdict Verdict

	// Reason is that of the denial, or of one if the verdict is MayDeny; else empty.
	Reason Reason

	// Route allows or, if the verdict is MayAllow, may allow the request; nil if none does.
	Route *Route

	// Example is a request that the verdict is about: the recorded one if its path is known.
	Example Request
}

// Replay returns what p makes of s. It is [WouldDeny] for what p cannot be asked, such as a path
// that was cut when it was recorded.
func (p *Policy) Replay(s Seen) Replay {
	denied := Replay{Verdict: WouldDeny, Reason: PathNotAllowed}
	a := Authority{s.Host, s.Port}
	request := Request{Method: s.Method, Target: Target{Scheme: s.Scheme, Authority: a, Path: s.Path}, WebSocket: s.WebSocket}
	denied.Example = request
	if s.Method == connect {
		request.Target.Path = "/"
		if r := p.Tunnel(a); r != nil {
			return Replay{Verdict: WouldAllow, Route: r, Example: request}
		}
		return Replay{Verdict: WouldDeny, Reason: p.Decide(request).Reason, Example: request}
	}
	if target, ok := s.sent(); ok {
		request.Target = target
		return p.replay(request)
	}
	if !s.Pattern {
		target, err := ParseTarget(s.Scheme, a, s.Path)
		if err != nil {
			return denied
		}
		request.Target = target
		return p.replay(request)
	}
	recorded, needs, msg, _ := parsePattern(s.Path)
	if msg != "" || s.Host == "" || s.Port == 0 {
		return denied
	}
	side := newSide(p)
	walk := pathWalk{patterns: []pattern{recorded}}
	walk.add(side.on(origin{s.Scheme, s.Host, s.Port}))
	walk.encoded = false // what a pattern does not spell out, it does not say was there
	best := Replay{}
	err := walk.visit(func(path string) error {
		target, err := ParseTarget(s.Scheme, a, path)
		if err != nil || target.needs != needs || !recorded.matches(path) {
			return nil
		}
		r := request
		r.Target = target
		best = best.join(p.replay(r))
		return nil
	})
	if err != nil || best.Verdict == "" {
		return denied
	}
	return best
}

// sent returns the target of a request that Sent is of; ok is false if that says nothing.
func (s *Seen) sent() (t Target, ok bool) {
	if !s.Pattern || s.Sent == "" {
		return Target{}, false
	}
	t, err := ParseTarget(s.Scheme, Authority{s.Host, s.Port}, s.Sent)
	return t, err == nil && !t.HasQuery
}

// join returns what is to be said of a pattern of which some paths are as r says and some as other.
func (r Replay) join(other Replay) Replay {
	switch {
	case r.Verdict == "" || r.Verdict == other.Verdict:
		if r.Verdict == "" {
			return other
		}
		return r
	case r.Verdict == WouldDeny || r.Verdict == MayDeny:
		r.Verdict = MayDeny
		return r
	case other.Verdict == WouldDeny:
		other.Verdict = MayDeny
		return other
	case r.Verdict == MayAllow:
		return r
	}
	return other
}

// replay is Replay for a request of which all but what conditions look at is known.
func (p *Policy) replay(r Request) Replay {
	var at sites
	at.exact, at.wildcard = p.index.lookup(r.Target.Scheme, r.Target.Authority)
	ends := at.ends(r.Target.Path, r.Method)
	if len(ends) == 0 || !ends[0].route.conditioned() {
		d := p.Decide(r)
		if d.Allow {
			return Replay{Verdict: WouldAllow, Route: d.Route, Example: r}
		}
		return Replay{Verdict: WouldDeny, Reason: d.Reason, Example: r}
	}
	var allowed *end
	denies := false
	s := search{next: ends, leaf: func(_, after *end, _ *assignment) {
		if after = granted(after, &r); after == nil {
			denies = true
		} else if allowed == nil {
			allowed = after
		}
	}}
	err := s.run()
	switch {
	case err == nil && allowed == nil:
		return Replay{Verdict: WouldDeny, Reason: p.Decide(r).Reason, Example: r}
	case err == nil && !denies:
		return Replay{Verdict: WouldAllow, Route: allowed.route, Example: r}
	case allowed == nil:
		return Replay{Verdict: MayAllow, Example: r}
	}
	return Replay{Verdict: MayAllow, Route: allowed.route, Example: r}
}
