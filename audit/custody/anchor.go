package custody

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// anchorPrefix is what each of our correlation ids begins with.
const anchorPrefix = "sk1."

// An anchor is what a correlation id says of a trail: sk1.UUID.SEQ.HEAD, where HEAD are the first 16
// digits of the hash of record SEQ, the last one when the call was made.
type anchor struct {
	seq  uint64
	head uint64
}

// uuidOf returns the UUID of a correlation id of ours; "" if it is none.
func uuidOf(corr string) string {
	rest, ok := strings.CutPrefix(corr, anchorPrefix)
	if !ok {
		return ""
	}
	uuid, _, _ := strings.Cut(rest, ".")
	return uuid
}

func parseAnchor(corr string) (a anchor, ok bool) {
	words := strings.Split(corr, ".")
	if len(words) != 4 || words[0]+"." != anchorPrefix || len(words[3]) != 16 {
		return a, false
	}
	seq, err := strconv.ParseUint(words[2], 10, 64)
	if err != nil {
		return a, false
	}
	head, err := strconv.ParseUint(words[3], 16, 64)
	return anchor{seq, head}, err == nil
}

// A misfit is what a session's trail does not have of the anchors that name it.
type misfit struct {
	count int
	seq   uint64 // the first of the records, or the last one that is missing at the end
	at    time.Time
	where string
}

func (m *misfit) saw(seq uint64, last bool, at time.Time, where string) {
	if m.count++; m.count == 1 || last == (seq > m.seq) && seq != m.seq {
		m.seq, m.at, m.where = seq, at, where
	}
}

// checkAnchor compares an anchor of s with its trail.
func (s *session) checkAnchor(a anchor, at time.Time, where string) {
	switch {
	case s.has(a), a == anchor{}: // a call before the first record
	case a.seq < s.first: // the beginning is missing, which is reported unless that is expected
	case a.seq > s.last():
		s.cut.saw(a.seq, true, at, where)
	default:
		s.altered.saw(a.seq, false, at, where)
	}
}

// checkOwnAnchors compares what the trail's own calls say of it: who writes a trail anew has to write
// their correlation ids anew too, and then they are not those of Vault's log.
func (t *tracer) checkOwnAnchors() {
	for _, target := range t.targets {
		if a, ok := parseAnchor(target.corr); ok {
			if a.seq >= target.seq {
				a.head++ // a call cannot name what came after it
			}
			target.s.checkAnchor(a, target.at, "")
		}
	}
}

// sessionOf returns the session whose trail has the record that a names; nil if none has, or a names
// none.
func (t *tracer) sessionOf(a anchor) *session {
	if a.seq == 0 {
		return nil
	}
	if s := t.lastSession; s != nil && s.has(a) {
		return s
	}
	for _, s := range t.trails.sessions {
		if s.has(a) {
			t.lastSession = s
			return s
		}
	}
	return nil
}

// wasNewest reports whether the record that a names was the last one of s at a time, give or take skew.
func (s *session) wasNewest(a anchor, at time.Time, skew time.Duration) bool {
	if !s.has(a) {
		return false
	}
	i := a.seq - s.first
	n := at.UnixNano()
	return n >= s.times[i]-int64(skew) && (i+1 == uint64(len(s.times)) || n <= s.times[i+1]+int64(skew))
}

// reportAnchors reports what checkAnchor found.
func (t *tracer) reportAnchors() {
	for _, s := range t.trails.sessions {
		if m := s.cut; m.count > 0 {
			t.find(Finding{
				Code: TrailTruncated, Session: s.ID, Seq: m.seq, Time: m.at, Where: m.where,
				What: fmt.Sprintf("The end of the trail of session %s is missing: it ends with record %d, and %s record %d.", s.ID, s.last(), m.names(), m.seq),
				Hint: "look for the rest in the copy that was shipped elsewhere; if there is none, somebody cut the trail",
			})
		}
		if m := s.altered; m.count > 0 {
			t.find(Finding{
				Code: TrailTruncated, Session: s.ID, Seq: m.seq, Time: m.at, Where: m.where,
				What: fmt.Sprintf("The trail of session %s is not the one that was written: %s record %d with another hash.", s.ID, m.names(), m.seq),
				Hint: "from there on at the latest the trail was written anew; trust the copy that was shipped elsewhere",
			})
		}
	}
}

func (m misfit) names() string {
	if m.where == "" {
		return "its own calls to Vault name"
	}
	return fmt.Sprintf("%d calls in Vault's log name", m.count)
}
