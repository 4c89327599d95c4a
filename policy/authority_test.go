package policy_test

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/idna"

	"github.com/sidekey/sidekey/policy"
)

func TestParseAuthority(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	longest := strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
	for _, tt := range []struct{ in, host string }{
		{"api.test:443", "api.test"},
		{"API.Test:443", "api.test"},
		{"localhost:443", "localhost"},
		{"a:443", "a"},
		{"a-b.c_d.e2:443", "a-b.c_d.e2"},
		{"r3---sn-x.example:443", "r3---sn-x.example"},
		{"1.example:443", "1.example"},
		{"0x7f.example:443", "0x7f.example"},
		{"xn--bcher-kva.example:443", "xn--bcher-kva.example"},
		{"XN--BCHER-KVA.example:443", "xn--bcher-kva.example"},
		{"a.0xg:443", "a.0xg"},
		{longest + ":443", longest},
		{"192.0.2.1:443", "192.0.2.1"},
		{"0.0.0.0:443", "0.0.0.0"},
		{"[::1]:443", "::1"},
		{"[2001:DB8::A]:443", "2001:db8::a"},
	} {
		got, err := policy.ParseAuthority(tt.in)
		if want := (policy.Authority{Host: tt.host, Port: 443}); err != nil || got != want {
			t.Errorf("ParseAuthority(%q) = %v, %v, want %v", tt.in, got, err, want)
		}
	}
	for in, want := range map[string]uint16{"a:1": 1, "a:80": 80, "a:8080": 8080, "a:65535": 65535} {
		if got, err := policy.ParseAuthority(in); err != nil || got.Port != want {
			t.Errorf("ParseAuthority(%q) = %v, %v, want port %d", in, got, err, want)
		}
	}
}

// The numbers are those of category 1 of the attack catalogue.
func TestParseAuthorityRefuses(t *testing.T) {
	for _, tt := range []struct{ attack, in, want string }{
		{"form", "", "host: is empty"},
		{"form", ":443", "host: is empty"},
		{"form", "api.test", "port: is missing"},
		{"form", "[::1]", "port: is missing"},
		{"form", "http://evil:443/", "is not letters"},
		{"form", "/x", "is not letters"},
		{"form", "api.test/x:443", "is not letters"},
		{"form", "api.test?x:443", "is not letters"},
		{"form", "*.api.test:443", "is not letters"},
		{"1.14", "api.test.:443", "a dot at its end"},
		{"1.14", "api.test..:443", "empty label"},
		{"1.14", ".:443", "empty label"},
		{"label", ".api.test:443", "empty label"},
		{"label", "api..test:443", "empty label"},
		{"1.16", "api.test:", "port"},
		{"1.16", "api.test:0443", "port"},
		{"1.16", "api.test:0", "port"},
		{"1.16", "api.test:65536", "port"},
		{"1.16", "api.test:99999", "port"},
		{"1.16", "api.test:123456", "port"},
		{"1.16", "api.test:+443", "port"},
		{"1.16", "api.test:-1", "port"},
		{"1.16", "api.test:443:443", "is not letters"},
		{"1.16", "api.test:https", "port"},
		{"1.16", "api.test: 443", "port"},
		{"1.17", "api.test:443@evil.test:443", "user information"},
		{"1.17", "user@evil.test:443", "user information"},
		{"1.18", "ａpi.test:443", "byte 0xef"},
		{"1.18", "api。test:443", "byte 0xe3"},
		{"1.18", "loc\u00adalhost:443", "byte 0xc2"},
		{"1.18", "ⓛocalhost:443", "byte 0xe2"},
		{"1.18", "bücher.example:443", "write an international name as xn--"},
		{"1.18", "xn--api-.test:443", "is not letters"},
		{"1.18", "xn--.test:443", "is not letters"},
		{"1.18", "xn--a.test:443", "not a valid international label"},
		{"1.18", "xn--99999999999.test:443", "not a valid international label"},
		{"bytes", "api.test\x00.evil:443", "byte 0x00"},
		{"bytes", "api.test .evil:443", "byte 0x20"},
		{"bytes", "api.test\t:443", "byte 0x09"},
		{"bytes", "api%2etest:443", "is not letters"},
		{"1.20", "2130706433:443", "ends in a number"},
		{"1.20", "0x7f000001:443", "ends in a number"},
		{"1.20", "0x:443", "ends in a number"},
		{"1.20", "0x7f.1:443", "ends in a number"},
		{"1.20", "0X7F.1:443", "ends in a number"},
		{"1.20", "0177.0.0.1:443", "ends in a number"},
		{"1.20", "127.1:443", "ends in a number"},
		{"1.20", "127.0.0.01:443", "ends in a number"},
		{"1.20", "127.0.0.0x1:443", "ends in a number"},
		{"1.20", "127.0.0.256:443", "ends in a number"},
		{"1.20", "1.2.3.4.5:443", "ends in a number"},
		{"1.20", "evil.1:443", "ends in a number"},
		{"1.20", "127.0.0.1.:443", "dot at its end"},
		{"1.20", "[::ffff:127.0.0.1]:443", "an IPv4 address written as IPv6"},
		{"1.20", "[0:0:0:0:0:ffff:7f00:1]:443", "an IPv4 address written as IPv6"},
		{"1.20", "[0:0:0:0:0:0:0:1]:443", "write [::1]"},
		{"1.20", "[::0001]:443", "write [::1]"},
		{"1.20", "[::127.0.0.1]:443", "write [::7f00:1]"},
		{"1.21", "[api.test]:443", "not an IPv6 address"},
		{"1.21", "[127.0.0.1]:443", "not an IPv6 address"},
		{"1.21", "[]:443", "not an IPv6 address"},
		{"1.21", "[::1:443", "[ without ] at its end"},
		{"1.21", "[::1]x:443", "[ without ] at its end"},
		{"1.21", "x[::1]:443", "is not letters"},
		{"1.21", "[[::1]]:443", "not an IPv6 address"},
		{"1.21", "::1:443", "is not letters"},
		{"1.21", "[::1%lo]:443", "zone"},
		{"1.21", "[::1%25eth0]:443", "zone"},
		{"label", "-a.test:443", "is not letters"},
		{"label", "a-.test:443", "is not letters"},
		{"label", "_dmarc.test:443", "is not letters"},
		{"label", "a_.test:443", "is not letters"},
		{"label", strings.Repeat("a", 64) + ".test:443", "longer than 63 bytes"},
		{"label", strings.Repeat(strings.Repeat("a", 62)+".", 4) + "bb:443", "longer than 253 bytes"},
	} {
		_, err := policy.ParseAuthority(tt.in)
		checkTargetError(t, tt.attack, tt.in, err, tt.want)
	}
}

func TestAuthorityString(t *testing.T) {
	for want, a := range map[string]policy.Authority{
		"api.test:443": {Host: "api.test", Port: 443}, "[::1]:80": {Host: "::1", Port: 80}, "192.0.2.1:1": {Host: "192.0.2.1", Port: 1},
	} {
		if got := a.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzAuthority: an authority has one spelling, which net and net/url read as it was meant, and a
// CONNECT to it cannot be mistaken for one to another.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"api.test:443", "[::1]:80", "API.Test:1", "192.0.2.1:65535", "xn--bcher-kva.example:443", "u@api.test:443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := policy.ParseAuthority(s)
		if err != nil {
			var te *policy.TargetError
			if !errors.As(err, &te) || a != (policy.Authority{}) || len(te.Input) > 80 {
				t.Fatalf("%q: %v with error %#v", s, a, err)
			}
			return
		}
		if !strings.EqualFold(a.String(), s) || a.String() != strings.ToLower(s) {
			t.Fatalf("%q became %q", s, a)
		}
		if again, err := policy.ParseAuthority(a.String()); err != nil || again != a {
			t.Fatalf("%q is no fixed point: %v, %v", a, again, err)
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil || strings.ToLower(host) != a.Host || port != strconv.Itoa(int(a.Port)) || a.Port == 0 {
			t.Fatalf("net reads %q as %q, %q, %v", s, host, port, err)
		}
		if addr, err := netip.ParseAddr(a.Host); err == nil {
			if addr.String() != a.Host || addr.Zone() != "" || addr.Is4In6() {
				t.Fatalf("%q is no canonical address", a.Host)
			}
		} else if strings.ContainsAny(a.Host, ":%/@?#[]*\\ ") || strings.HasSuffix(a.Host, ".") {
			t.Fatalf("%q is no host", a.Host)
		}
		target, err := policy.ParseURL("https://" + s + "/")
		if err != nil || target.Authority != a {
			t.Fatalf("%q in a URL is %v, %v", s, target.Authority, err)
		}
		checkOtherParsers(t, target)
	})
}

// checkOtherParsers fails if net/url or IDNA, which net/http uses on the way out, would read
// target as another one.
func checkOtherParsers(t *testing.T, target policy.Target) {
	t.Helper()
	u, err := url.Parse(target.String())
	if err != nil {
		t.Fatalf("net/url refuses %q: %v", target, err)
	}
	if u.Hostname() != target.Host || u.Scheme != target.Scheme || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		t.Fatalf("net/url reads %q as scheme %q, host %q", target, u.Scheme, u.Hostname())
	}
	if u.RequestURI() != target.RequestURI() {
		t.Fatalf("net/url sends %q for %q", u.RequestURI(), target.RequestURI())
	}
	if _, err := netip.ParseAddr(target.Host); err == nil {
		return
	}
	if ascii, err := idna.ToASCII(target.Host); err != nil || ascii != target.Host {
		t.Fatalf("IDNA reads host %q as %q, %v", target.Host, ascii, err)
	}
}
