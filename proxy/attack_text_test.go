package proxy_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// vars are what $NAME stands for in the text of a case.
type vars map[string]string

// wireLines ends each line with CR LF, or with nothing if it ends in a backslash.
func wireLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		if cut, ok := strings.CutSuffix(line, `\`); ok && !strings.HasSuffix(cut, `\`) {
			b.WriteString(cut)
			continue
		}
		b.WriteString(line + "\r\n")
	}
	return b.String()
}

// expand replaces \r, \n, \t, \\, \xNN and \| (see rawUpstream), $NAME, and $function(text).
func expand(s string, v vars) []byte {
	var out []byte
	for i := 0; i < len(s); {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			size := 2
			switch s[i+1] {
			case 'r':
				out = append(out, '\r')
			case 'n':
				out = append(out, '\n')
			case 't':
				out = append(out, '\t')
			case 'x':
				n, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
				if err != nil {
					panic("bad escape in " + s)
				}
				out, size = append(out, byte(n)), 4
			case '|': // between two writes, in answers
				out = append(out, 0, '|')
			default:
				out = append(out, s[i+1])
			}
			i += size
		case s[i] == '$':
			piece, size := expandName(s[i:], v)
			out = append(out, piece...)
			i += size
		default:
			out = append(out, s[i])
			i++
		}
	}
	return out
}

// expandName expands the $NAME or $function(text) that s begins with.
func expandName(s string, v vars) (piece []byte, size int) {
	end := 1
	for end < len(s) && (s[end] >= 'a' && s[end] <= 'z' || s[end] >= 'A' && s[end] <= 'Z' || s[end] >= '0' && s[end] <= '9') {
		end++
	}
	name := s[1:end]
	if fn, ok := renderings[name]; ok && end < len(s) && s[end] == '(' {
		depth := 0
		for i := end; i < len(s); i++ {
			switch s[i] {
			case '(':
				depth++
			case ')':
				depth--
			}
			if depth == 0 {
				return fn(expand(s[end+1:i], v)), i + 1
			}
		}
		panic("unbalanced ( in " + s)
	}
	// The longest name that is known, so that $APIx is $API and x.
	for ; end > 1; end-- {
		if value, ok := v[s[1:end]]; ok {
			return []byte(value), end
		}
	}
	return []byte("$"), 1
}

// renderings are the functions that the text of a case may call.
var renderings = map[string]func([]byte) []byte{
	"rep": func(b []byte) []byte { // $rep(N,text)
		n, text, _ := bytes.Cut(b, []byte(","))
		times, err := strconv.Atoi(string(n))
		if err != nil {
			panic("bad count in $rep")
		}
		return bytes.Repeat(text, times)
	},
	"hex":    func(b []byte) []byte { return []byte(hex.EncodeToString(b)) },
	"HEX":    func(b []byte) []byte { return []byte(strings.ToUpper(hex.EncodeToString(b))) },
	"b64":    func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) },
	"b64url": func(b []byte) []byte { return []byte(base64.RawURLEncoding.EncodeToString(b)) },
	"pct":    func(b []byte) []byte { return eachByte("%%%02x", b) },
	"PCT":    func(b []byte) []byte { return eachByte("%%%02X", b) },
	"uni":    func(b []byte) []byte { return eachByte(`\u%04x`, b) },
	"upper":  bytes.ToUpper,
	"gzip": func(b []byte) []byte {
		var out bytes.Buffer
		zw := gzip.NewWriter(&out)
		zw.Write(b)
		zw.Close()
		return out.Bytes()
	},
	"cl": func(b []byte) []byte { // a Content-Length, the end of the head, and a body
		return append(fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(b)), b...)
	},
	"chunks": func(b []byte) []byte { // each byte a chunk
		return append(eachByte("1\r\n%c\r\n", b), "0\r\n\r\n"...)
	},
	"len4": func(b []byte) []byte { // a gRPC message
		return append([]byte{0, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
	},
}

func eachByte(format string, b []byte) []byte {
	var out []byte
	for _, c := range b {
		out = fmt.Appendf(out, format, c)
	}
	return out
}

// A needle is a secret in the ways in which the gallery looks for it. They are made without
// package redact, which they test.
type needle struct {
	exact  []string
	folded []string // in any case
}

func newNeedle(secret string) (n needle) {
	n.folded = []string{secret, hex.EncodeToString([]byte(secret)), string(eachByte("%%%02x", []byte(secret))), string(eachByte(`\u%04x`, []byte(secret)))}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			whole := enc.EncodeToString([]byte("xx"[:offset] + secret))
			// The first and last characters hold bits of the neighbours.
			n.exact = append(n.exact, whole[(offset*8+5)/6:len(whole)-1])
		}
	}
	return n
}

// A haystack is searched for secrets.
type haystack struct{ text, lower string }

func newHaystack(text string) haystack { return haystack{text, strings.ToLower(text)} }

func (h haystack) holds(n needle) bool {
	return slices.ContainsFunc(n.exact, func(f string) bool { return strings.Contains(h.text, f) }) ||
		slices.ContainsFunc(n.folded, func(f string) bool { return strings.Contains(h.lower, f) })
}

// seekers has a needle for each secret of the gallery.
var seekers = func() map[string]needle {
	m := map[string]needle{}
	for _, secret := range secretOf {
		m[secret] = newNeedle(secret)
	}
	return m
}()
