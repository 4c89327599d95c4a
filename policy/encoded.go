package policy

import (
	"fmt"
	"strings"
)

// maxLayers bounds how often a path may be encoded; honest clients encode once or twice.
const maxLayers = 4

// needs are the encodings in a path that only those routes take that say so.
type needs struct {
	encodedSlash   bool // %2F: a slash that does not end its segment
	encodedPercent bool // %25 before two hex digits: a character that is encoded twice
}

// ungranted returns why route, which matches r, does not take it, and "" if it does.
func ungranted(route *Route, r *Request) Reason {
	switch {
	case r.WebSocket && !route.WebSocket:
		return WebSocketNotAllowed
	case r.Target.needs.encodedSlash && !route.AllowEncodedSlash:
		return EncodedSlashNotAllowed
	case r.Target.needs.encodedPercent && !route.AllowEncodedPercent:
		return EncodedPercentNotAllowed
	}
	return ""
}

// checkDecoded returns what is wrong with what path becomes in a server that decodes it before
// it looks for segments, once or until nothing is left to decode; "" if nothing is. The path
// itself has been checked. It adds to n what the decoded paths need.
func checkDecoded(path string, n *needs) string {
	for range maxLayers {
		decoded := decodeOnce(path)
		if decoded == path {
			return ""
		}
		if msg := checkLayer(decoded, n); msg != "" {
			return msg
		}
		path = decoded
	}
	if decodeOnce(path) == path {
		return ""
	}
	return fmt.Sprintf("is encoded more than %d times", maxLayers)
}

// checkLayer checks a path that was decoded at least once. A % without two hex digits is one
// character there, and what only an unencoded path must not hold is harmless.
func checkLayer(path string, n *needs) string {
	for rest, more := path[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch {
		case segment == "" && more:
			return "is decoded to a path with an empty segment (//)"
		case isDotSegment(segment):
			return "is decoded to a path with a dot segment"
		}
	}
	for i := 0; i < len(path); {
		size := 1
		if _, ok := triplet(path[i:]); ok {
			var msg string
			if size, msg = checkTriplets(path[i:], n); msg != "" {
				return "is encoded twice, and " + msg
			}
		}
		i += size
	}
	return ""
}

// isDotSegment reports whether a server may take a decoded segment for "." or "..": some end a
// decoded path at "?" or "#" again, and some drop spaces at the end of a name.
func isDotSegment(s string) bool {
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	s = strings.TrimRight(s, " ")
	return s == "." || s == ".."
}

// decodeOnce decodes every percent-encoded byte of s; a % before anything else stays.
func decodeOnce(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		if c, ok := triplet(s[i:]); ok {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}
