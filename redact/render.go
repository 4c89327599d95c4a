package redact

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// widest is how many bytes a rendering takes at most for one byte: \u00XX and &quot; take six.
const widest = 6

var digits = [2]string{"0123456789ABCDEF", "0123456789abcdef"}

// percentStyles are what is left as it is besides letters and digits.
var percentStyles = []struct {
	keep  string
	space string // what stands for a space, "" for %20
}{
	{"-_.~", "+"},      // Go's url.QueryEscape
	{"-_.~$&+:=@", ""}, // Go's url.PathEscape
	{"-_.~", ""},       // RFC 3986 section 2.3
	{"-_.~/", ""},      // Python's quote
	{"-_.~!*'()", ""},  // JavaScript's encodeURIComponent
	{"-_.*", "+"},      // application/x-www-form-urlencoded in the URL standard
}

// jsonStyle says what is written as \uXXXX, besides control bytes.
type jsonStyle struct {
	chars string // these
	wide  bool   // everything beyond ASCII
	slash bool   // "/" is written "\/"
}

var jsonStyles = []jsonStyle{
	{},                         // RFC 8259 section 7
	{chars: "<>&"},             // Go, Rails
	{chars: "<>&='"},           // Gson
	{wide: true},               // Python
	{wide: true, slash: true},  // PHP
	{wide: false, slash: true}, // PHP with JSON_UNESCAPED_UNICODE
}

// htmlStyles are what replaces each of htmlChars, "" for itself.
var htmlStyles = [][len(htmlChars)]string{
	{"&amp;", "&lt;", "&gt;", "", "", ""},
	{"&amp;", "&lt;", "&gt;", "&quot;", "", ""},
	{"&amp;", "&lt;", "&gt;", "&quot;", "&#39;", ""},
	{"&amp;", "&lt;", "&gt;", "&quot;", "&#039;", ""},    // PHP
	{"&amp;", "&lt;", "&gt;", "&quot;", "&#x27;", ""},    // Python
	{"&amp;", "&lt;", "&gt;", "&quot;", "&apos;", ""},    // XML
	{"&amp;", "&lt;", "&gt;", "&#34;", "&#39;", ""},      // Go's html
	{"&amp;", "&lt;", "&gt;", "&#34;", "&#39;", "&#43;"}, // Go's html/template
}

const htmlChars = `&<>"'+`

// render returns the needles of one pattern, with repetitions. None is shorter than the value, and
// the caller owns them all: none shares memory with p.
func render(p Pattern) [][]byte {
	needles := escapes(nil, p.Value)
	for _, d := range digits {
		needles = append(needles,
			percent(p.Value, "", "", d, true),
			hexadecimal(p.Value, d),
			jsonEscape(p.Value, jsonStyle{}, d, func(rune) bool { return true }))
	}
	login := slices.Concat(p.User, []byte(":"), p.Value)
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for offset := range 3 {
			needles = append(needles, inBase64(p.Value, offset, e)...)
		}
		needles = append(needles, inBase64(login, 0, e)...)
	}
	sent := make([]byte, base64.StdEncoding.EncodedLen(len(login)))
	base64.StdEncoding.Encode(sent, login)
	needles = escapes(needles, sent)
	clear(sent)
	clear(login)
	return needles
}

// escapes appends v and what quoting it in a URL, in JSON or in HTML makes of it.
func escapes(needles [][]byte, v []byte) [][]byte {
	needles = append(needles, slices.Clone(v))
	if !slices.ContainsFunc(v, func(c byte) bool { return !alphanumeric(rune(c)) }) {
		return needles
	}
	for _, d := range digits {
		for _, s := range percentStyles {
			needles = append(needles, percent(v, s.keep, s.space, d, false))
		}
		for _, s := range jsonStyles {
			needles = append(needles, jsonEscape(v, s, d, func(rune) bool { return false }))
		}
		needles = append(needles, jsonEscape(v, jsonStyle{}, d, func(r rune) bool { return !alphanumeric(r) }))
	}
	for _, s := range htmlStyles {
		needles = append(needles, htmlEscape(v, s))
	}
	return needles
}

// inBase64 returns v inside a longer text, offset bytes (modulo 3) from its beginning: without the
// characters that depend on the neighbours, then as the end of that text, not padded and padded.
func inBase64(v []byte, offset int, e *base64.Encoding) [][]byte {
	text := slices.Concat(make([]byte, offset), v)
	first := (offset*8 + 5) / 6
	pure := len(text)*8/6 - first
	last := e.WithPadding(base64.NoPadding).EncodedLen(len(text)) - first
	b := make([]byte, e.EncodedLen(len(text)))
	e.Encode(b, text)
	clear(text)
	b = b[first:]
	return [][]byte{slices.Clone(b[:pure]), slices.Clone(b[:last]), b}
}

func hexadecimal(v []byte, digits string) []byte {
	b := make([]byte, 0, 2*len(v))
	for _, c := range v {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

func percent(v []byte, keep, space, digits string, every bool) []byte {
	b := make([]byte, 0, 3*len(v))
	for _, c := range v {
		switch {
		case !every && (alphanumeric(rune(c)) || contains(keep, c)):
			b = append(b, c)
		case c == ' ' && space != "":
			b = append(b, space...)
		default:
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

func htmlEscape(v []byte, style [len(htmlChars)]string) []byte {
	b := make([]byte, 0, widest*len(v))
	for _, c := range v {
		if i := strings.IndexByte(htmlChars, c); i >= 0 && style[i] != "" {
			b = append(b, style[i]...)
		} else {
			b = append(b, c)
		}
	}
	return b
}

// jsonEscape escapes v for a JSON string. What unicode holds for is written as \uXXXX, whatever
// the style. A byte that is not UTF-8 counts as the code point of that number.
func jsonEscape(v []byte, style jsonStyle, digits string, unicode func(rune) bool) []byte {
	b := make([]byte, 0, widest*len(v))
	for len(v) > 0 {
		r, size := utf8.DecodeRune(v)
		if r == utf8.RuneError && size == 1 {
			r = rune(v[0])
		}
		short := contains("\"\\\b\f\n\r\t", v[0])
		switch {
		case unicode(r), r < ' ' && !short, r >= utf8.RuneSelf && style.wide, r < utf8.RuneSelf && contains(style.chars, v[0]):
			b = unicodeEscape(b, r, digits)
		case short:
			b = append(b, '\\', shortEscape(v[0]))
		case r == '/' && style.slash:
			b = append(b, `\/`...)
		default:
			b = append(b, v[:size]...)
		}
		v = v[size:]
	}
	return b
}

func unicodeEscape(b []byte, r rune, digits string) []byte {
	if r > 0xFFFF {
		high, low := utf16.EncodeRune(r)
		return unicodeEscape(unicodeEscape(b, high, digits), low, digits)
	}
	return append(b, '\\', 'u', digits[r>>12], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}

func shortEscape(c byte) byte {
	switch c {
	case '\b':
		return 'b'
	case '\f':
		return 'f'
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	default:
		return c
	}
}

func alphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
}

func contains(set string, c byte) bool { return strings.IndexByte(set, c) >= 0 }
