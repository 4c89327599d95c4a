package policy_test

import (
	"encoding/hex"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/sidekey/sidekey/policy"
)

// What may stand in a target, as regular expressions: the grammar of the package comment written down
// a second time, by other means.
var (
	targetForm = regexp.MustCompile(`^/(?:(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+/)*` +
		`(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*` +
		"(?:\\?(?:[!$&'()*+,./0-9:=?@A-Z\\[\\]^_`a-z{|}~-]|%[0-9A-Fa-f]{2})*)?$")
	dotSegment     = regexp.MustCompile(`(?:^|/)\.\.?(?:/|$)`)
	decodesToDots  = regexp.MustCompile(`(?:^|/)\.\.? *(?:[?#][^/]*)?(?:/|$)`)
	tripletRun     = regexp.MustCompile(`(?:%[0-9A-Fa-f]{2})+`)
	neverEncoded   = regexp.MustCompile(`[\x00-\x1f\x7fA-Za-z0-9_.\\;-]`)
	authorityForm  = regexp.MustCompile(`^(.*):([1-9][0-9]{0,4})$`)
	nameForm       = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$`)
	addressForm    = regexp.MustCompile(`^(?:(?:0|[1-9][0-9]{0,2})(?:\.|$)){4}$`)
	endsInANumber  = regexp.MustCompile(`(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$`)
	longestTargets = [2]int{8 << 10, 16 << 10} // path and query
)

// naiveTarget reports whether s is a target in origin-form.
func naiveTarget(s string) bool {
	path, query, _ := strings.Cut(s, "?")
	if !targetForm.MatchString(s) || len(path) > longestTargets[0] || len(query) > longestTargets[1] || dotSegment.MatchString(path) || !naiveTriplets(path) {
		return false
	}
	for layer := 0; tripletRun.MatchString(path); layer++ {
		path = tripletRun.ReplaceAllStringFunc(path, unhexed)
		if layer == 4 || decodesToDots.MatchString(path) || strings.Contains(path, "//") || !naiveTriplets(path) {
			return false
		}
	}
	return true
}

// naiveTriplets reports whether what is percent-encoded in path is UTF-8 and has to be encoded.
func naiveTriplets(path string) bool {
	for _, run := range tripletRun.FindAllString(path, -1) {
		if b := unhexed(run); !utf8.ValidString(b) || neverEncoded.MatchString(b) {
			return false
		}
	}
	return true
}

func unhexed(run string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(run, "%", ""))
	if err != nil {
		panic(err) // the regular expression let it through
	}
	return string(b)
}

// naiveAuthority returns what s is as an authority, and false if it is none.
func naiveAuthority(s string) (a policy.Authority, ok bool) {
	m := authorityForm.FindStringSubmatch(strings.ToLower(s))
	if m == nil || strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
		return a, false
	}
	port, err := strconv.ParseUint(m[2], 10, 16)
	if err != nil {
		return a, false
	}
	host := m[1]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(host)
		return policy.Authority{Host: host, Port: uint16(port)}, ok && err == nil && addr.Is6() && !addr.Is4In6() && addr.Zone() == "" && addr.String() == host
	}
	switch {
	case endsInANumber.MatchString(host):
		_, err := netip.ParseAddr(host)
		ok = addressForm.MatchString(host) && err == nil
	default:
		ok = nameForm.MatchString(host) && len(host) <= 253
		for label := range strings.SplitSeq(host, ".") {
			if strings.HasPrefix(label, "xn--") {
				_, err := idna.Lookup.ToUnicode(label)
				ok = ok && err == nil
			}
		}
	}
	return policy.Authority{Host: host, Port: uint16(port)}, ok
}

// FuzzGrammar: ParseAuthority and ParseTarget accept what the naive grammar does, and nothing else.
func FuzzGrammar(f *testing.F) {
	f.Add("api.test:443", "/v1/x?a=1&b=%20")
	f.Add("[2001:db8::1]:8443", "/%c3%a4/a%2Fb/%2520")
	f.Add("10.0.0.1:80", "/a/../b")
	f.Fuzz(func(t *testing.T, authority, target string) {
		want, ok := naiveAuthority(authority)
		got, err := policy.ParseAuthority(authority)
		if ok != (err == nil) || ok && got != want {
			t.Errorf("authority %q is %v, %v; the naive grammar says %v, %v", authority, got, err, want, ok)
		}
		if _, err := policy.ParseTarget("https", api, target); naiveTarget(target) != (err == nil) {
			t.Errorf("target %q: %v; the naive grammar says %v", target, err, naiveTarget(target))
		}
	})
}

// The naive grammar refuses and accepts, so that agreeing with it means something.
func TestNaiveGrammar(t *testing.T) {
	for s, want := range map[string]bool{
		"/": true, "/a/": true, "/a?": true, "/%25": true, "/a%2Fb": true, "/%2520": true, "/%25252520": true, "/%c3%a4": true, "/...": true,
		"": false, "a": false, "//": false, "/./a": false, "/%2e": false, "/a%2f..": false, "/%2525252520": false, "/%c3": false, "/%00": false, "/a;b": false, "/a?;": false, "/a#": false, "/%252e": false,
	} {
		if naiveTarget(s) != want {
			t.Errorf("target %q: %v", s, !want)
		}
	}
	for s, want := range map[string]bool{
		"api.test:443": true, "API.test:1": true, "[::1]:80": true, "1.2.3.4:65535": true, "a-b.c_d:1": true,
		"api.test": false, "api.test.:443": false, "127.1:80": false, "0x7f.1:80": false, "[::1%lo]:80": false, "[::ffff:1.2.3.4]:80": false, "api.test:0443": false, "api.test:65536": false, "u@api.test:443": false, "-a:1": false,
	} {
		if _, ok := naiveAuthority(s); ok != want {
			t.Errorf("authority %q: %v", s, !want)
		}
	}
}
