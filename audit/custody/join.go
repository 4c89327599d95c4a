package custody

import (
	"slices"
	"time"
)

// joinPair joins target to p.
func (target *target) joinPair(p *pair, how Join) {
	target.pair, target.how, p.target = p, how, target
	e := p.entry()
	if target.call != nil {
		target.call.Joined, target.call.Vault = how, e
	}
	if target.iss != nil {
		target.iss.Joined, target.iss.Vault = how, e
	}
}

// unwrapPath answers with the id of the request whose response it unwraps, not with its own.
const unwrapPath = "sys/wrapping/unwrap"

// ownID is the id that Vault's log has for the call, as far as the trail knows it.
func (target *target) ownID() string {
	if target.path == unwrapPath {
		return ""
	}
	return target.requestID
}

func (t *tracer) joinByID() {
	for _, target := range t.targets {
		id := target.ownID()
		if p := t.vault.byID[id]; id != "" && p != nil && p.target == nil {
			target.joinPair(p, ByRequestID)
		}
	}
}

// joinByCorrelation joins what has no request id, or one that Vault's log does not have, by the UUID of
// the correlation id, which the attempts of one call share.
func (t *tracer) joinByCorrelation() {
	groups := map[string]*group{}
	for _, target := range t.targets {
		if uuid := uuidOf(target.corr); target.pair == nil && uuid != "" {
			g := groups[uuid]
			if g == nil {
				g = &group{how: ByCorrelationID}
				groups[uuid] = g
			}
			g.targets = append(g.targets, target)
		}
	}
	for _, p := range t.vault.pairs {
		if g := groups[uuidOf(p.corr())]; g != nil && p.target == nil {
			g.pairs = append(g.pairs, p)
		}
	}
	for _, g := range groups {
		g.join(24 * time.Hour)
	}
}

// joinByPlace joins what has no request id by path and time, where Vault's log has no correlation ids.
// The token must be the session's, or not known.
func (t *tracer) joinByPlace() {
	if len(t.blind) == 0 {
		return
	}
	t.claimJoined()
	type place struct {
		s    *session
		path string
	}
	groups := map[place]*group{}
	var all []*group
	paths := map[string][]*group{}
	for _, target := range t.targets {
		if target.pair != nil || target.ownID() != "" {
			continue
		}
		at := place{target.s, target.path}
		g := groups[at]
		if g == nil {
			g = &group{how: ByPathAndTime, s: target.s}
			groups[at] = g
			all = append(all, g)
			paths[target.path] = append(paths[target.path], g)
		}
		g.targets = append(g.targets, target)
	}
	for _, p := range t.vault.pairs {
		if p.target != nil || p.corr() != "" || len(paths[p.either().Path]) == 0 || !t.isBlind(p) {
			continue
		}
		owner := t.ownerOf(p)
		for _, g := range paths[p.either().Path] {
			if owner == g.s || owner == nil {
				g.pairs = append(g.pairs, p)
			}
		}
	}
	for _, g := range all {
		g.join(t.skew)
	}
}

// A group are calls and entries of which each call may be each entry.
type group struct {
	how     Join
	s       *session
	targets []*target
	pairs   []*pair
}

// A match is one way to join, with what speaks against it.
type match struct {
	target *target
	pair   *pair
	doubts int           // the fewer the better
	apart  time.Duration // from the time in which the call was made
}

// join joins one to one, the best matches first, no further apart than most.
func (g *group) join(most time.Duration) {
	byTime := func(a, b *pair) int { return a.at().Compare(b.at()) }
	slices.SortStableFunc(g.pairs, byTime)
	var all []match
	for _, target := range g.targets {
		from := target.at.Add(-max(target.took, 0) - most)
		i, _ := slices.BinarySearchFunc(g.pairs, from, func(p *pair, at time.Time) int { return p.at().Compare(at) })
		for ; i < len(g.pairs) && !g.pairs[i].at().After(target.at.Add(most)); i++ {
			if p := g.pairs[i]; p.target == nil && (g.how != ByPathAndTime || target.operates(p.either().Operation)) {
				all = append(all, match{target, p, target.doubts(p), target.apart(p.at())})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b match) int {
		if a.doubts != b.doubts {
			return a.doubts - b.doubts
		}
		return int(max(min(a.apart-b.apart, 1), -1))
	})
	for _, m := range all {
		if m.target.pair == nil && m.pair.target == nil {
			m.target.joinPair(m.pair, g.how)
		}
	}
}

// doubts counts what speaks against p being the call.
func (target *target) doubts(p *pair) int {
	n := 0
	if target.status == 0 {
		n++ // Vault need not have seen it
	} else if p.resp == nil {
		n += 2
	}
	if !target.agrees(p) {
		n += 2
	}
	if target.path != p.either().Path || p.corr() != "" && p.corr() != target.corr {
		n += 4
	}
	return n
}

// apart is how far at is from the time in which the call was made.
func (target *target) apart(at time.Time) time.Duration {
	began := target.at.Add(-max(target.took, 0))
	switch {
	case at.Before(began):
		return began.Sub(at)
	case at.After(target.at):
		return at.Sub(target.at)
	}
	return 0
}
