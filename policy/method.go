package policy

import "slices"

// neverMethods reach no upstream: CONNECT makes tunnels, PRI begins HTTP/2, TRACE and TRACK
// send a request's credentials back, DEBUG opens a debugger on some servers.
var neverMethods = []string{"CONNECT", "DEBUG", "PRI", "TRACE", "TRACK"}

// ValidMethod reports whether a policy may name the method s: an upper-case token of at most
// 32 letters, digits, "-" and "_" that begins with a letter. Methods are case-sensitive
// (RFC 9110 section 9.1). TRACE, TRACK, CONNECT, DEBUG and PRI are never valid.
func ValidMethod(s string) bool {
	if s == "" || len(s) > 32 || !isUpper(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isUpper(s[i]) && !isDigit(s[i]) && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return !slices.Contains(neverMethods, s)
}
