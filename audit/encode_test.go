package audit_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/audit"
)

// one appends r and returns its line, decoded and as it is.
func one(t *testing.T, r audit.Record) (audit.Entry, string) {
	t.Helper()
	line := trail(t, "s", r)
	if n := strings.Count(line, "\n"); n != 1 || line[len(line)-1] != '\n' {
		t.Errorf("%d newlines in the line %q", n, line)
	}
	for i := range len(line) - 1 {
		if line[i] < ' ' || line[i] > '~' {
			t.Errorf("byte %#x at %d of the line is not printable ASCII", line[i], i)
		}
	}
	var e audit.Entry
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("the line is no JSON: %v\n%s", err, line)
	}
	return e, line
}

func TestStringsStayInTheirField(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"plain", "plain"},
		{"/v1/\n{\"event\":\"session.ended\"}", "/v1/\n{\"event\":\"session.ended\"}"},
		{`","reason":"allowed","x":"`, `","reason":"allowed","x":"`},
		{`\","reason":"allowed`, `\","reason":"allowed`},
		{"\x1b[2K\x1b[1A\u009b1A", "\x1b[2K\x1b[1A\u009b1A"},
		{"\u202etxt.exe\u2066\u200b", "\u202etxt.exe\u2066\u200b"},
		{"\u2028\u2029\x7f\x00\r", "\u2028\u2029\x7f\x00\r"},
		{"</script><!--&", "</script><!--&"},
		{"päth/\U0001F511", "päth/\U0001F511"},
		{"/v1/\xff", "/v1/%FF"},
		{"/v1/\ufffd", "/v1/\ufffd"},                // not the same as an invalid byte
		{"\xed\xa0\x80", "%ED%A0%80"},               // a surrogate
		{"\xc0\xaf\xf4\x90\x80", "%C0%AF%F4%90%80"}, // overlong, beyond Unicode
		{strings.Repeat("a", 1024), strings.Repeat("a", 1024)},
		{strings.Repeat("a", 1025), strings.Repeat("a", 1024) + "[+1 bytes]"},
		{strings.Repeat("a", 9000), strings.Repeat("a", 1024) + "[+7976 bytes]"},
		{strings.Repeat("a", 1022) + "\U0001F511", strings.Repeat("a", 1022) + "[+4 bytes]"},
		{strings.Repeat("\xff", 1000), strings.Repeat("%FF", 341) + "[+659 bytes]"},
	} {
		e, _ := one(t, audit.Record{Event: audit.RequestDenied, Path: tt.in, Reason: "path_not_allowed"})
		if e.Path != tt.want || e.Reason != "path_not_allowed" || e.Event != audit.RequestDenied {
			t.Errorf("path %.80q: recorded as %.80q, reason %q, event %q", tt.in, e.Path, e.Reason, e.Event)
		}
	}
}

// Verify writes each record anew and compares, so trails of old stay good only while a new
// version of Go escapes as this one does.
func TestEscapesStayAsTheyAre(t *testing.T) {
	var all strings.Builder
	for r := range rune(0x80) {
		all.WriteRune(r)
	}
	_, line := one(t, audit.Record{
		Event: audit.RequestDenied, Path: all.String(), Detail: "é\u2028\U0001F511\ufffd", DurationMS: 1.0 / 3,
		IssuedAt: noon.Add(1), ExpiresAt: noon.Add(1500 * time.Millisecond), BytesIn: -1 << 63,
	})
	want := `,"path":"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f` +
		`\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f` +
		` !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_` +
		"`abcdefghijklmnopqrstuvwxyz{|}~" + `\u007f","bytes_in":-9223372036854775808,"duration_ms":0.3333333333333333,` +
		`"issued_at":"2026-11-22T12:00:00.000000001Z","expires_at":"2026-11-22T12:00:01.5Z",` +
		`"detail":"\u00e9\u2028\ud83d\udd11\ufffd"}` + "\n"
	if _, got, _ := strings.Cut(line, `},"policy":{"generation":0,"sha256":""}`); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A field added to Record, Source, Session or Pod must not escape the cleaning.
func TestEveryStringIsCleaned(t *testing.T) {
	const bad = "\xff"
	long := bad + strings.Repeat("x", 5000)
	sink := &memory{}
	var cfg audit.Config
	cfg.Sink = sink
	fill(reflect.ValueOf(&cfg.Session).Elem(), long)
	fill(reflect.ValueOf(&cfg.Pod).Elem(), long)
	cfg.Session.ID = "s"
	l, err := audit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.SetPolicy(1, long)
	r := audit.Record{Source: &audit.Source{}}
	strs := fill(reflect.ValueOf(&r).Elem(), long) + fill(reflect.ValueOf(r.Source).Elem(), long)
	r.Event = audit.RequestIntent
	before := *r.Source
	mustAppend(t, l, r)
	if *r.Source != before {
		t.Error("Append changed the caller's Source")
	}
	strs += reflect.TypeFor[audit.Session]().NumField() + reflect.TypeFor[audit.Pod]().NumField()
	strs -= 2 // the log sets the key and the signature itself
	strs--    // the policy's hash is one more, the session's id and the event are not
	line := sink.String()
	if got := strings.Count(line, "%FFxxx"); got != strs {
		t.Errorf("%d of %d strings were cleaned", got, strs)
	}
	if got := strings.Count(line, "x[+"); got != strs {
		t.Errorf("%d of %d strings were cut", got, strs)
	}
}

// fill sets every string of the struct v, and returns how many there are.
func fill(v reflect.Value, s string) (n int) {
	for _, f := range v.Fields() {
		if f.Kind() == reflect.String {
			f.SetString(s)
			n++
		}
	}
	return n
}

func TestPathsThatDifferLookDifferent(t *testing.T) {
	seen := map[string]string{}
	for _, path := range []string{"/\xff", "/\xfe", "/\ufffd", "/\xc3", "/ÿ"} {
		e, _ := one(t, audit.Record{Event: audit.RequestDenied, Path: path})
		if other, ok := seen[e.Path]; ok {
			t.Errorf("%q and %q are both recorded as %q", path, other, e.Path)
		}
		seen[e.Path] = path
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("/v1/\n{}", "a\"b\\", "\u202e\xff", uint16(443), int64(-1), 1.5, int64(1))
	f.Add("", "\x00\x7f\x1b", "\xed\xa0\x80\U0010FFFF", uint16(0), int64(1<<62), -2.5, int64(-1))
	f.Add(strings.Repeat("é", 600), strings.Repeat("\xff", 400), "[+1 bytes]", uint16(1), int64(0), 1e300, int64(1<<40))
	f.Fuzz(func(t *testing.T, path, host, id string, port uint16, n int64, ms float64, at int64) {
		when := time.Unix(at, 123)
		in := audit.Record{
			Event: audit.CredentialIssued, Path: path, Host: host, Port: port, Issuance: "x" + id, BytesIn: n, Status: int(n),
			DurationMS: ms, ExpiresAt: when, IssuedAt: when, Source: &audit.Source{Path: host, LeaseID: id, Version: int(n)},
		}
		sink := &memory{}
		l := open(t, sink, "s")
		if _, err := l.Append(in); err != nil {
			if y := when.UTC().Year(); y < 0 || y > 9999 || ms != ms || ms-ms != 0 {
				return // no form in JSON
			}
			t.Fatal(err)
		}
		mustVerify(t, sink.String())
		e, _ := one(t, in)
		want := in
		want.Path, want.Host, want.Issuance = e.Path, e.Host, e.Issuance
		want.Source = &audit.Source{Path: e.Source.Path, LeaseID: e.Source.LeaseID, Version: int(n)}
		if diff := cmp.Diff(e.Record, want); diff != "" {
			t.Errorf("not what was appended (-got +want):\n%s", diff)
		}
		for _, s := range [][2]string{{path, e.Path}, {host, e.Host}, {"x" + id, e.Issuance}, {id, e.Source.LeaseID}} {
			if utf8.ValidString(s[0]) && len(s[0]) <= 1024 && s[0] != s[1] {
				t.Errorf("%q came back as %q", s[0], s[1])
			}
			if !utf8.ValidString(s[1]) || len(s[1]) > 1024+24 {
				t.Errorf("%q was recorded as %q", s[0], s[1])
			}
		}
	})
}

func TestBrokenErrorNamesThePlace(t *testing.T) {
	err := error(&audit.BrokenError{Line: 5, Seq: 3, What: "the hash does not match"})
	if got, want := fmt.Sprint(err), "audit trail broken at line 5 (seq 3): the hash does not match"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
