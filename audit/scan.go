package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"hash/maphash"
	"math"
	"strconv"
	"time"
)

// A scanner reads lines in the form that [Log.Append] writes, several times faster than
// encoding/json and the comparison with what would have been written. It takes a line only if it is
// certain of both: whatever is rare, it leaves to them.
type scanner struct {
	b  []byte
	i  int
	ok bool

	sum   hash.Hash
	texts texts
}

func newScanner() *scanner {
	return &scanner{sum: sha256.New(), texts: texts{seed: maphash.MakeSeed()}}
}

// A link is what ties a line to its chain. Prev and hash are what the line says.
type link struct {
	prev, hash []byte
	next       position // where the line ought to stand
}

// scan reads line into e, but for its prev and hash. Its session, pod and policy must be those that c
// had last.
func (sc *scanner) scan(line []byte, c *chain, e *Entry) (l link, ok bool) {
	sc.b, sc.i, sc.ok = line, 0, true
	sc.lit(`{"seq":`)
	*e = Entry{Seq: sc.uint(math.MaxInt64), Session: c.session, Pod: c.pod, Policy: c.policy}
	sc.lit(`,"time":"`)
	e.Time = sc.time()
	sc.lit(`","prev":"`)
	l.prev = sc.take(len(noDigest))
	sc.lit(`","hash":"`)
	at := sc.i
	l.hash = sc.take(len(noDigest))
	sc.lit(`","event":"`)
	e.Event = Event(sc.text())
	sc.lit(`,`)
	sc.raw(c.context)
	sc.lit(`,"policy":`)
	sc.raw(c.policyJSON)
	for last := -1; sc.ok && sc.i < len(line) && line[sc.i] == ','; {
		last = sc.field(last, &e.Record)
	}
	sc.lit(`}`)
	if !sc.ok || sc.i != len(line) || c.policyJSON == nil || !e.Event.known() || e.Event == SessionVerified {
		return link{}, false
	}
	sc.sum.Reset()
	sc.sum.Write(line[:at])
	sc.sum.Write(noDigest[:])
	sc.sum.Write(line[at+len(noDigest):])
	var sum [sha256.Size]byte
	l.next.seq = e.Seq
	hex.Encode(l.next.hash[:], sc.sum.Sum(sum[:0]))
	return l, true
}

// field reads `,"name":value` into r. Names must come in the order of the struct, of which last is
// the place of the one before. It returns the place of this one.
func (sc *scanner) field(last int, r *Record) (place int) {
	sc.lit(`,"`)
	switch name := sc.name(); string(name) {
	case "conn":
		place, r.Conn = 1, sc.string()
	case "entrance":
		place, r.Entrance = 2, sc.string()
	case "method":
		place, r.Method = 3, sc.string()
	case "scheme":
		place, r.Scheme = 4, sc.string()
	case "host":
		place, r.Host = 5, sc.string()
	case "port":
		place, r.Port = 6, uint16(sc.positive(math.MaxUint16))
	case "path":
		place, r.Path = 7, sc.string()
	case "path_hmac":
		place, r.PathHMAC = 8, sc.string()
	case "path_sent":
		place, r.PathSent = 9, sc.string()
	case "request_id":
		place, r.RequestID = 10, sc.string()
	case "route":
		place, r.Route = 11, sc.string()
	case "credential":
		place, r.Credential = 12, sc.string()
	case "issuance":
		place, r.Issuance = 13, sc.string()
	case "reason":
		place, r.Reason = 14, sc.string()
	case "would_deny":
		place, r.WouldDeny = 15, sc.string()
	case "intent":
		place, r.Intent = 16, sc.positive(math.MaxInt64)
	case "status":
		place, r.Status = 17, int(sc.positive(math.MaxInt32))
	case "bytes_in":
		place, r.BytesIn = 18, int64(sc.positive(math.MaxInt64))
	case "bytes_out":
		place, r.BytesOut = 19, int64(sc.positive(math.MaxInt64))
	case "duration_ms":
		place, r.DurationMS = 20, sc.decimal()
	case "attempts":
		place, r.Attempts = 21, int(sc.positive(math.MaxInt32))
	case "error":
		place, r.Error = 22, sc.string()
	case "protocol":
		place, r.Protocol = 23, sc.string()
	case "detail":
		place, r.Detail = 24, sc.string()
	default:
		sc.ok = false
	}
	sc.ok = sc.ok && place > last
	return place
}

// lit passes over s, which must come next.
func (sc *scanner) lit(s string) {
	if !sc.ok || len(sc.b)-sc.i < len(s) || string(sc.b[sc.i:sc.i+len(s)]) != s {
		sc.ok = false
		return
	}
	sc.i += len(s)
}

// raw is lit for bytes.
func (sc *scanner) raw(b []byte) {
	if !sc.ok || !bytes.HasPrefix(sc.b[sc.i:], b) {
		sc.ok = false
		return
	}
	sc.i += len(b)
}

// take returns the next n bytes, which must be there.
func (sc *scanner) take(n int) []byte {
	if !sc.ok || len(sc.b)-sc.i < n {
		sc.ok = false
		return nil
	}
	sc.i += n
	return sc.b[sc.i-n : sc.i]
}

// quoted returns what stands before the next quote, and passes over both. It must be printable ASCII
// without escapes.
func (sc *scanner) quoted() []byte {
	if !sc.ok {
		return nil
	}
	for start := sc.i; sc.i < len(sc.b); sc.i++ {
		switch c := sc.b[sc.i]; {
		case c == '"':
			sc.i++
			return sc.b[start : sc.i-1]
		case c == '\\' || c < ' ' || c > '~':
			sc.ok = false
			return nil
		}
	}
	sc.ok = false
	return nil
}

// name is quoted with the colon after it.
func (sc *scanner) name() []byte {
	name := sc.quoted()
	sc.lit(`:`)
	return name
}

// text is quoted as a string.
func (sc *scanner) text() string { return sc.texts.of(sc.quoted()) }

// string reads a string in quotes, which must not be empty: such a field is left out.
func (sc *scanner) string() string {
	sc.lit(`"`)
	s := sc.text()
	sc.ok = sc.ok && s != ""
	return s
}

// uint reads a number up to most, without leading zeros.
func (sc *scanner) uint(most uint64) (n uint64) {
	start := sc.i
	for sc.ok && sc.i < len(sc.b) && '0' <= sc.b[sc.i] && sc.b[sc.i] <= '9' {
		n = 10*n + uint64(sc.b[sc.i]-'0')
		sc.i++
	}
	const safe = 18 // so many digits do not overflow
	if size := sc.i - start; size == 0 || size > safe || n > most || sc.b[start] == '0' && size > 1 {
		sc.ok = false
	}
	return n
}

// positive is uint for what is left out if it is 0.
func (sc *scanner) positive(most uint64) uint64 {
	n := sc.uint(most)
	sc.ok = sc.ok && n > 0
	return n
}

// decimal reads a number that encoding/json writes as it stands there: at most 15 digits in all, no
// exponent, no zeros that could be left out.
func (sc *scanner) decimal() float64 {
	start := sc.i
	point := -1
	for ; sc.ok && sc.i < len(sc.b); sc.i++ {
		c := sc.b[sc.i]
		if c == '.' && point < 0 {
			point = sc.i
		} else if c < '0' || c > '9' {
			break
		}
	}
	text := sc.b[start:sc.i]
	size := len(text)
	switch {
	case !sc.ok || size == 0 || size > 16 || point == start:
		sc.ok = false
	case text[0] == '0' && (size < 3 || text[1] != '.' || string(text[:min(size, 5)]) == "0.000"): // small ones get an exponent
		sc.ok = false
	case point >= 0 && text[size-1] == '0' || point == sc.i-1:
		sc.ok = false
	}
	if !sc.ok {
		return 0
	}
	f, err := strconv.ParseFloat(string(text), 64)
	sc.ok = err == nil
	return f
}

// time reads a time in timeFormat.
func (sc *scanner) time() time.Time {
	b := sc.take(len(timeFormat))
	if !sc.ok || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' || b[19] != '.' || b[29] != 'Z' {
		sc.ok = false
		return time.Time{}
	}
	number := func(from, to int) (n int) {
		for _, c := range b[from:to] {
			if c < '0' || c > '9' {
				sc.ok = false
			}
			n = 10*n + int(c-'0')
		}
		return n
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second, nano := number(11, 13), number(14, 16), number(17, 19), number(20, 29)
	t := time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	if y, m, d := t.Date(); y != year || int(m) != month || d != day || hour > 23 || minute > 59 || second > 59 {
		sc.ok = false // it was none, such as 30 February
	}
	return t
}

// texts keeps strings that come again and again, so that each takes memory once.
type texts struct {
	seed maphash.Seed
	kept [1 << 12]string
}

func (t *texts) of(b []byte) string {
	kept := &t.kept[maphash.Bytes(t.seed, b)%uint64(len(t.kept))]
	if *kept != string(b) {
		*kept = string(b)
	}
	return *kept
}
