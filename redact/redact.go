// Package redact finds known secrets in strings and in streamed bytes and masks them. It knows
// bytes only: what a secret is for and where the bytes come from is the caller's business.
//
// It is defence in depth, not the control. The control is where a secret may go; an upstream
// that is itself hostile can render one in ways that no list of needles holds.
package redact

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

const (
	// Mask stands in the output where a secret was.
	Mask = "[sidekey:redacted]"

	// MinLen is the length in bytes below which a secret is not looked for: it would mask
	// innocent bytes.
	MinLen = 8

	unprintable = "[redacted]"
)

// Pattern is one secret to look for. It prints as [redacted], but it is not meant to be kept.
type Pattern struct {
	// Value is the secret as it is put on a request, without a prefix such as "Bearer ".
	Value []byte
	// User is the user name that Value is the password of. With it the payload of the Basic
	// scheme (RFC 7617 section 2), base64 of User:Value, is looked for as a whole. It may be nil.
	User []byte
}

// Format implements [fmt.Formatter] for every verb and flag but %p, which fmt does not ask for.
func (Pattern) Format(f fmt.State, _ rune) { io.WriteString(f, unprintable) }

// MarshalText implements [encoding.TextMarshaler], which JSON and YAML follow.
func (Pattern) MarshalText() ([]byte, error) { return []byte(unprintable), nil }

// Set is a compiled set of secrets. A nil Set, the zero Set and a wiped Set find nothing. A Set
// is safe for concurrent use, but for [Set.Wipe]. It prints as [redacted].
type Set struct {
	// table is a function because fmt prints the fields of what a pointer refers to, under some
	// verbs at any depth, and of a function the address. It is nil in the zero Set.
	table func() *table
}

// Compile makes the Set that finds each pattern's value in all of these renderings:
//
//   - as it is
//   - percent-encoded as a query and as a path segment have it, and with every byte encoded
//   - base64, alone or somewhere inside a longer text, in the standard and the URL alphabet,
//     padded or not; and base64 of User:Value
//   - hexadecimal
//   - escaped for JSON: as little as RFC 8259 section 7 asks for, as common encoders do it (\/,
//     \u003c, everything beyond ASCII), every byte that is no letter or digit, and every byte
//   - escaped for HTML and XML
//
// Hexadecimal digits are looked for in upper and in lower case, not mixed. Inside a longer base64
// text, the up to four bits at each end of a secret that share a character with its neighbours stay.
//
// Compile also returns the indexes of those patterns whose value is shorter than [MinLen]: these
// are not looked for. It keeps neither the patterns nor their bytes. A Set takes about 700 bytes
// for each byte of a value.
func Compile(patterns ...Pattern) (set *Set, short []int) {
	var needles [][]byte
	size := 0
	for i, p := range patterns {
		if len(p.Value) < MinLen {
			short = append(short, i)
			continue
		}
		needles = append(needles, render(p)...)
		size++
	}
	if size == 0 {
		return &Set{}, short
	}
	slices.SortFunc(needles, bytes.Compare)
	t := newTable(slices.CompactFunc(slices.Clone(needles), bytes.Equal))
	t.size = size
	for _, n := range needles {
		clear(n)
	}
	return &Set{func() *table { return t }}, short
}

// Size returns how many secrets the Set looks for; equal ones are counted each.
func (s *Set) Size() int {
	if t := s.open(); t != nil {
		return t.size
	}
	return 0
}

// Wipe overwrites what the Set holds of the secrets. No other goroutine may be using the Set or
// a [Reader] of it; both may be used afterwards and find nothing more.
func (s *Set) Wipe() {
	if t := s.open(); t != nil {
		t.wipe()
	}
}

// Format implements [fmt.Formatter] for every verb and flag.
func (Set) Format(f fmt.State, _ rune) { io.WriteString(f, unprintable) }

// String returns v with each secret in it replaced by [Mask], and how many masks it wrote.
// Occurrences that overlap become one mask; those that only touch become one each. It does not
// allocate when there is no secret in v.
func (s *Set) String(v string) (masked string, n int) {
	t := s.open()
	if t == nil {
		return v, 0
	}
	var (
		out []byte
		m   marks
		c   cursor
	)
	for length := advance(t, v, &c); length > 0; length = advance(t, v, &c) {
		m.add(c.pos-length, c.pos)
	}
	if len(m.spans) == 0 {
		return v, 0
	}
	for {
		from, to, mask, ok := m.next(len(v))
		switch {
		case !ok:
			return string(out), n
		case mask:
			out = append(out, Mask...)
			n++
		default:
			out = append(out, v[from:to]...)
		}
	}
}

// open returns the table, nil when there is nothing to find.
func (s *Set) open() *table {
	if s == nil || s.table == nil {
		return nil
	}
	return s.table()
}
