package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html"
	"html/template"
	"io"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/redact"
)

// values are secrets of the shapes that matter: plain, with everything that encoders escape, with
// bytes that make "+", "/" and "-", "_" in base64, of all lengths modulo 3, beyond ASCII, not text.
var values = []string{
	"hunter22",
	"ghp_Zk3vQ9xT1bLr8mYw2cNd",
	`p&ss<w>or"d'/+=?\x`,
	"two words ~tilde,comma;semi:colon@at$!*()",
	"\xfb\xff\xfe\xfb\xef\xbe\xfb\xff\xbf",
	"pässwörd-€-\U0001F511",
	"line\none\ttab\bback\fform\rreturn\x01\x1f\x7f",
	"QUxMIFVQUEVS/QUxMIFVQUEVS+==",
}

var encoders = []struct {
	name   string
	encode func(string) string
}{
	{"raw", func(v string) string { return v }},
	{"url query", url.QueryEscape},
	{"url path", url.PathEscape},
	{"url values", func(v string) string { return url.Values{"a": {"b " + v + " c"}}.Encode() }},
	{"percent lower", func(v string) string { return lowerPercent(url.QueryEscape(v)) }},
	{"percent every upper", func(v string) string { return every(v, "%%%02X") }},
	{"percent every lower", func(v string) string { return every(v, "%%%02x") }},
	{"hex", func(v string) string { return hex.EncodeToString([]byte(v)) }},
	{"hex upper", func(v string) string { return fmt.Sprintf("%X", v) }},
	{"base64", inner(base64.StdEncoding)},
	{"base64 raw", inner(base64.RawStdEncoding)},
	{"base64 url", inner(base64.URLEncoding)},
	{"base64 url raw", inner(base64.RawURLEncoding)},
	{"basic", func(v string) string { return base64.StdEncoding.EncodeToString([]byte("git:" + v)) }},
	{"basic in a query", func(v string) string {
		return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte("git:" + v)))
	}},
	{"basic in PHP's JSON", func(v string) string {
		return strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte("git:"+v)), "/", `\/`)
	}},
	{"html", html.EscapeString},
	{"html template", template.HTMLEscapeString},
	{"html attribute", func(v string) string { return strings.ReplaceAll(html.EscapeString(v), "&#34;", "&quot;") }},
	{"html python", func(v string) string {
		return strings.NewReplacer("&#34;", "&quot;", "&#39;", "&#x27;").Replace(html.EscapeString(v))
	}},
}

// textEncoders cannot render bytes that are not UTF-8, or are control bytes.
var textEncoders = []struct {
	name   string
	encode func(string) string
}{
	{"json", func(v string) string { return jsonString(v, true) }},
	{"json without html", func(v string) string { return jsonString(v, false) }},
	{"json slash", func(v string) string { return strings.ReplaceAll(jsonString(v, false), "/", `\/`) }},
	{"json ascii", func(v string) string { return ascii(jsonString(v, false)) }},
	{"json every", func(v string) string { return everyUnit(v, `\u%04x`) }},
	{"json every upper", func(v string) string { return everyUnit(v, `\u%04X`) }},
	{"json gson", func(v string) string {
		return strings.NewReplacer("=", `\u003d`, "'", `\u0027`).Replace(jsonString(v, true))
	}},
}

func TestEncodings(t *testing.T) {
	for i, v := range values {
		set, short := redact.Compile(redact.Pattern{Value: []byte(v), User: []byte("git")})
		if len(short) != 0 {
			t.Fatalf("value %d is too short", i)
		}
		for _, e := range encoders {
			encodingCase(t, set, fmt.Sprintf("%d/%s", i, e.name), e.encode(v))
		}
		for _, e := range textEncoders {
			if i != 4 {
				encodingCase(t, set, fmt.Sprintf("%d/%s", i, e.name), e.encode(v))
			}
		}
	}
}

func encodingCase(t *testing.T, set *redact.Set, name, rendered string) {
	t.Run(name, func(t *testing.T) {
		body := `{"data": "` + rendered + `", "n": 1}` + strings.Repeat("\n", 70)
		want := `{"data": "` + redact.Mask + `", "n": 1}` + strings.Repeat("\n", 70)
		if strings.HasPrefix(rendered, "a=") {
			want = strings.Replace(want, redact.Mask, "a=b+"+redact.Mask+"+c", 1)
		}
		got, n := set.String(body)
		if got != want || n != 1 {
			t.Errorf("%d masks in a string, want 1 (lengths: got %d, want %d)", n, len(got), len(want))
		}
		r := set.NewReader(strings.NewReader(body))
		read, err := io.ReadAll(r)
		if err != nil || string(read) != want || r.Found() != 1 {
			t.Errorf("%d masks in a stream, want 1 (lengths: got %d, want %d; %v)", r.Found(), len(read), len(want), err)
		}
	})
}

func TestBase64InsideText(t *testing.T) {
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		for i, v := range values {
			set, _ := redact.Compile(redact.Pattern{Value: []byte(v)})
			for before := range 7 {
				for after := range 7 {
					text := strings.Repeat("<", before) + v + strings.Repeat("~", after)
					got, n := set.String(e.EncodeToString([]byte(text)))
					if n != 1 {
						t.Errorf("value %d, %d before, %d after: %d masks, want 1", i, before, after, n)
					}
					// Only characters that have bits of a neighbour stay.
					want := e.EncodedLen(len(text)) - (before+len(v))*8/6 + (before*8+5)/6
					if after == 0 {
						want = (before*8 + 5) / 6
					}
					if left := len(got) - len(redact.Mask); left != want {
						t.Errorf("value %d, %d before, %d after: %d characters left, want %d", i, before, after, left, want)
					}
				}
			}
		}
	}
}

func TestCommonEscapersOfXML(t *testing.T) {
	v := `p&ss<w>or"d'/+=`
	var b bytes.Buffer
	if err := xml.EscapeText(&b, []byte(v)); err != nil {
		t.Fatal(err)
	}
	set, _ := redact.Compile(redact.Pattern{Value: []byte(v)})
	if _, n := set.String(b.String()); n != 1 {
		t.Errorf("%d masks, want 1", n)
	}
}

func TestNoNeedleIsShorterThanItsValue(t *testing.T) {
	for i, v := range values {
		for _, n := range redact.Render(redact.Pattern{Value: []byte(v)}) {
			if len(n) < len(v) {
				t.Errorf("value %d has a needle of %d bytes", i, len(n))
			}
		}
	}
}

func TestString(t *testing.T) {
	const m = redact.Mask
	set, _ := redact.Compile(pats("abcdefgh", "abcdefghijkl", "efghijklmnop", "xxxxxxxx", "redacted", "zz"+m+"zz")...)
	tests := []struct {
		in, want string
		n        int
	}{
		{"", "", 0},
		{"abcdefg", "abcdefg", 0},
		{"abcdefgh", m, 1},
		{"<abcdefgh>", "<" + m + ">", 1},
		{"abcdefgabcdefgh", "abcdefg" + m, 1},         // a false start
		{"abcdefghijkl", m, 1},                        // the longer one
		{"abcdefghijk", m + "ijk", 1},                 // not quite the longer one
		{"abcdefghijklmnop", m, 1},                    // overlap
		{"abcdefghefghijklmnop", m + m, 2},            // touch
		{"abcdefgh abcdefgh", m + " " + m, 2},         // twice
		{"xxxxxxxxxxxx", m, 1},                        // overlaps itself
		{"xxxxxxxxxxxxxxxx", m, 1},                    // overlaps itself all the way
		{"xxxxxxx xxxxxxx", "xxxxxxx xxxxxxx", 0},     // almost
		{"Abcdefgh", "Abcdefgh", 0},                   // case counts
		{m, "[sidekey:" + m + "]", 1},                 // a secret that the mask has inside
		{"zz" + m + "zz", m, 1},                       // a secret that has the mask inside
		{"zz" + m + "z", "zz[sidekey:" + m + "]z", 1}, // almost
		{"zz" + m + "zabcdefgh", "zz[sidekey:" + m + "]z" + m, 2},
	}
	for _, tt := range tests {
		if got, n := set.String(tt.in); got != tt.want || n != tt.n {
			t.Errorf("String(%q) = %q, %d, want %q, %d", tt.in, got, n, tt.want, tt.n)
		}
	}
}

func TestStringDoesNotAllocate(t *testing.T) {
	set, _ := redact.Compile(tokens(20)...)
	for _, v := range []string{"", "no-store", "ghp_" + strings.Repeat("innocent ", 100)} {
		if n := testing.AllocsPerRun(100, func() { set.String(v) }); n != 0 {
			t.Errorf("%v allocations in %d bytes, want 0", n, len(v))
		}
	}
}

func TestCompile(t *testing.T) {
	set, short := redact.Compile(pats("short12", "longenough", "", "hunter22")...)
	if fmt.Sprint(short) != "[0 2]" || set.Size() != 2 {
		t.Errorf("short = %v, size %d, want [0 2], 2", short, set.Size())
	}
	if got, n := set.String("short12"); n != 0 {
		t.Errorf("a secret that is too short was looked for: %q", got)
	}
	p := pats("hunter22")
	set, _ = redact.Compile(p...)
	clear(p[0].Value)
	if _, n := set.String("hunter22"); n != 1 {
		t.Error("Compile kept the pattern's bytes")
	}
}

func TestNothingToFind(t *testing.T) {
	empty, short := redact.Compile()
	if len(short) != 0 {
		t.Errorf("short = %v", short)
	}
	onlyShort, _ := redact.Compile(pats("short")...)
	for name, set := range map[string]*redact.Set{"nil": nil, "zero": {}, "empty": empty, "short": onlyShort} {
		if set.Size() != 0 {
			t.Errorf("%s: size %d", name, set.Size())
		}
		if got, n := set.String("short text"); got != "short text" || n != 0 {
			t.Errorf("%s: String = %q, %d", name, got, n)
		}
		r := set.NewReader(strings.NewReader("short text"))
		got, err := io.ReadAll(r)
		if string(got) != "short text" || err != nil || r.Found() != 0 {
			t.Errorf("%s: read %q, %v, %d found", name, got, err, r.Found())
		}
		set.Wipe()
	}
}

func TestMemory(t *testing.T) {
	set, _ := redact.Compile(tokens(20)...)
	if n := set.Bytes(); n > 1<<20 {
		t.Errorf("20 secrets of 40 bytes take %d bytes, want at most 1 MiB", n)
	}
}

func TestWipe(t *testing.T) {
	set, _ := redact.Compile(pats("hunter22", "hunter23hunter")...)
	if !set.Held() {
		t.Fatal("nothing to wipe")
	}
	r := set.NewReader(io.MultiReader(strings.NewReader("is hunter"), strings.NewReader("22"+strings.Repeat("\x00", 100))))
	got := make([]byte, 3)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	set.Wipe()
	if set.Held() || set.Size() != 0 {
		t.Error("something was left")
	}
	if _, n := set.String("hunter22"); n != 0 {
		t.Error("a wiped set still finds")
	}
	rest, err := io.ReadAll(r)
	if want := "hunter22" + strings.Repeat("\x00", 100); err != nil || string(rest) != want {
		t.Errorf("after the wipe: %q, %v", rest, err)
	}
}

func TestPrinting(t *testing.T) {
	const v = "hunter22-hunter22"
	p := redact.Pattern{Value: []byte(v), User: []byte(v)}
	set, _ := redact.Compile(p)
	r := set.NewReader(strings.NewReader("body " + v[:10]))
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, a := range []any{p, &p, []redact.Pattern{p}, set, *set, r, *r, struct{ s *redact.Set }{set}, struct{ s redact.Set }{*set}, struct{ r *redact.Reader }{r}} {
		verbs := "vTtbcdoOqxXUeEfFgGs!"
		if s := fmt.Sprintf("%T", a); !strings.HasSuffix(s, "redact.Pattern") {
			verbs += "p" // asks no Formatter
		}
		for _, verb := range verbs {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "8.3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", a)
			}
		}
		b, err := json.Marshal(a)
		fmt.Fprintln(&out, string(b), err)
	}
	for _, leak := range []string{"hunter", "68756e", "68756E", "104 117", "0x68, 0x75", "aHVudGVy", "aHVudGVyMj"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed as %q", leak)
		}
	}
}

func pats(values ...string) []redact.Pattern {
	var out []redact.Pattern
	for _, v := range values {
		out = append(out, redact.Pattern{Value: []byte(v)})
	}
	return out
}

func every(v, format string) string {
	var b strings.Builder
	for i := range len(v) {
		fmt.Fprintf(&b, format, v[i])
	}
	return b.String()
}

// inner renders a text that is the value alone.
func inner(e *base64.Encoding) func(string) string {
	return func(v string) string { return e.EncodeToString([]byte(v)) }
}

func lowerPercent(v string) string {
	b := []byte(v)
	for i := range b {
		if b[i] == '%' {
			copy(b[i:], bytes.ToLower(b[i:i+3]))
		}
	}
	return string(b)
}

func jsonString(v string, escapeHTML bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escapeHTML)
	if err := e.Encode(v); err != nil {
		panic("a string was not encoded")
	}
	s := strings.TrimSuffix(b.String(), "\n")
	return s[1 : len(s)-1]
}

func ascii(v string) string {
	var b strings.Builder
	for _, r := range v {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			b.WriteString(everyUnit(string(r), `\u%04x`))
		}
	}
	return b.String()
}

// everyUnit renders each UTF-16 code unit of v.
func everyUnit(v, format string) string {
	var b strings.Builder
	for _, r := range v {
		q := strconv.QuoteRuneToASCII(r)
		if r > 0xFFFF {
			n, _ := strconv.ParseUint(q[3:11], 16, 32)
			n -= 0x10000
			fmt.Fprintf(&b, format+format, 0xD800+n>>10, 0xDC00+n&0x3FF)
			continue
		}
		fmt.Fprintf(&b, format, r)
	}
	return b.String()
}
