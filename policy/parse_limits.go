package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// What is larger than these is taken for a slip: it would limit nothing.
const (
	maxRate        = 1_000_000
	maxSize        = 1 << 40
	maxConcurrency = 10_000
	maxTimeout     = 24 * time.Hour
	maxRequests    = 1_000_000_000
)

// A unit is a name, what it stands for, and what people write for it, in lower case.
type unit struct {
	name  string
	value int64
	slips []string
}

var (
	rates = quantity{"a rate", "30/m", "/", []unit{
		{"s", int64(time.Second), []string{"s", "1s", "sec", "second", "seconds"}},
		{"m", int64(time.Minute), []string{"m", "1m", "min", "minute", "minutes"}},
		{"h", int64(time.Hour), []string{"h", "1h", "hour", "hours"}},
	}}
	sizes = quantity{"a size", "64KiB", "", []unit{
		{"B", 1, []string{"b", "byte", "bytes"}},
		{"KiB", 1 << 10, []string{"k", "kb", "ki", "kib"}},
		{"MiB", 1 << 20, []string{"m", "mb", "mi", "mib"}},
		{"GiB", 1 << 30, []string{"g", "gb", "gi", "gib"}},
	}}
)

// A bounded route is one that says how large a body may be.
type bounded struct {
	route *Route
	body  strictyaml.Value
}

// checkHeldBodies looks for bodies that conditions read and that are too large to be held.
func (d *decoder) checkHeldBodies() {
	for _, b := range d.bodies {
		if b.route.ReadsBody() && b.route.Limits.Body > largestBody {
			b.body.Wrong("a condition of the route reads the body, which is held in memory until then", "write at most 16MiB")
		}
	}
}

// decodeLimits decodes the limits of r.
func (d *decoder) decodeLimits(v strictyaml.Value, r *Route) (l Limits) {
	if !v.Present() {
		return l
	}
	m := v.Mapping("rate", "body", "response", "concurrency", "timeout", "budget")
	if m.Value().Present() && len(v.EntriesOrEmpty()) == 0 {
		v.Wrong("the mapping is empty", "write a limit, such as rate: 30/m, or remove limits")
	}
	l.Rate = decodeRate(m.Get("rate"))
	l.Body = decodeSize(m.Get("body"))
	d.bodies = append(d.bodies, bounded{r, m.Get("body")})
	l.Response = decodeSize(m.Get("response"))
	l.Concurrency = int(decodeCount(m.Get("concurrency"), maxConcurrency))
	timeout := m.Get("timeout")
	l.Timeout, _ = timeout.Duration()
	if l.Timeout > maxTimeout {
		timeout.Wrong("the time span is longer than 24h", "write a shorter one, such as 30s, or remove it")
	}
	l.Budget = decodeBudget(m.Get("budget"))
	return l
}

func decodeBudget(v strictyaml.Value) (b Budget) {
	if !v.Present() {
		return b
	}
	m := v.Mapping("requests", "bytes")
	if m.Value().Present() && len(v.EntriesOrEmpty()) == 0 {
		v.Wrong("the mapping is empty", "write requests: 1000, bytes: 100MiB, or one of them")
	}
	b.Requests = decodeCount(m.Get("requests"), maxRequests)
	b.Bytes = decodeSize(m.Get("bytes"))
	return b
}

// decodeCount decodes a whole number from 1 to most.
func decodeCount(v strictyaml.Value, most int) int64 {
	n, ok := v.Int()
	switch {
	case !ok:
		return 0
	case n < 1:
		v.Wrong(fmt.Sprintf("%d lets nothing through", n), "write at least 1, or leave it out for no limit")
		return 0
	case n > most:
		v.Wrong(fmt.Sprintf("%d is more than %d", n, most), "write less, or leave it out for no limit")
		return 0
	}
	return int64(n)
}

// decodeRate decodes a rate such as 30/m.
func decodeRate(v strictyaml.Value) Rate {
	n, unit := rates.decode(v)
	if n > maxRate {
		v.Wrong(fmt.Sprintf("%d is more than %d", n, maxRate), "write less, or leave it out for no limit")
		return Rate{}
	}
	return Rate{int(n), time.Duration(unit)}
}

// decodeSize decodes a number of bytes such as 64KiB.
func decodeSize(v strictyaml.Value) int64 {
	n, unit := sizes.decode(v)
	if n > 0 && n > maxSize/unit {
		v.Wrong("the size is larger than 1024GiB", "write less, or leave it out for no limit")
		return 0
	}
	return n * unit
}

// A quantity is a way to write a whole number of units.
type quantity struct {
	what      string // such as "a rate"
	example   string // such as "30/m"
	separator string // what stands between number and unit
	units     []unit
}

// decode returns the number, which is greater than 0, and the unit; both are 0 if v is absent or a
// mistake.
func (q quantity) decode(v strictyaml.Value) (n, unit int64) {
	plain, ok := v.Plain()
	if !ok {
		return 0, 0
	}
	n, unit, msg, hint := q.parse(fmt.Sprint(plain))
	if msg != "" {
		v.Wrong(msg, hint)
	}
	return n, unit
}

func (q quantity) parse(s string) (n, unit int64, msg, hint string) {
	rest := strings.TrimLeft(s, "0123456789")
	digits := s[:len(s)-len(rest)]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case digits == "" || rest != "" && rest[0] == '.' || n > 0 && digits[0] == '0':
		return 0, 0, fmt.Sprintf("%s is not %s", strictyaml.Quote(s), q.what), "write a whole number and a unit, such as " + q.example
	case err != nil:
		return 0, 0, fmt.Sprintf("%s is more than there can be", strictyaml.Quote(s)), "write less, or leave it out for no limit"
	case n == 0:
		return 0, 0, q.what + " of 0 lets nothing through", "write at least 1, or leave it out for no limit"
	case rest == "":
		return 0, 0, s + " has no unit", "write " + q.spell(digits, "")
	}
	for _, u := range q.units {
		if rest == q.separator+u.name {
			return n, u.value, "", ""
		}
	}
	name := strings.TrimPrefix(strings.ReplaceAll(rest, " ", ""), q.separator)
	return 0, 0, fmt.Sprintf("%s is not %s", strictyaml.Quote(s), q.what), "write " + q.spell(digits, name)
}

// spell returns a number with the unit that name was probably meant to be, or with each unit.
func (q quantity) spell(digits, name string) string {
	var forms []string
	for _, u := range q.units {
		if u.name == name || slices.Contains(u.slips, strings.ToLower(name)) {
			return digits + q.separator + u.name
		}
		forms = append(forms, digits+q.separator+u.name)
	}
	return strings.Join(forms[:len(forms)-1], ", ") + " or " + forms[len(forms)-1]
}
