package strictyaml

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Value is one value of a document, or the absence of one. The zero Value is absent.
type Value struct {
	doc  *Document
	node *yaml.Node
	path string
	at   position
}

// Present reports whether the file has this value.
func (v Value) Present() bool { return v.node != nil }

// Where returns the value's place as "file:line:column", and "" if it is absent.
func (v Value) Where() string {
	if v.doc == nil {
		return ""
	}
	return v.doc.where(v.at)
}

// Line returns the line the value begins on, counted from 1; 0 if it is absent.
func (v Value) Line() int { return v.at.line }

// Path returns the path of the value's key, such as "routes[2].host".
func (v Value) Path() string { return v.path }

// Wrong records a mistake at the value. hint may be empty. On an absent value it does nothing.
func (v Value) Wrong(msg, hint string) {
	if v.doc != nil {
		v.doc.add(v.at, v.path, msg, hint)
	}
}

// Warn records at the value what is allowed but may not be meant: see [Document.Warnings]. hint
// may be empty. On an absent value it does nothing.
func (v Value) Warn(msg, hint string) {
	if v.doc != nil {
		v.doc.warnings = append(v.doc.warnings, v.doc.found(v.at, v.path, msg, hint))
	}
}

// usable is false for what is absent and for what [Parse] has already recorded as a mistake.
func (v Value) usable() bool {
	return v.node != nil && v.node.Kind != yaml.AliasNode && v.node.Style&yaml.TaggedStyle == 0
}

func (v Value) notA(want, hint string) {
	if v.node.Tag == "!!null" {
		v.Wrong("there is no value; it must be "+want, hint)
		return
	}
	v.Wrong("must be "+want+", not "+kindOf(v.node), hint)
}

// Text returns a string, which may be empty. Numbers, dates, true and false must be written
// in quotes to be text.
func (v Value) Text() (string, bool) {
	if !v.usable() {
		return "", false
	}
	if !isText(v.node) {
		v.notA("text", quoteHint(v.node))
		return "", false
	}
	return v.node.Value, true
}

// Bool returns a value written true or false.
func (v Value) Bool() (value, ok bool) {
	if !v.usable() {
		return false, false
	}
	if v.node.Tag == "!!bool" && (v.node.Value == "true" || v.node.Value == "false") {
		return v.node.Value == "true", true
	}
	if v.node.Tag == "!!bool" {
		v.Wrong(Quote(v.node.Value)+" is not in lower case", "write true or false")
		return false, false
	}
	v.notA("true or false", "write true or false")
	return false, false
}

// Int returns a whole number in decimal digits, which may have a sign.
func (v Value) Int() (int, bool) {
	if !v.usable() {
		return 0, false
	}
	if v.node.Tag == "!!int" {
		if n, err := strconv.Atoi(v.node.Value); err == nil && strconv.Itoa(n) == v.node.Value {
			return n, true
		}
	}
	if v.node.Tag == "!!int" || v.node.Tag == "!!float" {
		v.Wrong(Quote(v.node.Value)+" is not a whole number in plain digits", "")
		return 0, false
	}
	hint := ""
	if n, err := strconv.Atoi(v.node.Value); err == nil && isText(v.node) {
		hint = fmt.Sprintf("write %d, without quotes", n)
	}
	v.notA("a whole number", hint)
	return 0, false
}

// Duration returns a time span greater than zero, such as 30s, 5m or 1h30m: decimal numbers
// with the units ms, s, m and h.
func (v Value) Duration() (time.Duration, bool) {
	if !v.usable() {
		return 0, false
	}
	const hint = "write a number and a unit, such as 30s, 5m or 1h"
	if !isText(v.node) {
		v.notA("a time span", hint)
		return 0, false
	}
	s := v.node.Value
	d, err := time.ParseDuration(s)
	if err != nil || strings.Trim(s, "0123456789.msh") != "" || s[0] == '.' {
		v.Wrong(fmt.Sprintf("%s is not a time span", Quote(s)), hint)
		return 0, false
	}
	if d <= 0 {
		v.Wrong("the time span must be greater than zero", hint)
		return 0, false
	}
	return d, true
}

// Choice returns a text that is one of words.
func (v Value) Choice(words ...string) (string, bool) {
	if !v.usable() {
		return "", false
	}
	if !isText(v.node) {
		v.notA("one of "+strings.Join(words, ", "), "")
		return "", false
	}
	s := v.node.Value
	if slices.Contains(words, s) {
		return s, true
	}
	v.Wrong(fmt.Sprintf("%s is not one of %s", Quote(s), strings.Join(words, ", ")), DidYouMean(s, words))
	return "", false
}

// List returns the values of a list that is not empty; an empty one is a mistake.
func (v Value) List() []Value {
	items := v.ListOrEmpty()
	if v.usable() && v.node.Kind == yaml.SequenceNode && len(items) == 0 {
		v.Wrong("the list is empty", "")
	}
	return items
}

// ListOrEmpty returns the values of a list.
func (v Value) ListOrEmpty() []Value {
	if !v.usable() {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode {
		hint := ""
		if isText(v.node) {
			hint = fmt.Sprintf("write [%s]", clip(v.node.Value))
		}
		v.notA("a list", hint)
		return nil
	}
	items := make([]Value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = Value{v.doc, n, fmt.Sprintf("%s[%d]", v.path, i), position{n.Line, n.Column}}
	}
	return items
}

// Texts returns the texts of a list; ok is false if v is absent or any of it is a mistake.
// An empty list is fine: use [Value.List] where it is not.
func (v Value) Texts() (texts []string, ok bool) {
	ok = v.usable() && v.node.Kind == yaml.SequenceNode
	for _, item := range v.ListOrEmpty() {
		s, good := item.Text()
		texts = append(texts, s)
		ok = ok && good
	}
	return texts, ok
}

// TextMap returns a mapping from names of the file's choice to texts; it may be empty.
func (v Value) TextMap() (texts map[string]string, ok bool) {
	ok = v.usable() && v.node.Kind == yaml.MappingNode
	texts = map[string]string{}
	for _, e := range v.EntriesOrEmpty() {
		s, good := e.Value.Text()
		texts[e.Name] = s
		ok = ok && good
	}
	return texts, ok
}
