package strictyaml

import (
	"bytes"
	"sort"
	"strings"
)

// syntaxHints tell what usually lies behind a message of the YAML parser.
var syntaxHints = []struct{ in, hint string }{
	{"expected ',' or", "inside {} and [], put a text that holds ? : , # { } [ or ] into quotes"},
	{"alphabetic or numeric", "put a text that begins with * or & into quotes"},
	{"unknown anchor", "put a text that begins with * into quotes"},
	{"cannot start any token", "indent with spaces, and put a text that begins with @, % or ` into quotes"},
	{"tab character", "indent with spaces"},
	{"mapping values", "put a text that holds \": \" into quotes, and check the indentation"},
	{"'-' indicator", "indent this line like those around it"},
	{"expected key", "indent this line like those around it"},
	{"end of stream", "close the quote"},
	{"expected ':'", "write KEY: VALUE, with a space after the colon"},
}

// syntax records err, which the YAML parser has for src.
func (d *Document) syntax(src []byte, err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if _, text, ok := strings.Cut(rest, ": "); ok {
			msg = text
		}
	}
	hint := ""
	for _, h := range syntaxHints {
		if strings.Contains(msg, h.in) {
			hint = h.hint
			break
		}
	}
	d.add(culprit(src, err), "", "not YAML: "+msg, hint)
}

// culprit returns the line that the parser stumbles over. The parser itself says at most
// where the enclosing mapping or list began; but it reads from the front, so the beginning of
// a file fails in the same way if, and only if, it holds that line.
func culprit(src []byte, err error) position {
	lines := bytes.SplitAfter(src, []byte("\n"))
	ends := make([]int, len(lines))
	end := 0
	for i, l := range lines {
		end += len(l)
		ends[i] = end
	}
	i := sort.Search(len(lines), func(i int) bool {
		_, _, e := documents(src[:ends[i]])
		return e != nil && e.Error() == err.Error()
	})
	if i == len(lines) {
		return position{1, 1}
	}
	indent := len(lines[i]) - len(bytes.TrimLeft(lines[i], " \t\r\n"))
	if indent == len(lines[i]) {
		indent = 0
	}
	return position{i + 1, indent + 1}
}
