package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// An Authority is a host and a port in the one form that has no other spelling: a DNS name in
// lower-case ASCII without a dot at its end, or an IP address as [netip.Addr] prints it,
// without brackets. Make it with [ParseAuthority].
type Authority struct {
	Host string
	Port uint16
}

// String returns "host:port", an IPv6 address in brackets.
func (a Authority) String() string {
	host := a.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(a.Port))
}

// ParseAuthority parses "host:port" as CONNECT has it (RFC 9110 section 9.3.6); the port is
// required. Upper case in a host is folded (RFC 9110 section 4.2.3); that is the only repair.
// The error is a [*TargetError].
func ParseAuthority(s string) (Authority, error) { return parseAuthority(s, 0) }

// parseAuthority fills in port if s has none, unless port is 0.
func parseAuthority(s string, port uint16) (Authority, error) {
	if strings.Contains(s, "@") {
		// Not quoted: what stands before the @ may be a password.
		return Authority{}, targetError("host", "", "must not have user information (@) before it")
	}
	host, digits, hasPort := s, "", false
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, digits, hasPort = s[:i], s[i+1:], true
	}
	host, msg := checkHost(host)
	if msg != "" {
		return Authority{}, targetError("host", s, msg)
	}
	if !hasPort && port == 0 {
		return Authority{}, targetError("port", s, "is missing")
	}
	if hasPort {
		if port = parsePort(digits); port == 0 {
			return Authority{}, targetError("port", digits, "is not a number from 1 to 65535 in plain digits")
		}
	}
	return Authority{host, port}, nil
}

// parsePort returns 0 for anything but the one spelling of a port.
func parsePort(s string) uint16 {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return 0
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > 65535 {
		return 0
	}
	return uint16(n)
}

// checkHost returns the canonical form of a host, or what is wrong with it. An IPv6 address
// comes in brackets and leaves without.
func checkHost(s string) (host, msg string) {
	if s == "" {
		return "", "is empty"
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			return "", fmt.Sprintf("has the byte %s; a host is ASCII (write an international name as xn--...)", showByte(c))
		}
	}
	s = strings.ToLower(s)
	if s[0] == '[' {
		return checkIPv6(s)
	}
	labels := strings.Split(s, ".")
	if numeric(labels[len(labels)-1]) {
		addr, err := netip.ParseAddr(s)
		if err != nil || !addr.Is4() {
			return "", "ends in a number but is not an IPv4 address in dotted decimal"
		}
		return s, ""
	}
	return s, checkName(s, labels)
}

func checkIPv6(s string) (host, msg string) {
	inner, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return "", "has [ without ] at its end"
	}
	addr, err := netip.ParseAddr(inner)
	switch {
	case err != nil || !addr.Is6():
		return "", "has brackets around something that is not an IPv6 address"
	case addr.Zone() != "":
		return "", "has a zone"
	case addr.Is4In6():
		return "", "is an IPv4 address written as IPv6"
	case addr.String() != inner:
		return "", "is not in canonical form; write [" + addr.String() + "]"
	}
	return inner, ""
}

// checkName returns what is wrong with a DNS name.
func checkName(s string, labels []string) string {
	if len(s) > 253 {
		return "is longer than 253 bytes"
	}
	for i, label := range labels {
		switch {
		case label == "" && i == len(labels)-1 && i > 0:
			return "has a dot at its end"
		case label == "":
			return "has an empty label"
		case len(label) > 63:
			return "has a label longer than 63 bytes"
		case !isLabel(label):
			return fmt.Sprintf("has the label %q, which is not letters, digits, - and _ between two letters or digits", label)
		case strings.HasPrefix(label, "xn--"):
			// A label that only claims to be Punycode is read as another name by what decodes it.
			if _, err := idna.Lookup.ToUnicode(label); err != nil {
				return fmt.Sprintf("has the label %q, which is not a valid international label", label)
			}
		}
	}
	return ""
}

func isLabel(s string) bool {
	for i := range len(s) {
		inner := i > 0 && i < len(s)-1
		if !isLower(s[i]) && !isDigit(s[i]) && (!inner || s[i] != '-' && s[i] != '_') {
			return false
		}
	}
	return true
}

// numeric reports whether a host whose last label is s is taken for an IPv4 address by some
// parser: 127.1, 0x7f.1, 2130706433.
func numeric(s string) bool {
	digits := s
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return s != "" && strings.Trim(digits, "0123456789") == ""
}
