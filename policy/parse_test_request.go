package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// A textBody is a body that a policy file holds.
type textBody string

// Bytes returns the text.
func (b textBody) Bytes() ([]byte, error) { return []byte(b), nil }

// decodeTestRequest decodes what a test says of a request beyond its method and URL. A body
// without a content type is taken for JSON, as most are.
func (d *decoder) decodeTestRequest(m strictyaml.Mapping, r *Request) {
	r.Session.Role = d.policy.role
	if r.Method == connect {
		for _, key := range []string{"headers", "body", "session", "now"} {
			if m.Has(key) {
				m.Key(key).Wrong("a tunnel is not looked into: nothing of it is known", "remove "+key)
			}
		}
		return
	}
	if m.Has("headers") {
		r.Header = map[string][]string{}
		for _, e := range m.Get("headers").Entries() {
			name := canonicalHeader(e.Name)
			if !isToken(e.Name) {
				e.Key.Wrong(fmt.Sprintf("%s is not a header name", strictyaml.Quote(e.Name)), "")
			}
			r.Header[name] = append(r.Header[name], textOrTexts(e.Value)...)
		}
	}
	if body, ok := m.Get("body").Text(); ok {
		r.Body = textBody(body)
		if r.Header["Content-Type"] == nil {
			if r.Header == nil {
				r.Header = map[string][]string{}
			}
			r.Header["Content-Type"] = []string{"application/json"}
		}
	}
	if m.Has("session") {
		session := m.Get("session").Mapping("id", "requested_by")
		r.Session.ID, _ = session.Get("id").Text()
		r.Session.RequestedBy, _ = session.Get("requested_by").Text()
	}
	if s, ok := m.Get("now").Text(); ok {
		var err error
		if r.Now, err = time.Parse(time.RFC3339, s); err != nil {
			m.Get("now").Wrong(fmt.Sprintf("%s is not a time", strictyaml.Quote(s)), `write one as in RFC 3339, in quotes: "2026-12-01T09:30:00Z"`)
		}
	}
}

// textOrTexts returns a text alone, or the distinct ones of a list.
func textOrTexts(v strictyaml.Value) []string {
	plain, ok := v.Plain()
	if !ok {
		return nil
	}
	var texts []string
	switch plain := plain.(type) {
	case string:
		texts = []string{plain}
	case []string:
		texts = plain
	default:
		v.Text() // which records that it is none
	}
	for i, s := range texts {
		if slices.Contains(texts[:i], s) {
			v.Wrong(fmt.Sprintf("%s stands in the list more than once", strictyaml.Quote(s)), "remove one of them")
		}
	}
	return texts
}
