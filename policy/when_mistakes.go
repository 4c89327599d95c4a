package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'(?: \(did you mean '([^']*)'\?\))?$`)
	overload   = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '([^']*)'$`)
	operator   = regexp.MustCompile(`^[^a-z]+$|^@in$`)
	expecting  = regexp.MustCompile(` expecting (\{.*|'.*)$`)
)

// celMistakes records what CEL finds wrong with a condition, each at its place.
func (d *decoder) celMistakes(v strictyaml.Value, source string, issues *cel.Issues) {
	for _, e := range issues.Errors() {
		offset := runeOffset(source, e.Location.Line(), e.Location.Column())
		msg, hint := tidyCEL(e.Message), ""
		if m := undeclared.FindStringSubmatch(msg); m != nil {
			offset -= beforeDot(source, offset, m[1])
			msg = strictyaml.Quote(m[1]) + " is not known"
			switch {
			case m[2] != "":
				hint = fmt.Sprintf("did you mean %s?", m[2])
			default:
				hint = "known are " + strings.Join(variableNames(), ", ")
			}
		}
		d.wrongInside(v, offset, msg, hint)
	}
}

// beforeDot returns how many characters of a dotted name stand before offset: CEL has its place at
// its last dot.
func beforeDot(source string, offset int, name string) int {
	before := name[:max(0, strings.LastIndexByte(name, '.'))]
	runes := []rune(source)
	if n := len(before); n > 0 && n <= offset && slices.Equal(runes[offset-n:offset], []rune(before)) {
		return n
	}
	return 0
}

// tidyCEL leaves out what says nothing to the writer of a condition, and CEL's names for operators.
func tidyCEL(msg string) string {
	msg = strings.ReplaceAll(msg, " (in container '')", "")
	msg = expecting.ReplaceAllString(msg, "")
	msg = strings.Replace(msg, "Syntax error: ", "not CEL: ", 1)
	msg = strings.ReplaceAll(msg, "'<EOF>'", "at the end of the text")
	msg = strings.Replace(msg, "mismatched input", "unexpected input", 1)
	if m := overload.FindStringSubmatch(msg); m != nil {
		name := m[1]
		if operator.MatchString(name) {
			name = strings.Trim(strings.ReplaceAll(name, "_", ""), "@")
		}
		msg = fmt.Sprintf("%s cannot be applied to %s", name, m[2])
	}
	if msg == "comprehension exceeds nesting limit" {
		msg = fmt.Sprintf("all, exists, filter and map are nested more than %d deep", maxNesting)
	}
	return strings.Join(strings.Fields(msg), " ")
}
