package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// maxString is how much of a string is recorded, in bytes.
const maxString = 1024

// timeFormat is RFC 3339 with always nine digits, so that lines sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// digest is a SHA-256 in lower-case hex, as it stands in a line.
type digest [2 * sha256.Size]byte

var noDigest = digest([]byte("0000000000000000000000000000000000000000000000000000000000000000"))

// An encoder turns values into ASCII JSON. Its buffers are used again for the next value.
type encoder struct {
	buf    bytes.Buffer
	json   *json.Encoder
	out    []byte
	fields []byte // of a record
	failed error  // the first of a record
}

func newEncoder() *encoder {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}

// encode returns v as JSON in printable ASCII. The result is valid until the next call.
func (e *encoder) encode(v any) ([]byte, error) {
	e.buf.Reset()
	if err := e.json.Encode(v); err != nil {
		return nil, err
	}
	e.out = appendASCII(e.out[:0], bytes.TrimSuffix(e.buf.Bytes(), []byte("\n")))
	return e.out, nil
}

// appendASCII appends src, a JSON text, with everything beyond printable ASCII as \u escapes.
// Outside its strings a JSON text from encoding/json is ASCII, so this touches strings only:
// bidirectional overrides, C1 controls and look-alikes, which a terminal or a reviewer could
// misread, and DEL, which encoding/json leaves as it is.
func appendASCII(dst, src []byte) []byte {
	for start, i := 0, 0; ; {
		for i < len(src) && src[i] < 0x7f {
			i++
		}
		dst = append(dst, src[start:i]...)
		if i == len(src) {
			return dst
		}
		r, n := utf8.DecodeRune(src[i:])
		if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, r1, r2)
		} else {
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
		i += n
		start = i
	}
}

// visible returns s as it may be recorded: bytes that are not UTF-8 as %XX, so that two different
// requests do not look the same, and at most maxString bytes followed by a count of the rest.
func visible(s string) string {
	if len(s) <= maxString && utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, maxString+24)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+n]
		if r == utf8.RuneError && n == 1 {
			piece = fmt.Sprintf("%%%02X", s[i])
		}
		if len(b)+len(piece) > maxString {
			return string(fmt.Appendf(b, "[+%d bytes]", len(s)-i))
		}
		b = append(b, piece...)
		i += n
	}
	return string(b)
}

// maxList is how many entries of a list are recorded.
const maxList = 256

// visibleList returns list as it may be recorded; list itself is not changed.
func visibleList(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, 0, min(len(list), maxList+1))
	for i, s := range list {
		if i == maxList {
			return append(out, fmt.Sprintf("[+%d entries]", len(list)-i))
		}
		out = append(out, visible(s))
	}
	return out
}

// A position is the place of a record in its chain, and what the next one builds on.
type position struct {
	seq  uint64
	hash digest
}

// appendLine appends a record's line with its newline, and returns with it the record's position.
// context is a chain's encoded session and pod, policy the encoded policy, fields the encoded
// record without its event.
func appendLine(dst []byte, prev position, at time.Time, ev Event, context, policy, fields []byte) ([]byte, position) {
	start := len(dst)
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendUint(dst, prev.seq+1, 10)
	dst = append(dst, `,"time":"`...)
	dst = appendTime(dst, at.UTC())
	dst = append(dst, `","prev":"`...)
	dst = append(dst, prev.hash[:]...)
	dst = append(dst, `","hash":"`...)
	place := len(dst)
	dst = append(dst, noDigest[:]...)
	dst = append(dst, `","event":"`...)
	dst = append(dst, ev...)
	dst = append(dst, '"', ',')
	dst = append(dst, context...)
	dst = append(dst, `,"policy":`...)
	dst = append(dst, policy...)
	if len(fields) > len(`{}`) {
		dst = append(dst, ',')
		dst = append(dst, fields[1:]...)
	} else {
		dst = append(dst, '}')
	}
	sum := sha256.Sum256(dst[start:])
	next := position{seq: prev.seq + 1}
	hex.Encode(next.hash[:], sum[:])
	copy(dst[place:], next.hash[:])
	return append(dst, '\n'), next
}

// appendTime appends t, which is in UTC, in timeFormat, in a third of the time that AppendFormat takes.
func appendTime(dst []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, timeFormat)
	}
	hour, minute, second := t.Clock()
	dst = append(dst, "0000-00-00T00:00:00.000000000Z"...)
	at := dst[len(dst)-len(timeFormat):]
	put := func(end, n int) {
		for ; n > 0; n /= 10 {
			end--
			at[end] = byte('0' + n%10)
		}
	}
	put(4, year)
	put(7, int(month))
	put(10, day)
	put(13, hour)
	put(16, minute)
	put(19, second)
	put(29, t.Nanosecond())
	return dst
}

// encodeContext returns the part of every line that a chain does not change.
func encodeContext(e *encoder, s Session, p Pod) ([]byte, error) {
	out := []byte(`"session":`)
	b, err := e.encode(s)
	if err != nil {
		return nil, err
	}
	out = append(append(out, b...), `,"pod":`...)
	if b, err = e.encode(p); err != nil {
		return nil, err
	}
	return append(out, b...), nil
}
