package vault

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A reply is what Sidekey reads of Vault's replies.
type reply struct {
	RequestID     string                     `json:"request_id"`
	LeaseID       string                     `json:"lease_id"`
	LeaseDuration seconds                    `json:"lease_duration"`
	Data          map[string]json.RawMessage `json:"data"`
	Auth          *replyAuth                 `json:"auth"`

	date time.Time // Vault's clock, by the Date header: cut to the second; zero if unknown
}

// seconds is a duration as Vault writes it: a whole number of seconds, not negative.
type seconds time.Duration

// maxSeconds is ten years: beyond that a duration means "never", and must not overflow.
const maxSeconds = 10 * 365 * 24 * 60 * 60

var errSeconds = errors.New("not a whole number of seconds")

// UnmarshalJSON implements [json.Unmarshaler]. Anything but a whole number is an error.
func (s *seconds) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < 0 {
		return errSeconds
	}
	*s = seconds(time.Duration(min(n, maxSeconds)) * time.Second)
	return nil
}

// fields returns the fields of a read and, for KV version 2, its version. The shape of the
// reply tells KV version 2 from all else, so that no mount has to be asked for its kind.
// The fields are nil if that version was deleted.
func (r *reply) fields() (map[string]json.RawMessage, int) {
	var meta struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(r.Data["metadata"], &meta) != nil || meta.Version < 1 {
		return r.Data, 0
	}
	var inner map[string]json.RawMessage
	if raw, ok := r.Data["data"]; !ok || json.Unmarshal(raw, &inner) != nil {
		return r.Data, 0
	}
	return inner, meta.Version
}

// text returns the field name as bytes of the caller's own: a string without its trailing
// newline, or a number as it is written. The error is a *failure that refuses.
func (k call) text(fields map[string]json.RawMessage, name string) ([]byte, error) {
	raw, ok := fields[name]
	if !ok {
		return nil, k.refused("there is no field %q, only %s", name, names(fields))
	}
	var v any
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, k.refused("field %q is malformed", name)
	}
	var s string
	switch v := v.(type) {
	case string:
		// "vault kv put x key=@file" leaves the file's newline on the value.
		if line, ok := strings.CutSuffix(v, "\n"); ok {
			v = strings.TrimSuffix(line, "\r")
		}
		s = v
	case json.Number:
		s = v.String()
	default:
		return nil, k.refused("field %q is neither a string nor a number", name)
	}
	if s == "" {
		return nil, k.refused("field %q is empty", name)
	}
	if strings.ContainsFunc(s, isControl) {
		return nil, k.refused("field %q holds control characters or several lines", name)
	}
	if strings.ContainsFunc(s, notPrintable) {
		return nil, k.refused("field %q holds characters that are not printable", name)
	}
	return []byte(s), nil
}

// names lists at most ten names of fields, quoted and cut, for an error.
func names(fields map[string]json.RawMessage) string {
	if len(fields) == 0 {
		return "an empty object"
	}
	all := slices.Sorted(maps.Keys(fields))
	shown := all[:min(len(all), 10)]
	quoted := make([]string, len(shown))
	for i, n := range shown {
		quoted[i] = strconv.Quote(n[:min(len(n), 40)])
	}
	list := strings.Join(quoted, ", ")
	if len(all) > len(shown) {
		list += " and " + strconv.Itoa(len(all)-len(shown)) + " more"
	}
	return list
}

// notPrintable also finds what JSON has in place of bytes that are not text.
func notPrintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
