package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	// maxFlow is how long a mapping or list on one line may be, with its indentation.
	maxFlow = 140

	// maxFormat bounds how often a text is formatted until it stays as it is.
	maxFormat = 4

	fmtIndent = 2
)

// ErrNotFormatted means that a text could not be formatted without a loss.
var ErrNotFormatted = errors.New("the file cannot be formatted without losing something; please write it more plainly")

// Format returns a policy file, or one of tests or of what policies include, in the one form that
// this package writes: two spaces of indentation, the keys of each mapping in the order of the
// documentation, lists and mappings on one line if they were and if that is not too long. Comments
// stay with what they are about, a blank line is kept, and several become one. What the file says
// does not change, and what is formatted already stays as it is.
//
// It need not be a policy without mistakes, but YAML without what no file may have. The error is a
// [Mistakes], or [ErrNotFormatted].
func Format(filename string, src []byte) ([]byte, error) {
	doc, root := strictyaml.Parse(filename, src)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	if !root.Present() {
		return nil, ErrNotFormatted
	}
	src = bytes.TrimPrefix(bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n")), []byte("\ufeff"))
	before := src
	for range maxFormat {
		after, err := formatOnce(before)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(before, after) {
			if !sameContent(src, after) {
				return nil, ErrNotFormatted
			}
			return after, nil
		}
		before = after
	}
	return nil, ErrNotFormatted
}

// blank stands for a blank line while a file is formatted: the encoder keeps comments, and no blank
// lines.
const blank = "#\u00a0-"

func formatOnce(src []byte) ([]byte, error) {
	marked := markBlanks(src)
	var doc yaml.Node
	if err := yaml.Unmarshal(marked, &doc); err != nil || len(doc.Content) != 1 || !sameValues(src, marked) {
		// A blank line stood where a comment cannot, inside of a text.
		doc = yaml.Node{}
		if err := yaml.Unmarshal(src, &doc); err != nil || len(doc.Content) != 1 {
			return nil, ErrNotFormatted
		}
	}
	root := doc.Content[0]
	head := takeHead(&doc, root)
	arrange(root, topOrder, 0)
	for i := 0; i+1 < len(root.Content); i += 2 {
		if value := root.Content[i+1]; len(value.Content) > 0 && slices.Contains(sections, root.Content[i].Value) {
			value.Style &^= yaml.FlowStyle
		}
	}
	plain := hidePlain(root)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(fmtIndent)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	return tidyLines(head + strings.NewReplacer(plain...).Replace(b.String())), nil
}

// hidePlain puts words in place of the texts without quotes below n, and returns them, each with its
// text: the encoder would put quotes around what needs none, such as a URL on a line with others.
func hidePlain(n *yaml.Node) (words []string) {
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.Style == 0 && n.Tag == "!!str" && strings.Contains(n.Value, ":") && !strings.Contains(n.Value, "\n") {
			word := fmt.Sprintf("sidekey\u00a0fmt\u00a0%06d", len(words)/2)
			words = append(words, word, n.Value)
			n.Value = word
		}
		for _, c := range n.Content {
			visit(c)
		}
	}
	visit(n)
	return words
}

// markBlanks puts a comment in place of each run of blank lines.
func markBlanks(src []byte) []byte {
	lines := strings.Split(strings.TrimRight(string(src), " \t\n"), "\n")
	var out []string
	for i, line := range lines {
		if strings.TrimSpace(line) != "" {
			out = append(out, line)
			continue
		}
		if i > 0 && strings.TrimSpace(lines[i-1]) == "" {
			continue
		}
		next := i
		for next < len(lines) && strings.TrimSpace(lines[next]) == "" {
			next++
		}
		indent := ""
		if next < len(lines) {
			indent = lines[next][:len(lines[next])-len(strings.TrimLeft(lines[next], " "))]
		}
		out = append(out, indent+blank)
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

// takeHead removes the comment at the top of the file and returns it: it is about the file, whatever
// key comes first.
func takeHead(doc, root *yaml.Node) string {
	head := doc.HeadComment
	doc.HeadComment = ""
	if root.HeadComment != "" {
		head, root.HeadComment = strings.TrimPrefix(head+"\n"+root.HeadComment, "\n"), ""
	}
	if root.Kind == yaml.MappingNode && len(root.Content) > 0 && root.Content[0].HeadComment != "" {
		head, root.Content[0].HeadComment = strings.TrimPrefix(head+"\n"+root.Content[0].HeadComment, "\n"), ""
	}
	if head != "" {
		head += "\n"
	}
	return head
}

// sections are the keys that stand apart.
var sections = []string{"credentials", "routes", "tests"}

// isSection reports whether a line begins a section.
func isSection(line string) bool {
	key, _, found := strings.Cut(line, ":")
	return found && slices.Contains(sections, key)
}

// tidyLines turns the comments of [markBlanks] back into blank lines, one at most in a row and none at
// the beginning or the end. Before a section, with the comment on it, there is always one.
func tidyLines(s string) []byte {
	var out []string
	marked := false // the line before was a mark
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		mark := strings.TrimSpace(line) == blank
		// Blank lines that are no marks, and one after the other, are part of a text.
		skip := len(out) == 0 || out[len(out)-1] == "" && (mark || marked)
		if mark {
			line = ""
		}
		marked = mark || marked && line == ""
		if line == "" && skip {
			continue
		}
		if isSection(line) {
			at := len(out)
			for at > 0 && strings.HasPrefix(out[at-1], "#") {
				at--
			}
			if at > 0 && out[at-1] != "" {
				out = slices.Insert(out, at, "")
			}
		}
		out = append(out, line)
	}
	return []byte(strings.TrimRight(strings.Join(out, "\n"), "\n") + "\n")
}

// sameContent reports whether two texts have the same values and the same comments.
func sameContent(a, b []byte) bool {
	return sameValues(a, b) && slices.Equal(comments(a), comments(b))
}

// sameValues reports whether two texts have the same values; the order of keys is none.
func sameValues(a, b []byte) bool {
	var x, y yaml.Node
	return yaml.Unmarshal(a, &x) == nil && yaml.Unmarshal(b, &y) == nil && sameNodes(&x, &y)
}

func sameNodes(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Tag != b.Tag || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind != yaml.MappingNode {
		for i := range a.Content {
			if !sameNodes(a.Content[i], b.Content[i]) {
				return false
			}
		}
		return true
	}
	for i := 0; i < len(a.Content); i += 2 {
		j := keyIndex(b, a.Content[i].Value)
		if j < 0 || !sameNodes(a.Content[i+1], b.Content[j+1]) {
			return false
		}
	}
	return true
}

// keyIndex returns where in the content of a mapping a key is, -1 if nowhere.
func keyIndex(n *yaml.Node, key string) int {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// comments returns the lines of comments in a text, sorted.
func comments(src []byte) []string {
	var doc yaml.Node
	if yaml.Unmarshal(src, &doc) != nil {
		return nil
	}
	var found []string
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		for _, c := range []string{n.HeadComment, n.LineComment, n.FootComment} {
			for line := range strings.SplitSeq(c, "\n") {
				if line = strings.TrimSpace(line); line != "" {
					found = append(found, line)
				}
			}
		}
		for _, c := range n.Content {
			visit(c)
		}
	}
	visit(&doc)
	slices.Sort(found)
	return found
}
