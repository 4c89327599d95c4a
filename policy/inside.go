package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// wrongInside records a mistake at the character of v's text that has the given index.
func (d *decoder) wrongInside(v strictyaml.Value, offset int, msg, hint string) {
	text, ok := v.Text()
	if !ok {
		return
	}
	key := Mistake{Where: v.Where(), Path: v.Path(), Msg: msg, Hint: hint}
	if _, ok := d.inside[key]; ok {
		return
	}
	v.Wrong(msg, hint)
	d.inside[key] = key.Where
	prefix, line, column := splitWhere(key.Where)
	f := d.fileOf(prefix)
	if f == nil {
		return
	}
	if f.text == nil {
		f.text = newSource(f.src)
	}
	if line, column, ok := f.text.locate(line, column, []rune(text), offset); ok {
		d.inside[key] = fmt.Sprintf("%s:%d:%d", prefix, line, column)
	}
}

// putInside gives the mistakes that were found inside a text their own places. The order of the
// file remains: nothing else begins inside a text.
func (d *decoder) putInside(mistakes Mistakes) {
	for i, m := range mistakes {
		if where, ok := d.inside[m]; ok {
			mistakes[i].Where = where
		}
	}
}

// splitWhere takes "file:line:column" apart.
func splitWhere(where string) (file string, line, column int) {
	i := strings.LastIndexByte(where, ':')
	j := strings.LastIndexByte(where[:i], ':')
	line, _ = strconv.Atoi(where[j+1 : i])
	column, _ = strconv.Atoi(where[i+1:])
	return where[:j], line, column
}

// runeOffset returns the index of the character of s at line, counted from 1, and column, counted
// from 0. A place outside of s becomes the nearest one in it.
func runeOffset(s string, line, column int) int {
	offset := 0
	for text := range strings.Lines(s) {
		n := len([]rune(text))
		if line <= 1 {
			return offset + min(max(column, 0), n)
		}
		offset += n
		line--
	}
	return offset
}

// A source is the text of a policy file, line by line.
type source [][]rune

func newSource(src []byte) source {
	var s source
	for line := range strings.SplitSeq(strings.TrimPrefix(string(src), "\ufeff"), "\n") {
		s = append(s, []rune(strings.TrimSuffix(line, "\r")))
	}
	return s
}

// A cursor is a place in a source; both numbers count from 0.
type cursor struct {
	s            source
	line, column int
}

// char returns the character at c, "\n" at the end of a line and 0 at the end of the file.
func (c *cursor) char() rune {
	switch {
	case c.line >= len(c.s):
		return 0
	case c.column < len(c.s[c.line]):
		return c.s[c.line][c.column]
	}
	return '\n'
}

func (c *cursor) next(n int) {
	for range n {
		if c.char() == '\n' {
			c.line, c.column = c.line+1, 0
		} else {
			c.column++
		}
	}
}

// locate returns the line and column, from 1, of text[offset]. text is the value that begins at
// line and column. ok is false if the file spells text in a way that is not followed here.
func (s source) locate(line, column int, text []rune, offset int) (l, c int, ok bool) {
	at := cursor{s, line - 1, column - 1}
	if line < 1 || line > len(s) || column < 1 || column > len(s[line-1]) || offset > len(text) {
		return 0, 0, false
	}
	quote := at.char()
	switch quote {
	case '|':
		return s.locateLiteral(line, text, offset)
	case '>':
		at = cursor{s, line, 0}
		at.skipSpace()
	case '"', '\'':
		at.next(1)
	default:
		quote = 0
	}
	for i := 0; i < offset; {
		n, ok := at.step(quote, text[i])
		if !ok {
			return 0, 0, false
		}
		i += n
	}
	if at.line >= len(s) {
		return 0, 0, false
	}
	return at.line + 1, at.column + 1, true
}

// locateLiteral is locate for a text after |, whose lines are the file's but for the indentation.
func (s source) locateLiteral(line int, text []rune, offset int) (l, c int, ok bool) {
	first := 0
	for i, r := range text[:offset] {
		if r == '\n' {
			line, first = line+1, i+1
		}
	}
	rest := text[first:]
	if end := slices.Index(rest, '\n'); end >= 0 {
		rest = rest[:end]
	}
	if line >= len(s) || !strings.HasSuffix(string(s[line]), string(rest)) {
		return 0, 0, false
	}
	return line + 1, len(s[line]) - len(rest) + offset - first + 1, true
}

// step moves over what the file has for the next character of a text, want, and returns how many
// characters of the text that is.
func (c *cursor) step(quote, want rune) (n int, ok bool) {
	ahead := *c
	if breaks := ahead.skipSpace(); breaks > 0 {
		*c = ahead
		return max(1, breaks-1), true
	}
	switch {
	case quote == '"' && c.char() == '\\':
		return c.escape(), true
	case quote == '\'' && c.char() == '\'':
		c.next(1)
	}
	if c.char() != want {
		return 0, false
	}
	c.next(1)
	return 1, true
}

// escape moves over an escape of a text in double quotes.
func (c *cursor) escape() int {
	c.next(1)
	switch c.char() {
	case 'x':
		c.next(3)
	case 'u':
		c.next(5)
	case 'U':
		c.next(9)
	case '\n':
		c.skipSpace()
		return 0
	default:
		c.next(1)
	}
	return 1
}

// skipSpace moves over white space and returns how many lines end in it.
func (c *cursor) skipSpace() (breaks int) {
	for {
		switch c.char() {
		case '\n':
			breaks++
		case ' ', '\t':
		default:
			return breaks
		}
		c.next(1)
	}
}
