package policy

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Body is a request's body, for the conditions that read it. A decision asks for it only if the
// conditions of a route that it considers need it.
type Body interface {
	// Bytes returns the whole body as it was sent, its content coding included. A decision calls it
	// at most once and does not change what it returns. An error, such as that of a body larger
	// than the caller is willing to hold, denies the request with [BodyNotAcceptable]; as does a body
	// larger than the Limits.Body of the route whose condition needs it. Which route that is shows
	// only then; [Policy.BodyBound] is enough for all of them.
	Bytes() ([]byte, error)
}

// An agent chooses what a body looks like: these bound its nesting, and how many values and names
// it has, of which each takes some 100 bytes of memory.
const (
	maxJSONDepth  = 100
	maxJSONValues = 200_000
)

// readJSON returns the body as JSON: nil, bool, string, int64, uint64, float64, []any and
// map[string]any.
func (ev *evaluation) readJSON() (any, error) {
	value, err := ev.json.get(ev.parseBody)
	if err == nil && ev.size > ev.limit {
		return nil, unacceptable("the body is larger than limits.body of the route, or 1 MiB where it has none")
	}
	return value, err
}

func (ev *evaluation) parseBody() (any, error) {
	if !isJSON(ev.request.Header) {
		return nil, unacceptable("the body's content type is not JSON in UTF-8")
	}
	for _, coding := range ev.request.Header["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return nil, unacceptable("the body has a content coding")
		}
	}
	if ev.request.Body == nil {
		return nil, unacceptable("there is no body")
	}
	src, err := ev.request.Body.Bytes()
	if err != nil {
		return nil, unacceptable("the body cannot be read, or is too large to be checked")
	}
	ev.size = int64(len(src))
	return parseJSON(src, ev.lookalikes)
}

// isJSON reports whether a Content-Type is that of JSON: application/json or a type that ends in
// +json (RFC 6839 section 3.1).
func isJSON(header map[string][]string) bool {
	mediaType, params, ok := contentType(header)
	if !ok || strings.Contains(header["Content-Type"][0], "*") || // RFC 2231's parameters, which not all read
		params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return false
	}
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// parseJSON reads src as one JSON text (RFC 8259) that no two readers can take for different
// things: no name stands twice in an object, not even in another case, and no string has half a
// character.
func parseJSON(src []byte, l *lookalikes) (any, error) {
	dec := &jsonReader{jsontext.NewDecoder(bytes.NewReader(src)), maxJSONValues, l}
	value, err := dec.readValue(maxJSONDepth)
	if err == nil {
		if _, err = dec.ReadToken(); errors.Is(err, io.EOF) {
			return value, nil
		}
		err = unacceptable("the body has something after its JSON")
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return nil, refused
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return nil, unacceptable("the body has an object with the same name twice")
	}
	return nil, unacceptable("the body is not JSON")
}

// A jsonReader reads values until it has read too many.
type jsonReader struct {
	*jsontext.Decoder
	left       int
	lookalikes *lookalikes
}

func (dec *jsonReader) readValue(depth int) (any, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	dec.left--
	switch {
	case depth == 0:
		return nil, unacceptable("the body is nested more than %d levels deep", maxJSONDepth)
	case dec.left < 0:
		return nil, unacceptable("the body has more than %d values", maxJSONValues)
	}
	switch token.Kind() {
	case jsontext.KindTrue, jsontext.KindFalse:
		return token.Bool(), nil
	case jsontext.KindString:
		return token.String(), nil
	case jsontext.KindNumber:
		return parseNumber(token.String())
	case jsontext.KindBeginArray:
		return dec.readArray(depth - 1)
	case jsontext.KindBeginObject:
		return dec.readObject(depth - 1)
	}
	return nil, nil
}

func (dec *jsonReader) readArray(depth int) (any, error) {
	list := []any{}
	for dec.PeekKind() != jsontext.KindEndArray {
		value, err := dec.readValue(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := dec.ReadToken()
	return list, err
}

func (dec *jsonReader) readObject(depth int) (any, error) {
	object, folded := map[string]any{}, map[string]bool{}
	for dec.PeekKind() != jsontext.KindEndObject {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String()
		// Some readers, Go's first among them, do not tell the names of an object apart by case.
		fold := strings.ToLower(strings.ToUpper(name))
		if folded[fold] {
			return nil, unacceptable("the body has an object with the same name twice, but for case")
		}
		if dec.lookalikes.inJSON(name) {
			return nil, unacceptable("the body has a name that differs from one in a condition by its case")
		}
		folded[fold] = true
		if object[name], err = dec.readValue(depth); err != nil {
			return nil, err
		}
	}
	_, err := dec.ReadToken()
	return object, err
}

// parseNumber keeps whole numbers whole: a float64 makes one of two large ones.
func parseNumber(s string) (any, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, unacceptable("the body has a number that is too large")
	}
	return f, nil
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f })
}
