package strictyaml

import (
	"encoding/json"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Plain returns what a JSON document can hold without being nested: a text (string), true or false
// (bool), a whole number (int64), another number (float64), or a list of at least one text
// ([]string). Numbers must be written as JSON writes them (RFC 8259 section 6).
func (v Value) Plain() (any, bool) {
	if !v.usable() {
		return nil, false
	}
	if v.node.Kind == yaml.SequenceNode {
		texts, ok := v.Texts()
		if len(v.List()) == 0 || !ok {
			return nil, false
		}
		return texts, true
	}
	switch {
	case isText(v.node):
		return v.node.Value, true
	case v.node.Tag == "!!bool":
		return either(v.Bool())
	case v.node.Tag == "!!int", v.node.Tag == "!!float":
		return either(v.number())
	}
	v.notA("a text, a number, true, false, or a list of texts", quoteHint(v.node))
	return nil, false
}

func (v Value) number() (any, bool) {
	s := v.node.Value
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && strconv.FormatInt(n, 10) == s {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if v.node.Tag == "!!int" || err != nil || !json.Valid([]byte(s)) {
		v.Wrong(Quote(s)+" is not a number in plain digits", quoteHint(v.node))
		return nil, false
	}
	return f, true
}

// either keeps a value that is not ok from becoming one in an interface.
func either[T any](value T, ok bool) (any, bool) {
	if !ok {
		return nil, false
	}
	return value, true
}
