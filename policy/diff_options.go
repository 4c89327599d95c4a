package policy

import (
	"fmt"
	"time"
)

// An option is a key of a route that changes what becomes of an allowed request, beside its
// credential.
type option struct {
	value func(*Route) string // as the file has it; empty if it is not there
	kind  func(old, next *Route) ChangeKind
}

var options = []option{
	granting("replay: safe", func(r *Route) bool { return r.ReplaySafe }),
	granting("outlive: true", func(r *Route) bool { return r.Outlive }),
	granting("allow_minting: true", func(r *Route) bool { return r.AllowMinting }),
	watching("correlate: true", func(r *Route) bool { return r.Correlate }),
	watching("log: path", func(r *Route) bool { return r.LogPath }),
	{rateOf, func(old, next *Route) ChangeKind {
		before, after := old.bounds().Rate, next.bounds().Rate
		if before.N > 0 && (after.N == 0 || after.Interval() < before.Interval() || after.Burst() > before.Burst()) {
			return Gained
		}
		return Lost
	}},
	limiting("body: %s", size, func(l *Limits) int64 { return l.Body }),
	limiting("response: %s", size, func(l *Limits) int64 { return l.Response }),
	limiting("concurrency: %s", whole, func(l *Limits) int64 { return int64(l.Concurrency) }),
	limiting("timeout: %s", span, func(l *Limits) int64 { return int64(l.Timeout) }),
	limiting("budget: {requests: %s}", whole, func(l *Limits) int64 { return l.Budget.Requests }),
	limiting("budget: {bytes: %s}", size, func(l *Limits) int64 { return l.Budget.Bytes }),
}

// bounds returns the limits that r enforces.
func (r *Route) bounds() *Limits {
	if r.Mode == Report {
		return &Limits{}
	}
	return &r.Limits
}

func rateOf(r *Route) string {
	rate := r.bounds().Rate
	if rate.N == 0 {
		return ""
	}
	return fmt.Sprintf("limits: {rate: %d/%s}", rate.N, rateUnits[rate.Per])
}

// granting is the option of a key that gives something if it is there.
func granting(text string, has func(*Route) bool) option {
	return option{
		func(r *Route) string {
			if has(r) {
				return text
			}
			return ""
		},
		func(_, next *Route) ChangeKind {
			if has(next) {
				return Gained
			}
			return Lost
		},
	}
}

// watching is the option of a key that lets more be known of requests. Without it an agent is less
// easily followed, which nobody should miss.
func watching(text string, has func(*Route) bool) option {
	return option{granting(text, has).value, func(_, next *Route) ChangeKind {
		if has(next) {
			return Lost
		}
		return Gained
	}}
}

func span(n int64) string { return duration(time.Duration(n)) }

// limiting is the option of a limit, of which 0 is none.
func limiting(format string, words func(int64) string, limit func(*Limits) int64) option {
	return option{
		func(r *Route) string {
			n := limit(r.bounds())
			if n == 0 {
				return ""
			}
			return fmt.Sprintf("limits: {"+format+"}", words(n))
		},
		func(old, next *Route) ChangeKind {
			before, after := limit(old.bounds()), limit(next.bounds())
			if before > 0 && (after == 0 || after > before) {
				return Gained
			}
			return Lost
		},
	}
}
