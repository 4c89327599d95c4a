package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// sessionWords are the words that stand in data for what the session has of them.
var sessionWords = []string{"session", "role", "requested_by"}

// longestSessionText is what AWS takes as the name of a role session, the shortest that such a text is
// known to be cut to elsewhere.
const longestSessionText = 64

// DataFor returns Data for the credentials of a session: in its texts, {session} stands for the id,
// {role} and {requested_by} for what they say. What is none of A-Z, a-z, 0-9 and +=,.@_- becomes _
// there, and a text with such a word ends after 64 bytes, which is what the name of a role session may
// be in AWS, so that those who are responsible are named in its own log (CloudTrail).
func (f *VaultFrom) DataFor(s Session) map[string]any {
	if f.Data == nil {
		return nil
	}
	values := map[string]string{"session": s.ID, "role": s.Role, "requested_by": s.RequestedBy}
	fill := func(text string) string {
		filled, found := replaceWords(text, func(word string) string { return cleanSessionText(values[word]) })
		if found {
			filled = strings.ToValidUTF8(filled[:min(len(filled), longestSessionText)], "") // without half a character
		}
		return filled
	}
	data := make(map[string]any, len(f.Data))
	for name, value := range f.Data {
		switch value := value.(type) {
		case string:
			data[name] = fill(value)
		case []string:
			texts := make([]string, len(value))
			for i, text := range value {
				texts[i] = fill(text)
			}
			data[name] = texts
		default:
			data[name] = value
		}
	}
	return data
}

func cleanSessionText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (isAlphanumeric(byte(r)) || strings.ContainsRune("+=,.@_-", r)) {
			return r
		}
		return '_'
	}, s)
}

// replaceWords returns text with by(word) for each {word} of lower-case letters and _, and whether there
// is one. What stands in double braces is a template of somebody else's.
func replaceWords(text string, by func(word string) string) (replaced string, found bool) {
	var b strings.Builder
	for {
		before, rest, open := strings.Cut(text, "{")
		b.WriteString(before)
		if !open {
			return b.String(), found
		}
		if strings.HasPrefix(rest, "{") {
			b.WriteString("{{")
			text = rest[1:]
			continue
		}
		word, after, closed := strings.Cut(rest, "}")
		if !closed || word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") != "" || strings.HasPrefix(after, "}") {
			b.WriteByte('{')
			text = rest
			continue
		}
		b.WriteString(by(word))
		text, found = after, true
	}
}

// checkSessionWords looks for words that stand for nothing in a value of data.
func checkSessionWords(v strictyaml.Value, value any) {
	switch value := value.(type) {
	case string:
		checkSessionText(v, value)
	case []string:
		for i, item := range v.ListOrEmpty() {
			checkSessionText(item, value[i])
		}
	}
}

func checkSessionText(v strictyaml.Value, text string) {
	replaceWords(text, func(word string) string {
		if !slices.Contains(sessionWords, word) {
			hint := ""
			if near := strictyaml.Nearest(word, sessionWords); near != "" {
				hint = "write {" + near + "}"
			}
			v.Wrong(fmt.Sprintf("%s stands for nothing: there are {session}, {role} and {requested_by}", strictyaml.Quote("{"+word+"}")), hint)
		}
		return ""
	})
}
