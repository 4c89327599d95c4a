package policy

import (
	"fmt"
	"strings"
)

// fold returns the pattern that stands for path, which is one of a Target: path with each segment
// that looks like an id as {id}, {id2} and so on.
func fold(path string) string {
	segments := strings.Split(path[1:], "/")
	n := 0
	for i, s := range segments {
		// A * in a path is no wildcard, and a pattern cannot spell it out.
		if !isID(s) && !strings.Contains(s, "*") {
			continue
		}
		if n++; n == 1 {
			segments[i] = "{id}"
		} else {
			segments[i] = fmt.Sprintf("{id%d}", n)
		}
	}
	return "/" + strings.Join(segments, "/")
}

const (
	minHex    = 7  // as git shortens commits
	minRandom = 12 // of letters and digits
	minMixed  = 20 // of letters in both cases
)

// isID reports whether a segment names one thing among many of the same kind: a number, a UUID, hex
// or a long text of random letters and digits, alone or behind a prefix such as "msg_".
func isID(s string) bool {
	if digits := strings.Trim(s, "0123456789") == ""; digits {
		return s != ""
	}
	if isUUID(s) {
		return true
	}
	if len(s) >= minHex && isHexText(s) && strings.ContainsAny(s, "0123456789") {
		return true
	}
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '-' || r == '_' }) {
		if isRandom(part) {
			return isTokenText(s)
		}
	}
	return false
}

func isHexText(s string) bool {
	for i := range len(s) {
		if !isHex(s[i]) {
			return false
		}
	}
	return true
}

// isUUID reports whether s is a UUID in hex with hyphens (RFC 9562 section 4).
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (s[i] == '-') || !hyphen && !isHex(s[i]) {
			return false
		}
	}
	return true
}

// isRandom reports whether s reads like random base62: long, and of letters and several digits or of
// letters in both cases.
func isRandom(s string) bool {
	var lower, upper, digits int
	for i := range len(s) {
		switch {
		case isDigit(s[i]):
			digits++
		case isLower(s[i]):
			lower++
		case isUpper(s[i]):
			upper++
		default:
			return false
		}
	}
	return len(s) >= minRandom && digits >= 2 && lower+upper > 0 || len(s) >= minMixed && lower > 0 && upper > 2
}

// isTokenText reports whether s has letters, digits, - and _ only.
func isTokenText(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return true
}
