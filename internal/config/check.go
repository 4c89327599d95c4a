package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

// checkRole holds a role to what package policy takes for one: a DNS label (RFC 1123 section
// 2.1).
func checkRole(s string, wrong wrongFunc) {
	bad := s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-'
	for i := range len(s) {
		bad = bad || !isLower(s[i]) && !isDigit(s[i]) && s[i] != '-'
	}
	if bad {
		wrong(strictyaml.Quote(s)+" is not a role",
			"write at most 63 lower-case letters, digits and -, with no - at either end")
	}
}

func checkPath(s string, wrong wrongFunc) {
	if s == "" {
		wrong("the path is empty", "")
		return
	}
	checkPathOrNone(s, wrong)
}

func checkPathOrNone(s string, wrong wrongFunc) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		wrong("the path has a control character or is not UTF-8", "")
	}
}

// checkSocket is for the path of a unix socket; it may be empty. A longer one does not fit into what
// the kernel takes (unix(7)), and the socket is made beside its place under a longer name.
func checkSocket(s string, wrong wrongFunc) {
	const most = 95
	checkPathOrNone(s, wrong)
	if len(s) > most {
		wrong(fmt.Sprintf("the path of a socket is longer than %d bytes", most), "write a shorter one, such as /run/sidekey/admin.sock")
	}
}

func checkListen(s string, wrong wrongFunc) {
	const fallback = "127.0.0.1:3128"
	ap, ok := addrPort(s, fallback, wrong)
	if ok && !ap.Addr().IsLoopback() {
		wrong(strictyaml.Quote(s)+" is reachable from outside the pod",
			fmt.Sprintf("write a loopback address, such as 127.0.0.1:%d", ap.Port()))
	}
}

func checkOps(s string, wrong wrongFunc) {
	if s != opsOff {
		addrPort(s, "0.0.0.0:3129, or off", wrong)
	}
}

// opsOff is what one writes for no ops address.
const opsOff = "off"

// addrPort parses "address:port". A name in place of the address is refused: what it stands
// for is not known before it is looked up.
func addrPort(s, example string, wrong wrongFunc) (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		wrong(strictyaml.Quote(s)+" is not an IP address and a port", "write it like "+example)
	case ap.Addr().Zone() != "":
		wrong(strictyaml.Quote(s)+" has a zone", "write it like "+example)
	case ap.Addr().Is4In6() || ap.String() != s:
		wrong(strictyaml.Quote(s)+" is not the canonical form",
			"write "+netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String())
	default:
		return ap, true
	}
	return netip.AddrPort{}, false
}

func checkSessionID(s string, wrong wrongFunc) {
	bad := len(s) > 128
	for i := range len(s) {
		c := s[i]
		bad = bad || !isLower(c) && !isDigit(c) && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-'
	}
	if bad {
		wrong(strictyaml.Quote(s)+" is not a session id", "write at most 128 letters, digits, ., _ and -")
	}
}

func checkRequester(s string, wrong wrongFunc) {
	const most = 256
	switch {
	case len(s) > most:
		wrong(fmt.Sprintf("the text is longer than %d bytes", most), "")
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		wrong(strictyaml.Quote(s)+" has a character that does not print", "remove it")
	}
}

// checkVaultAddress never repeats the URL as a whole: there may be a password in it.
func checkVaultAddress(s string, wrong wrongFunc) {
	const hint = "write it like https://vault.example.com:8200"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		wrong("the address is not an absolute URL", hint)
		return
	case u.Scheme != "https" && u.Scheme != "http":
		wrong(strictyaml.Quote(u.Scheme)+" is neither https nor http", hint)
		return
	case u.User == nil && u.Path != "" && !strings.ContainsAny(s, "@?#"):
		wrong("the address has a path, "+strictyaml.Quote(u.Path), "write "+u.Scheme+"://"+u.Host+
			"; Sidekey adds /v1 by itself, and a namespace goes into vault.namespace")
		return
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		hint := hint
		if !strings.Contains(s, "@") {
			hint = "write " + u.Scheme + "://" + u.Host
		}
		wrong("a user, a path, a query or a fragment has no place in the address", hint)
		return
	}
	if _, err := policy.ParseURL(s + "/"); err != nil {
		wrong(err.Error(), hint)
		return
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		wrong("http would send the token in clear", "write https://"+u.Host)
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// checkGraphic is for names that stand in a header or in a login; they may be empty.
func checkGraphic(s string, wrong wrongFunc) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		wrong("the text has a space or a character outside ASCII", "remove it")
	}
}

// checkMount refuses what Vault would answer with a redirect.
func checkMount(s string, wrong wrongFunc) {
	if s == "" {
		return
	}
	bad := false
	for segment := range strings.SplitSeq(s, "/") {
		bad = bad || segment == "" || segment == "." || segment == ".." ||
			strings.ContainsFunc(segment, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	}
	switch {
	case bad:
		wrong(strictyaml.Quote(s)+" is not a path", "write it without a / at either end, such as kubernetes")
	case strings.HasPrefix(s, "auth/"):
		wrong(strictyaml.Quote(s)+" begins with auth/", "write "+strings.TrimPrefix(s, "auth/"))
	}
}

// checkTokenRole is for a role of Vault's token store, which is one segment of a path; it may be
// empty.
func checkTokenRole(s string, wrong wrongFunc) {
	if s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/?#%", r) }) {
		wrong(strictyaml.Quote(s)+" is not a token role", "write the role's name alone, such as sidekey-session")
	}
}

// choice is a check that the text is one of words.
func choice(words ...string) func(s string, wrong wrongFunc) {
	return func(s string, wrong wrongFunc) {
		if !slices.Contains(words, s) {
			wrong(fmt.Sprintf("%s is not one of %s", strictyaml.Quote(s), strings.Join(words, ", ")),
				strictyaml.DidYouMean(s, words))
		}
	}
}

func parsePrefix(s string, wrong wrongFunc) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		hint := "write it like 10.0.0.0/8"
		if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			hint = "write " + netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		wrong(strictyaml.Quote(s)+" is not an address range", hint)
		return netip.Prefix{}
	}
	switch {
	case p.Addr().Is4In6():
		wrong(strictyaml.Quote(s)+" is an IPv4 range written as IPv6", "write it like 10.0.0.0/8")
	case p.Masked().String() != s:
		wrong(strictyaml.Quote(s)+" is not the canonical form of the range", "write "+p.Masked().String())
	}
	return p
}

// checkHost holds a host to the form in which package policy hands hosts on; another
// spelling would never be looked up.
func checkHost(s string, wrong wrongFunc) {
	a, err := policy.ParseAuthority(s + ":443")
	if err != nil {
		msg := err.Error()
		if te, ok := errors.AsType[*policy.TargetError](err); ok {
			msg = strictyaml.Quote(s) + " " + te.Msg // the error itself quotes our port too
		}
		wrong(msg, "write a host's full name, without a port")
		return
	}
	if _, err := netip.ParseAddr(a.Host); err == nil {
		wrong(strictyaml.Quote(s)+" is an address already", "write a host's name")
		return
	}
	if a.Host != s {
		wrong(strictyaml.Quote(s)+" is not the canonical form of the host", "write "+a.Host)
	}
}

func parseAddr(s string, wrong wrongFunc) netip.Addr {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil || addr.Zone() != "":
		wrong(strictyaml.Quote(s)+" is not an IP address", "write it like 10.0.0.1, without a port")
	case addr.Is4In6() || addr.String() != s:
		wrong(strictyaml.Quote(s)+" is not the canonical form of the address", "write "+addr.Unmap().String())
	}
	return addr
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
