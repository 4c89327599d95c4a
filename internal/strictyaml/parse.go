// Package strictyaml decodes YAML that people write by hand and that must not be
// misunderstood: policies and configs.
//
// [Parse] reads one document and refuses what lets a file mean something else than it seems
// to: duplicate keys, anchors, aliases, merge keys, tags, a second document, characters that
// editors hide. The [Value] it returns is then taken apart by asking for what is expected;
// whatever is not as expected becomes a [Mistake], and decoding goes on, so that a person
// sees all mistakes at once:
//
//	doc, root := strictyaml.Parse("config.yaml", src)
//	m := root.Mapping("role", "session")
//	cfg.Role, _ = m.Need("role", "write the agent's role").Text()
//	s := m.Get("session").Mapping("id", "ttl")
//	cfg.TTL, _ = s.Get("ttl").Duration()
//	return doc.Err()
//
// A value that is absent, or about which a mistake was already recorded, answers every
// question with a zero value and false, and records nothing more.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest file [Parse] reads, in bytes.
const MaxSize = 1 << 20

// maxDepth bounds nesting; policies and configs need less than ten levels.
const maxDepth = 32

// Parse reads src as one YAML document and checks it for what no file may contain. filename
// is used in positions only. The root is absent if src could not be read at all; then
// [Document.Err] says why.
func Parse(filename string, src []byte) (*Document, Value) {
	d := &Document{file: filename, lines: bytes.Count(src, []byte("\n")) + 1}
	if len(src) > MaxSize {
		d.add(position{1, 1}, "", fmt.Sprintf("the file is larger than %d bytes", MaxSize), "")
		return d, Value{}
	}
	if at, what := hidden(src); what != "" {
		d.add(at, "", what, "remove it; in a text in double quotes, write it as an escape")
		return d, Value{}
	}
	first, second, err := documents(src)
	if err != nil {
		d.syntax(src, err)
		return d, Value{}
	}
	if first == nil {
		d.add(position{1, 1}, "", "the file is empty", "")
		return d, Value{}
	}
	root := first.Content[0]
	d.inspect(root, "", 0)
	if second != nil {
		d.add(position{second.Line, second.Column}, "", "a second document begins here", "write one document to a file")
	}
	return d, Value{doc: d, node: root, at: position{root.Line, root.Column}}
}

// documents reads the first two documents of src; those that are not there are nil.
func documents(src []byte) (first, second *yaml.Node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var nodes [2]*yaml.Node
	for i := range nodes {
		var n yaml.Node
		switch err := dec.Decode(&n); {
		case errors.Is(err, io.EOF):
			return nodes[0], nodes[1], nil
		case err != nil:
			return nil, nil, err
		}
		nodes[i] = &n
	}
	return nodes[0], nodes[1], nil
}

// hidden finds the first character that a reviewer's editor may not show as what YAML takes
// it for: YAML ends a comment at U+2028, for one, and most editors do not break the line.
func hidden(src []byte) (position, string) {
	at := position{1, 1}
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return at, fmt.Sprintf("byte 0x%02x is not UTF-8", src[i])
		case r == '\r' && (i+1 == len(src) || src[i+1] != '\n'):
			return at, "a carriage return without a line feed"
		case isHidden(r) && (r != '\ufeff' || i > 0):
			return at, fmt.Sprintf("character U+%04X is not allowed in the file", r)
		}
		i += size
		switch {
		case r == '\n':
			at = position{at.line + 1, 1}
		case r != '\ufeff':
			at.column++
		}
	}
	return at, ""
}

func isHidden(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\r':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0: // C0, DEL, C1 (NEL among them)
		return true
	case r == 0x2028, r == 0x2029: // line and paragraph separator
		return true
	case r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // bidirectional controls
		return true
	}
	return r == '\ufeff'
}

// inspect records what no value may contain, in n and below.
func (d *Document) inspect(n *yaml.Node, path string, depth int) {
	at := position{n.Line, n.Column}
	if depth > maxDepth {
		d.add(at, path, fmt.Sprintf("nested more than %d levels deep", maxDepth), "")
		return
	}
	switch {
	case n.Kind == yaml.AliasNode:
		d.add(at, path, fmt.Sprintf("alias *%s: aliases are not allowed", clip(n.Value)), "write the value out")
		return
	case n.Anchor != "":
		d.add(at, path, fmt.Sprintf("anchor &%s: anchors are not allowed", clip(n.Anchor)), "remove it")
	case n.Style&yaml.TaggedStyle != 0:
		d.add(at, path, fmt.Sprintf("tag %s: tags are not allowed", clip(n.Tag)), "remove it")
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			d.inspect(c, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	case yaml.MappingNode:
		d.inspectMapping(n, path, depth)
	}
}

func (d *Document) inspectMapping(n *yaml.Node, path string, depth int) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := position{k.Line, k.Column}
		switch {
		case k.Tag == "!!merge":
			d.add(at, path, "merge keys (<<) are not allowed", "write the keys out")
			continue
		case k.Kind == yaml.AliasNode || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0:
			d.inspect(k, path, depth+1)
			continue
		case !isText(k):
			d.add(at, path, "a key must be text, not "+kindOf(k), quoteHint(k))
			continue
		}
		at, sub := position{k.Line, k.Column}, join(path, k.Value)
		if line, ok := seen[k.Value]; ok {
			d.add(at, sub, fmt.Sprintf("the key stands on line %d already", line), "keep one of the two")
		} else {
			seen[k.Value] = k.Line
		}
		d.inspect(v, sub, depth+1)
	}
}
