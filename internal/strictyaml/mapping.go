package strictyaml

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// An Entry is one key of a mapping with its value. Key stands for the key itself, to say
// where it is and what is wrong with it.
type Entry struct {
	Name  string
	Key   Value
	Value Value
}

// Entries returns the entries of a mapping that is not empty and whose keys the file may
// choose, in file order. A duplicate key, which is a mistake already, is left out.
func (v Value) Entries() []Entry {
	entries := v.EntriesOrEmpty()
	if v.usable() && v.node.Kind == yaml.MappingNode && len(v.node.Content) == 0 {
		v.Wrong("the mapping is empty", "")
	}
	return entries
}

// EntriesOrEmpty is [Value.Entries] for a mapping that may be empty.
func (v Value) EntriesOrEmpty() []Entry {
	if !v.usable() {
		return nil
	}
	if v.node.Kind != yaml.MappingNode {
		v.notA("a mapping", "")
		return nil
	}
	var entries []Entry
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		k, n := v.node.Content[i], v.node.Content[i+1]
		if !isText(k) || k.Style&yaml.TaggedStyle != 0 || seen[k.Value] {
			continue
		}
		seen[k.Value] = true
		path, at := join(v.path, k.Value), position{n.Line, n.Column}
		if n.Tag == "!!null" {
			// An omitted value has no place of its own; the key does.
			at = position{k.Line, k.Column}
		}
		entries = append(entries, Entry{
			Name:  k.Value,
			Key:   Value{v.doc, k, path, position{k.Line, k.Column}},
			Value: Value{v.doc, n, path, at},
		})
	}
	return entries
}

// A Mapping is a mapping whose keys are known. The zero Mapping has none.
type Mapping struct {
	self    Value
	entries map[string]Entry
	slips   map[string]bool // known keys that an unknown one was probably meant to be
	merged  bool            // a merge key, which is a mistake already, may stand for any key
}

// Mapping returns v as a mapping that may have the given keys; any other key in the file is a
// mistake. It may be empty.
func (v Value) Mapping(keys ...string) Mapping {
	m := Mapping{self: v, entries: map[string]Entry{}, slips: map[string]bool{}}
	if !v.usable() || v.node.Kind != yaml.MappingNode {
		if v.usable() {
			v.notA("a mapping", mappingHint(keys))
		}
		m.self = Value{}
		return m
	}
	known := make(map[string]bool, len(keys))
	for _, k := range keys {
		known[k] = true
	}
	for i := 0; i < len(v.node.Content); i += 2 {
		m.merged = m.merged || v.node.Content[i].Tag == "!!merge"
	}
	for _, e := range v.EntriesOrEmpty() {
		if known[e.Name] {
			m.entries[e.Name] = e
			continue
		}
		m.slips[Nearest(e.Name, keys)] = true
		hint := DidYouMean(e.Name, keys)
		if hint == "" {
			hint = "known keys: " + strings.Join(keys, ", ")
			if len(keys) == 0 {
				hint = "write {}"
			}
		}
		e.Key.Wrong("unknown key", hint)
	}
	return m
}

func mappingHint(keys []string) string {
	if len(keys) == 0 {
		return "write {}"
	}
	return "write it with the keys " + strings.Join(keys, ", ")
}

// Value returns the mapping as a value; it is absent if the file has no mapping there.
func (m Mapping) Value() Value { return m.self }

// Has reports whether the file has the key, whatever its value.
func (m Mapping) Has(key string) bool { return m.entries[key].Value.Present() }

// Get returns the value of an optional key.
func (m Mapping) Get(key string) Value { return m.entries[key].Value }

// Key returns the key itself as a value, to say where it is and what is wrong with it.
func (m Mapping) Key(key string) Value { return m.entries[key].Key }

// mayHave reports whether another mistake may be why key is not there.
func (m Mapping) mayHave(key string) bool { return m.merged || m.slips[key] }

// Need returns the value of a key that must be there; its absence is a mistake of the
// mapping, and hint says what to write.
func (m Mapping) Need(key, hint string) Value {
	if m.self.Present() && !m.Has(key) && !m.mayHave(key) {
		m.self.Wrong(fmt.Sprintf("key %q is missing", key), hint)
	}
	return m.Get(key)
}

// OneOf returns the one of keys that the file has. None, or more than one, is a mistake.
func (m Mapping) OneOf(keys ...string) (string, Value) {
	var found []string
	for _, k := range keys {
		if m.Has(k) {
			found = append(found, k)
		}
	}
	switch {
	case !m.self.Present():
		return "", Value{}
	case len(found) == 0:
		if slices.ContainsFunc(keys, m.mayHave) {
			return "", Value{}
		}
		m.self.Wrong("one of the keys "+strings.Join(keys, ", ")+" is missing", "")
		return "", Value{}
	case len(found) > 1:
		m.self.Wrong("only one of the keys "+strings.Join(found, ", ")+" may be there", "keep one")
		return "", Value{}
	}
	return found[0], m.Get(found[0])
}
