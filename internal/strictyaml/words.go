package strictyaml

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

func isText(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!str" }

// kindOf names what n is, for people.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	case "!!str":
		return "text"
	}
	return "a tagged value"
}

// quoteHint tells how to write a scalar so that it is text.
func quoteHint(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return fmt.Sprintf("write %q", clip(n.Value))
}

// clip bounds what is repeated from the file in a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// Quote returns s for use in a message: in quotes, escaped, and cut after 80 bytes.
func Quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

// join extends a key path by a key; a key that could be mistaken for part of a path is quoted.
func join(path, key string) string {
	plain := key != "" && len(key) <= 80
	for _, r := range key {
		if r <= ' ' || r > '~' || strings.ContainsRune(`.:[]"'`, r) {
			plain = false
		}
	}
	switch {
	case !plain:
		return path + "[" + Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// DidYouMean returns "did you mean x?" for the word of known that word was probably meant to
// be, and "" if none is near.
func DidYouMean(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return "did you mean " + best + "?"
	}
	return ""
}

// Nearest returns the word of known that word was probably meant to be, and "" if none is
// near enough: at most one slip in a word of up to five letters, two in up to nine, else three.
func Nearest(word string, known []string) string {
	if len(word) > 80 {
		return ""
	}
	most := 3
	switch {
	case len(word) <= 5:
		most = 1
	case len(word) <= 9:
		most = 2
	}
	best, least := "", most+1
	for _, k := range known {
		if d := Distance(strings.ToLower(word), k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// Distance counts the slips that make a into b: letters left out, added, changed, or swapped
// with their neighbour.
func Distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
