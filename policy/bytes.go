package policy

import (
	"fmt"
	"strings"
)

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlphanumeric(c byte) bool { return isLower(c) || isUpper(c) || isDigit(c) }

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unhex returns the value of a hex digit.
func unhex(c byte) byte {
	switch {
	case isDigit(c):
		return c - '0'
	case isLower(c):
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

// isPathByte reports whether c may stand in a segment as it is: pchar of RFC 3986 section 3.3
// without ";", which some servers take for the beginning of a path parameter.
func isPathByte(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0
}

// isQueryByte reports whether c may stand in a query. It is wider than RFC 3986 section 3.4,
// because clients send "[" and "|" there; ";" is refused, which some servers take for "&".
func isQueryByte(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte("#;\\\"<>", c) < 0
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

func showByte(c byte) string {
	if c > ' ' && c < 0x7f {
		return fmt.Sprintf("%q", c)
	}
	return fmt.Sprintf("0x%02x", c)
}
