package policy

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// parseHost returns what a route's host means, or what is wrong with it and what to write.
func parseHost(s string) (scheme, host string, port uint16, msg, hint string) {
	fail := func(msg, hint string) (string, string, uint16, string, string) { return "", "", 0, msg, hint }
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fail("the host has a space or a control character", "remove it")
	}
	scheme, rest := "https", s
	if before, after, ok := strings.Cut(s, "://"); ok {
		if before != "https" && before != "http" {
			return fail(fmt.Sprintf("scheme %s is not https or http", strictyaml.Quote(before)), "write the host alone for https, or http://HOST")
		}
		scheme, rest = before, after
	}
	prefix := strings.TrimSuffix(s, rest)
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		hint := fmt.Sprintf("write %s", strictyaml.Quote(prefix+rest[:i]))
		if path := rest[i:]; path != "/" {
			hint += fmt.Sprintf(", and %s under paths", strictyaml.Quote(path))
		}
		return fail("the host has a path", hint)
	}
	if lower := strings.ToLower(rest); lower != rest {
		return fail("the host has upper case, which hosts do not tell apart", fmt.Sprintf("write lower case: %s", strictyaml.Quote(prefix+lower)))
	}
	name, wildcard := strings.CutPrefix(rest, "*.")
	if strings.Contains(name, "*") {
		return fail("a * in a host stands for its left-most label, alone", "write *.example.com, or the host")
	}
	a, err := parseAuthority(name, defaultPort(scheme))
	if err != nil {
		return fail(wrongHost(err), hostHint(prefix, rest))
	}
	if msg, hint := wrongPlace(a.Host, wildcard); msg != "" {
		return fail(msg, hint)
	}
	if !wildcard {
		return scheme, a.Host, a.Port, "", ""
	}
	if strings.Contains(a.Host, ":") || numeric(a.Host[strings.LastIndexByte(a.Host, '.')+1:]) {
		return fail("an address has no names below it", "write the address alone")
	}
	if suffix, _ := publicsuffix.PublicSuffix(a.Host); suffix == a.Host {
		return fail(fmt.Sprintf("anyone can have a name under %s: the wildcard covers hosts of strangers", a.Host),
			fmt.Sprintf("write the host, or a wildcard under a name of one owner, such as *.example.%s", a.Host))
	}
	return scheme, "*." + a.Host, a.Port, "", ""
}

// wrongHost returns the message of a [*TargetError] without the input, which the file shows.
func wrongHost(err error) string {
	var te *TargetError
	if errors.As(err, &te) {
		return "the " + te.Part + " " + te.Msg
	}
	return err.Error()
}

// hostHint says what to write for a host that is no [Authority].
func hostHint(prefix, host string) string {
	if name, ok := strings.CutSuffix(host, "."); ok {
		return fmt.Sprintf("write %s", strictyaml.Quote(prefix+name))
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r > 0x7f }) {
		if ascii, err := idna.Lookup.ToASCII(host); err == nil {
			return fmt.Sprintf("write %s", strictyaml.Quote(prefix+ascii))
		}
	}
	return ""
}
