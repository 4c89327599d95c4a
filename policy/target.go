package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxPath  = 8 << 10
	maxQuery = 16 << 10
)

// A Target is the wholly parsed target of a request. Make it with [ParseTarget] or [ParseURL].
type Target struct {
	// Scheme is "http" or "https".
	Scheme string

	Authority

	// Path is the path as it was sent, percent-encoding included; it begins with "/".
	Path string

	// Query is what follows the first "?" as it was sent.
	Query string

	// HasQuery tells "/x?" from "/x".
	HasQuery bool

	// needs follows from Path. It is noted where Path is checked, so that no decision has to
	// read the path a second time.
	needs needs
}

// RequestURI returns path and query, byte for byte what [ParseTarget] was given.
func (t Target) RequestURI() string {
	if t.HasQuery {
		return t.Path + "?" + t.Query
	}
	return t.Path
}

// String returns the target as an absolute URL, without a default port. [ParseURL] reads it
// back as the same target. A query may hold what must not be logged: see Path for that.
func (t Target) String() string {
	authority := t.Authority.String()
	if t.Port == defaultPort(t.Scheme) {
		authority = authority[:strings.LastIndexByte(authority, ':')]
	}
	return t.Scheme + "://" + authority + t.RequestURI()
}

func defaultPort(scheme string) uint16 {
	switch scheme {
	case "https":
		return 443
	case "http":
		return 80
	}
	return 0
}

// A TargetError says which part of a target breaks the grammar, and how. Its text never holds
// a query or user information, which may be secret.
type TargetError struct {
	Part  string // scheme, host, port, path or query
	Msg   string // what is wrong
	Input string // the part as it was given, cut after 80 bytes; empty if it may be secret
}

// Error returns the part, its escaped beginning, and what is wrong.
func (e *TargetError) Error() string {
	if e.Input == "" {
		return e.Part + ": " + e.Msg
	}
	return fmt.Sprintf("%s %q: %s", e.Part, e.Input, e.Msg)
}

func targetError(part, input, msg string) *TargetError {
	return &TargetError{Part: part, Msg: msg, Input: input[:min(len(input), 80)]}
}

// ParseTarget parses a request target in origin-form (RFC 9112 section 3.2.1) that is meant
// for a, as [ParseAuthority] returned it. Nothing is decoded, removed or changed. That a target
// parses does not mean that every route takes it: see Encoded in the package comment. The
// error is a [*TargetError].
func ParseTarget(scheme string, a Authority, requestTarget string) (Target, error) {
	if scheme != "http" && scheme != "https" {
		return Target{}, targetError("scheme", scheme, "is not http or https")
	}
	if a.Host == "" || a.Port == 0 {
		return Target{}, targetError("host", a.Host, "host or port is missing")
	}
	path, query, hasQuery := strings.Cut(requestTarget, "?")
	needs, err := checkPath(path)
	if err != nil {
		return Target{}, err
	}
	if err := checkQuery(query); err != nil {
		return Target{}, err
	}
	return Target{Scheme: scheme, Authority: a, Path: path, Query: query, HasQuery: hasQuery, needs: needs}, nil
}

// ParseURL parses an absolute URL, http or https, in the same grammar. A missing port becomes
// the scheme's. If nothing follows the authority, the path becomes "/": RFC 9112 section 3.2.1
// has clients send that, and it is the only case in which a Target holds a byte that was not
// given. A query with no path before it is an error. The error is a [*TargetError].
func ParseURL(s string) (Target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || (scheme != "http" && scheme != "https") {
		// What has no scheme may begin with user information.
		return Target{}, targetError("scheme", "", "the URL does not begin with http:// or https://")
	}
	end := strings.IndexAny(rest, "/?#")
	target := "/"
	if end >= 0 {
		rest, target = rest[:end], rest[end:]
	}
	a, err := parseAuthority(rest, defaultPort(scheme))
	if err != nil {
		return Target{}, err
	}
	return ParseTarget(scheme, a, target)
}

// checkPath is the path grammar of [Target]; see the package comment.
func checkPath(path string) (n needs, err error) {
	bad := func(format string, args ...any) (needs, error) {
		return needs{}, targetError("path", path, fmt.Sprintf(format, args...))
	}
	switch {
	case len(path) > maxPath:
		return bad("is longer than %d bytes", maxPath)
	case path == "" || path[0] != '/':
		return bad("does not begin with /")
	}
	for rest, more := path[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if segment == "" && more {
			return bad("has an empty segment (//)")
		}
		if msg := checkSegment(segment, &n); msg != "" {
			return bad("%s", msg)
		}
	}
	if msg := checkDecoded(path, &n); msg != "" {
		return bad("%s", msg)
	}
	return n, nil
}

// checkSegment returns what is wrong with one segment of a path, and "" if nothing is. It adds
// to n what the segment needs.
func checkSegment(s string, n *needs) string {
	if s == "." || s == ".." {
		return "has the dot segment " + s
	}
	for i := 0; i < len(s); {
		c := s[i]
		if c != '%' {
			if !isPathByte(c) {
				return fmt.Sprintf("has the byte %s, which must not stand in a path", showByte(c))
			}
			i++
			continue
		}
		size, msg := checkTriplets(s[i:], n)
		if msg != "" {
			return msg
		}
		i += size
	}
	return ""
}

// checkTriplets checks the percent-encoded character that s begins with and returns its
// length in bytes of s. It adds to n what the character needs.
func checkTriplets(s string, n *needs) (int, string) {
	b, ok := triplet(s)
	if !ok {
		return 0, "has a % without two hex digits after it"
	}
	if b >= utf8.RuneSelf {
		return checkRune(s)
	}
	switch {
	case b < 0x20 || b == 0x7f:
		return 0, fmt.Sprintf("encodes a control character (%s)", s[:3])
	case isAlphanumeric(b) || strings.IndexByte("-_.\\;", b) >= 0:
		return 0, fmt.Sprintf("encodes %q (%s), which some servers decode and some do not", b, s[:3])
	case b == '/':
		n.encodedSlash = true
	case b == '%' && len(s) >= 5 && isHex(s[3]) && isHex(s[4]):
		n.encodedPercent = true
	}
	return 3, ""
}

// checkRune checks that s begins with triplets of one character in shortest-form UTF-8:
// overlong forms have passed for "." and "/" in servers that decode them.
func checkRune(s string) (int, string) {
	var buf [utf8.UTFMax]byte
	n := 0
	for n < len(buf) {
		b, ok := triplet(s[min(3*n, len(s)):])
		if !ok {
			break
		}
		buf[n] = b
		n++
	}
	r, size := utf8.DecodeRune(buf[:n])
	if r == utf8.RuneError && size == 1 {
		return 0, fmt.Sprintf("encodes bytes that are not UTF-8 (%s)", s[:3])
	}
	return 3 * size, ""
}

func checkQuery(query string) error {
	bad := func(format string, args ...any) error {
		return targetError("query", "", fmt.Sprintf(format, args...))
	}
	if len(query) > maxQuery {
		return bad("is longer than %d bytes", maxQuery)
	}
	for i := 0; i < len(query); i++ {
		c := query[i]
		if !isQueryByte(c) {
			return bad("has the byte %s, which must not stand in a query", showByte(c))
		}
		if _, ok := triplet(query[i:]); c == '%' && !ok {
			return bad("has a %% without two hex digits after it")
		}
	}
	return nil
}

// triplet decodes the "%XX" that s begins with.
func triplet(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' || !isHex(s[1]) || !isHex(s[2]) {
		return 0, false
	}
	return unhex(s[1])<<4 | unhex(s[2]), true
}
