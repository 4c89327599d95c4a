package policy_test

import (
	"encoding/hex"
	"errors"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sidekey/sidekey/policy"
)

var api = policy.Authority{Host: "api.test", Port: 443}

func TestParseTarget(t *testing.T) {
	for _, s := range []string{
		"/", "/v1", "/v1/", "/v1/users.json", "/a/b/c", "/...", "/.well-known/x", "/a..b", "/v1/V1",
		"/a-b_c.d~e", "/!$&'()*+,=:@", "/a:b@c", "/~user", "/%7Euser",
		"/a%20b", "/%25", "/%25zz", "/%25g0", "/%3F", "/%23", "/%3a", "/%3A", "/%40", "/%2B", "/%2a",
		"/%c3%a4", "/%E2%98%83", "/%f0%9f%98%80", "/%ef%bb%bf",
		"/?", "/x?", "/x?a=1&b=2", "/x??", "/x?/../..", "/x?a=%2e%2e%2f", "/x?a[]=1|2^{3}`", "/x?q=a'b", "/x?%00",
		"/a%2Fb", "/a%2fb/c", "/a%2F", "/@s%2fname", "/a%2F.b%2F..c", "/%2520", "/a%252Fb", "/%2525", "/%25c3%25a4", "/%252520", "/%25252520",
		"/" + strings.Repeat("a", 8<<10-1), "/?" + strings.Repeat("a", 16<<10),
	} {
		got, err := policy.ParseTarget("https", api, s)
		if err != nil {
			t.Errorf("ParseTarget(%.80q): %v", s, err)
			continue
		}
		if got.RequestURI() != s {
			t.Errorf("ParseTarget(%.80q).RequestURI() = %.80q", s, got.RequestURI())
		}
	}
}

// The numbers are those of category 1 of the attack catalogue.
func TestParseTargetRefuses(t *testing.T) {
	for _, tt := range []struct{ attack, target, want string }{
		{"form", "", "path: does not begin with /"},
		{"form", "*", "does not begin with /"},
		{"form", "v1", "does not begin with /"},
		{"form", "?x", "does not begin with /"},
		{"form", "https://api.test/", "does not begin with /"},

		{"1.01", "/v1/../admin", "dot segment .."},
		{"1.01", "/v1/./x", "dot segment ."},
		{"1.01", "/v1/..", "dot segment .."},
		{"1.01", "/..", "dot segment .."},
		{"1.01", "/./", "dot segment ."},
		{"1.02", "/v1/%2e%2e/admin", "encodes '.' (%2e)"},
		{"1.02", "/v1/.%2E/admin", "encodes '.' (%2E)"},
		{"1.02", "/v1/%2e", "encodes '.' (%2e)"},
		{"slash", "/v1%2f..%2fadmin", "decoded to a path with a dot segment"},
		{"slash", "/v1/a%2F..", "decoded to a path with a dot segment"},
		{"slash", "/v1/..%2Fa", "decoded to a path with a dot segment"},
		{"slash", "/v1/.%2fa", "decoded to a path with a dot segment"},
		{"slash", "/v1/..%2f", "decoded to a path with a dot segment"},
		{"slash", "/v1/%2F", "decoded to a path with an empty segment"},
		{"slash", "/%2Fevil.test/x", "decoded to a path with an empty segment"},
		{"slash", "/v1/a%2F%2fb", "decoded to a path with an empty segment"},
		{"slash", "/v1/a%2F/b", "decoded to a path with an empty segment"},
		{"slash", "/v1/a%2F%2e%2e", "encodes '.' (%2e)"},
		{"slash", "/v1/a%2F..%5cb", `encodes '\\' (%5c)`},
		{"slash", "/v1/a%2F..%00", "control character (%00)"},
		{"slash", "/v1/a%2F..%20/b", "decoded to a path with a dot segment"},
		{"slash", "/v1/a%2F..%3fb", "decoded to a path with a dot segment"},
		{"slash", "/v1/a%2F..%23b", "decoded to a path with a dot segment"},
		{"slash", "/v1/..%20", "decoded to a path with a dot segment"},
		{"slash", "/v1/..%3f/x", "decoded to a path with a dot segment"},
		{"slash", "/v1%5cadmin", `encodes '\\' (%5c)`},
		{"1.04", "/v1/%252e%252e%252fadmin", "encoded twice, and encodes '.' (%2e)"},
		{"1.04", "/v1/%252E", "encoded twice, and encodes '.' (%2E)"},
		{"1.04", "/v1/..%252fadmin", "decoded to a path with a dot segment"},
		{"1.04", "/v1/a%252f..%252fb", "decoded to a path with a dot segment"},
		{"1.04", "/v1/a%2f..%252fb", "decoded to a path with a dot segment"},
		{"1.04", "/v1/a%252f%252fb", "decoded to a path with an empty segment"},
		{"1.04", "/v1/%2500", "encoded twice, and encodes a control character (%00)"},
		{"1.04", "/v1/%250d%250aX:1", "encoded twice, and encodes a control character (%0d)"},
		{"1.04", "/v1/%255c", `encoded twice, and encodes '\\' (%5c)`},
		{"1.04", "/v1/..%253b/x", "encoded twice, and encodes ';' (%3b)"},
		{"1.04", "/v1/..%253f/x", "decoded to a path with a dot segment"},
		{"1.04", "/v1/..%2520/x", "decoded to a path with a dot segment"},
		{"1.04", "/v1/%25c0%25ae", "encoded twice, and encodes bytes that are not UTF-8 (%c0)"},
		{"1.04", "/v1/%25c3%c2%a4", "encoded twice, and encodes bytes that are not UTF-8 (%c3)"},
		{"1.04", "/v1/%2541", "encoded twice, and encodes 'A' (%41)"},
		{"1.04", "/v1/%25252e", "encoded twice, and encodes '.' (%2e)"},
		{"1.04", "/v1/%2525252e", "encoded twice, and encodes '.' (%2e)"},
		{"1.04", "/v1/%252525252520", "encoded more than 4 times"},
		{"1.04", "/v1/" + "%" + strings.Repeat("25", 4000), "encoded more than 4 times"},
		{"1.04", "/v1/%25%32%65", "encodes '2' (%32)"},
		{"1.05", "/v1/..;/admin", "byte ';'"},
		{"1.05", "/v1/..;foo=bar/admin", "byte ';'"},
		{"1.05", "/v1/.;/x", "byte ';'"},
		{"1.05", "/v1/%2e%2e%3b/admin", "encodes '.' (%2e)"},
		{"1.05", "/v1/x%3b/admin", "encodes ';' (%3b)"},
		{"1.05", "/v1;a=b/x", "byte ';'"},
		{"1.06", "//v1/x", "empty segment"},
		{"1.06", "/v1//admin", "empty segment"},
		{"1.06", "//evil.test/x", "empty segment"},
		{"1.06", "///x", "empty segment"},
		{"1.06", "//", "empty segment"},
		{"1.06", "/x//", "empty segment"},
		{"backslash", `/v1\..\admin`, `byte '\\'`},
		{"backslash", `/\evil.test`, `byte '\\'`},
		{"1.08", "/v1/x#/../admin", "byte '#'"},
		{"1.08", "/x?q=1#&admin=1", "query: has the byte '#'"},
		{"1.08", "/#", "byte '#'"},
		{"1.09", "/v1/x%00/../admin", "control character (%00)"},
		{"1.09", "/v1/x%0d%0aX-Admin:1", "control character (%0d)"},
		{"1.09", "/v1/%09", "control character (%09)"},
		{"1.09", "/v1/%7f", "control character (%7f)"},
		{"1.09", "/v1/\x00", "byte 0x00"},
		{"1.09", "/v1/\r\nX: 1", "byte 0x0d"},
		{"1.09", "/v1/\x7f", "byte 0x7f"},
		{"1.09", "/v1/x HTTP/1.1", "byte 0x20"},
		{"1.09", "/x?a\tb", "query: has the byte 0x09"},
		{"1.09", "/x?a b", "query: has the byte 0x20"},
		{"1.10", "/v1/%c0%ae%c0%ae/admin", "not UTF-8 (%c0)"},
		{"1.10", "/v1/%e0%80%ae", "not UTF-8 (%e0)"},
		{"1.10", "/v1/%f0%80%80%ae", "not UTF-8 (%f0)"},
		{"1.10", "/v1/%ff", "not UTF-8 (%ff)"},
		{"1.10", "/v1/%ed%a0%80", "not UTF-8 (%ed)"},
		{"1.10", "/v1/%f4%90%80%80", "not UTF-8 (%f4)"},
		{"1.10", "/v1/%c3", "not UTF-8 (%c3)"},
		{"1.10", "/v1/%c3a4", "not UTF-8 (%c3)"},
		{"1.10", "/v1/%c3/%a4", "not UTF-8 (%c3)"},
		{"1.10", "/v1/%a4", "not UTF-8 (%a4)"},
		{"1.10", "/v1/\xff", "byte 0xff"},
		{"1.10", "/v1/ä", "byte 0xc3"},
		{"1.10", "/x?ä", "query: has the byte 0xc3"},
		{"triplet", "/v1/%", "% without two hex digits"},
		{"triplet", "/v1/%2", "% without two hex digits"},
		{"triplet", "/v1/%zz", "% without two hex digits"},
		{"triplet", "/v1/%u002e", "% without two hex digits"},
		{"triplet", "/x?a=%zz", "query: has a % without two hex digits"},
		{"triplet", "/x?a=%", "query: has a % without two hex digits"},
		{"triplet", "/x?a=%2", "query: has a % without two hex digits"},
		{"1.12", "/%76%31/x", "encodes 'v' (%76)"},
		{"1.12", "/%56", "encodes 'V' (%56)"},
		{"1.12", "/%30", "encodes '0' (%30)"},
		{"1.12", "/a%2Db", "encodes '-' (%2D)"},
		{"1.12", "/a%5Fb", "encodes '_' (%5F)"},
		{"1.13", "/v1/users/.", "dot segment ."},
		{"query", "/x?admin=1;x=2", "query: has the byte ';'"},
		{"query", `/x?a\b`, `query: has the byte '\\'`},
		{"query", `/x?"`, `query: has the byte '"'`},
		{"query", "/x?<", "query: has the byte '<'"},
		{"query", "/x?>", "query: has the byte '>'"},
		{"bytes", `/"`, "byte '\"'"},
		{"bytes", "/<", "byte '<'"},
		{"bytes", "/>", "byte '>'"},
		{"bytes", "/[", "byte '['"},
		{"bytes", "/]", "byte ']'"},
		{"bytes", "/^", "byte '^'"},
		{"bytes", "/{", "byte '{'"},
		{"bytes", "/|", "byte '|'"},
		{"bytes", "/}", "byte '}'"},
		{"bytes", "/`", "byte '`'"},
		{"size", "/" + strings.Repeat("a", 8<<10), "longer than 8192 bytes"},
		{"size", "/?" + strings.Repeat("a", 16<<10+1), "query: is longer than 16384 bytes"},
	} {
		_, err := policy.ParseTarget("https", api, tt.target)
		checkTargetError(t, tt.attack, tt.target, err, tt.want)
	}
	_, err := policy.ParseTarget("ftp", api, "/")
	checkTargetError(t, "scheme", "ftp", err, "scheme")
	_, err = policy.ParseTarget("https", policy.Authority{}, "/")
	checkTargetError(t, "authority", "", err, "host or port is missing")
}

func checkTargetError(t *testing.T, attack, input string, err error, want string) {
	t.Helper()
	var te *policy.TargetError
	switch {
	case err == nil:
		t.Errorf("%s: %.80q was accepted", attack, input)
	case !errors.As(err, &te):
		t.Errorf("%s: %.80q: error is a %T", attack, input, err)
	case !strings.Contains(err.Error(), want) && !strings.Contains(te.Part+": "+te.Msg, want):
		t.Errorf("%s: %.80q: got %q, want %q in it", attack, input, err, want)
	case len(te.Input) > 80:
		t.Errorf("%s: %.80q: error repeats %d bytes", attack, input, len(te.Input))
	}
}

func TestTargetErrorKeepsQuiet(t *testing.T) {
	for _, s := range []string{
		"https://user:hunter2@api.test/", "http:hunter2@api.test", "hunter2@x",
		"https://api.test/?key=hunter2;", "https://api.test/?key=hunter2#",
	} {
		_, err := policy.ParseURL(s)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseURL(%q): error %v, want one without the word", s, err)
		}
	}
	_, err := policy.ParseTarget("https", api, "/\x1b[2J\r\n"+strings.Repeat("a", 1000))
	if s := err.Error(); strings.ContainsAny(s, "\x1b\r\n") || len(s) > 500 {
		t.Errorf("error is not escaped and short: %q", s)
	}
}

func TestParseURL(t *testing.T) {
	for _, tt := range []struct{ in, want, authority string }{
		{"https://api.test/v1?x=1", "https://api.test/v1?x=1", "api.test:443"},
		{"http://api.test/v1", "http://api.test/v1", "api.test:80"},
		{"https://api.test:8443/", "https://api.test:8443/", "api.test:8443"},
		{"https://api.test:443/x", "https://api.test/x", "api.test:443"},
		{"http://api.test:443/x", "http://api.test:443/x", "api.test:443"},
		{"https://API.Test/Path", "https://api.test/Path", "api.test:443"},
		{"https://api.test", "https://api.test/", "api.test:443"},
		{"https://api.test/?", "https://api.test/?", "api.test:443"},
		{"https://[2001:db8::1]/", "https://[2001:db8::1]/", "[2001:db8::1]:443"},
		{"https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/", "[2001:db8::1]:8443"},
		{"https://192.0.2.1/", "https://192.0.2.1/", "192.0.2.1:443"},
		{"https://api.test/a@b:c", "https://api.test/a@b:c", "api.test:443"},
	} {
		got, err := policy.ParseURL(tt.in)
		if err != nil {
			t.Errorf("ParseURL(%q): %v", tt.in, err)
			continue
		}
		if got.String() != tt.want || got.Authority.String() != tt.authority {
			t.Errorf("ParseURL(%q) = %s on %s, want %s on %s", tt.in, got, got.Authority, tt.want, tt.authority)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, tt := range []struct{ attack, url, want string }{
		{"1.06", "https://api.test//evil.test/x", "empty segment"},
		{"1.08", "https://api.test/v1/x#@evil.test/", "byte '#'"},
		{"1.08", "https://api.test#@evil.test/", "does not begin with /"},
		{"1.17", "http://api.test@evil.test/", "user information"},
		{"1.17", "https://u:p@api.test/", "user information"},
		{"1.17", "https://@api.test/", "user information"},
		{"1.18", "http://１６９。254。169。254/", "byte 0xef"},
		{"1.18", "http://%EF%BD%81pi.test/", "is not letters"},
		{"1.21", "http://x[::1]/", "is not letters"},
		{"1.22", "http:evil.test/x", "does not begin with http:// or https://"},
		{"1.22", "http:/x", "does not begin with http:// or https://"},
		{"1.22", "http:///x", "host: is empty"},
		{"1.22", "ftp://api.test/v1", "does not begin with http:// or https://"},
		{"1.22", "file:///proc/self/environ", "does not begin with http:// or https://"},
		{"1.22", "unix:///run/x.sock", "does not begin with http:// or https://"},
		{"1.22", "HTTP://api.test/", "does not begin with http:// or https://"},
		{"1.22", "Https://api.test/", "does not begin with http:// or https://"},
		{"1.22", " https://api.test/", "does not begin with http:// or https://"},
		{"1.22", "//api.test/", "does not begin with http:// or https://"},
		{"1.22", "", "does not begin with http:// or https://"},
		{"path", "https://api.test?x=1", "does not begin with /"},
		{"path", `https://api.test\x`, "is not letters"},
		{"path", `https://api.test\@evil.test/`, "user information"},
		{"port", "https://api.test:/", "port"},
	} {
		_, err := policy.ParseURL(tt.url)
		checkTargetError(t, tt.attack, tt.url, err, tt.want)
	}
}

// FuzzTarget: what is accepted is sent as it came, and no other parser reads it differently.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{
		"https://api.test/v1?x=1", "http://[::1]:8080/%c3%a4", "https://API.test", "https://xn--bcher-kva.example/",
		"https://a.b/%2e", "https://1.2.3.4:1/?", "https://a_b.c-d/x/", "https://xn--a/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := policy.ParseAuthority(s); err == nil {
			if again, err := policy.ParseAuthority(a.String()); err != nil || again != a {
				t.Fatalf("authority %q is no fixed point: %v, %v", a, again, err)
			}
		}
		if target, err := policy.ParseTarget("https", api, s); err == nil && target.RequestURI() != s {
			t.Fatalf("target %q became %q", s, target.RequestURI())
		}
		target, err := policy.ParseURL(s)
		if err != nil {
			return
		}
		if again, err := policy.ParseURL(target.String()); err != nil || again != target {
			t.Fatalf("URL %q is no fixed point: %v, %v", target, again, err)
		}
		if !strings.HasSuffix(s, target.RequestURI()) && target.RequestURI() != "/" {
			t.Fatalf("URL %q became %q", s, target.RequestURI())
		}
		checkOtherParsers(t, target)
		checkDecodings(t, target)
	})
}

// checkDecodings fails if a server that decodes target's path, once or until nothing changes,
// could end up elsewhere than at a path below the one that was matched, or if target does not
// know what its path needs.
func checkDecodings(t *testing.T, target policy.Target) {
	t.Helper()
	slash, percent := policy.NeedsOf(target)
	slashes, doubled := strings.Count(target.Path, "/"), false
	decoded := target.Path
	for {
		once := anyTriplet.ReplaceAllStringFunc(decoded, func(s string) string {
			b, err := hex.DecodeString(s[1:])
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		})
		if once == decoded {
			break
		}
		doubled = doubled || decoded != target.Path
		decoded = once
		if path.Clean(decoded) != strings.TrimSuffix(decoded, "/") && decoded != "/" {
			t.Fatalf("path %q is decoded to %q, which is cleaned to %q", target.Path, decoded, path.Clean(decoded))
		}
		if strings.ContainsFunc(decoded, isControl) || strings.ContainsAny(decoded, "\\;") || !utf8.ValidString(decoded) {
			t.Fatalf("path %q is decoded to %q", target.Path, decoded)
		}
	}
	if slash != (strings.Count(decoded, "/") > slashes) || percent != doubled {
		t.Fatalf("path %q: needs an encoded slash %v, double encoding %v; decoded to %q", target.Path, slash, percent, decoded)
	}
}

var anyTriplet = regexp.MustCompile("%[0-9A-Fa-f]{2}")

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
