package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Mistake is one thing wrong in a file, with what a person needs to put it right.
type Mistake struct {
	// Where is the place as "file:line:column"; both numbers count from 1, columns in
	// characters.
	Where string

	// Path is the key's path from the top of the file, such as "routes[2].host". It is empty
	// for a mistake of the file as a whole.
	Path string

	// Msg says what is wrong, in lower case and without a full stop.
	Msg string

	// Hint says what to write instead. It may be empty.
	Hint string
}

// String returns "where: path: message", and the hint on a second line if there is one.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.Where)
	if m.Path != "" {
		b.WriteString(": " + m.Path)
	}
	b.WriteString(": " + m.Msg)
	if m.Hint != "" {
		b.WriteString("\n\thint: " + m.Hint)
	}
	return b.String()
}

// Mistakes are all the mistakes of one file, in the order of their places in it.
type Mistakes []Mistake

// Error returns every mistake, joined by newlines.
func (ms Mistakes) Error() string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// maxMistakes bounds a report: past it a file is broken as a whole, and a hostile one must
// not fill the log.
const maxMistakes = 200

// A position is a place in the source; both numbers count from 1.
type position struct{ line, column int }

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column))
}

// A finding is a mistake before it is put in order.
type finding struct {
	at      position
	mistake Mistake
}

// A Document collects the mistakes of one file while it is decoded. It is not safe for
// concurrent use.
type Document struct {
	file     string
	lines    int
	findings []finding
	warnings []finding
}

// Err returns nil if nothing is wrong so far, else a [Mistakes] in file order. A report is cut
// after 200 mistakes and says so.
func (d *Document) Err() error {
	if len(d.findings) == 0 {
		return nil
	}
	return inOrder(d.findings)
}

// Warnings returns what was recorded with [Value.Warn], in file order; nil if nothing was. It
// is cut as Err is. A warning makes no error.
func (d *Document) Warnings() Mistakes {
	if len(d.warnings) == 0 {
		return nil
	}
	return inOrder(d.warnings)
}

func inOrder(findings []finding) Mistakes {
	sorted := slices.Clone(findings)
	slices.SortStableFunc(sorted, func(a, b finding) int { return a.at.compare(b.at) })
	ms := make(Mistakes, 0, len(sorted))
	for _, f := range sorted {
		if len(ms) == maxMistakes {
			f.mistake.Path, f.mistake.Hint = "", ""
			f.mistake.Msg = fmt.Sprintf("%d more mistakes from here on", len(sorted)-maxMistakes)
			ms = append(ms, f.mistake)
			break
		}
		ms = append(ms, f.mistake)
	}
	return ms
}

func (d *Document) add(at position, path, msg, hint string) {
	d.findings = append(d.findings, d.found(at, path, msg, hint))
}

func (d *Document) found(at position, path, msg, hint string) finding {
	return finding{at, Mistake{Where: d.where(at), Path: path, Msg: msg, Hint: hint}}
}

func (d *Document) where(at position) string {
	if at.line > d.lines {
		// The parser puts a value that is left out at the end of a file on the line after it.
		at = position{d.lines, 1}
	}
	return fmt.Sprintf("%s:%d:%d", d.file, at.line, at.column)
}
