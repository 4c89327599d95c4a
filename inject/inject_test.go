package inject_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
)

func issuance(user, value string) *credential.Issuance {
	return &credential.Issuance{User: credential.NewSecret([]byte(user)), Value: credential.NewSecret([]byte(value))}
}

func TestInject(t *testing.T) {
	for _, tt := range []struct {
		in          inject.Injector
		user, value string
		header      string // the whole line, empty if none
		query       string
	}{
		{inject.Bearer(), "", "tok", "Authorization: Bearer tok", "a=1"},
		{inject.Header("x-api-key", ""), "", "tok", "X-Api-Key: tok", "a=1"},
		{inject.Header("PRIVATE-TOKEN", "glpat "), "", "tok", "Private-Token: glpat tok", "a=1"},
		{inject.Basic("x-access-token"), "", "tok", "Authorization: Basic eC1hY2Nlc3MtdG9rZW46dG9r", "a=1"},
		{inject.Basic(""), "u", "p", "Authorization: Basic dTpw", "a=1"},
		{inject.Query("key"), "", "t/k+ &=", "", "a=1&key=t%2Fk%2B+%26%3D"},
	} {
		req, _ := http.NewRequest("GET", "https://api.test/x?a=1", nil)
		before := req.URL
		if err := tt.in.Inject(req, issuance(tt.user, tt.value)); err != nil {
			t.Errorf("Inject(%+v): %v", tt.in.Carrier(), err)
			continue
		}
		var lines []string
		for k, vs := range req.Header {
			for _, v := range vs {
				lines = append(lines, k+": "+v)
			}
		}
		if got := strings.Join(lines, "\n"); got != tt.header || req.URL.RawQuery != tt.query {
			t.Errorf("got header %q query %q, want %q %q", got, req.URL.RawQuery, tt.header, tt.query)
		}
		if before.RawQuery != "a=1" {
			t.Errorf("Inject(%+v) changed the URL it was given in place", tt.in.Carrier())
		}
		if c := tt.in.Carrier(); c.Header != "" && req.Header[c.Header] == nil {
			t.Errorf("carrier %q is not where the credential went", c.Header)
		}
	}
}

// What cannot be rendered is refused, the request stays as it was, and the error is silent
// about the value.
func TestInjectRefuses(t *testing.T) {
	const canary = "canary-7f3a"
	for _, tt := range []struct {
		in          inject.Injector
		user, value string
	}{
		{inject.Bearer(), "", canary + "\r\nX-Admin: 1"},
		{inject.Bearer(), "", canary + "\x00"},
		{inject.Header("X-Key", ""), "", canary + "\n"},
		{inject.Basic(""), "a:b" + canary, "p"},
		{inject.Basic(""), "a\n", canary},
		{inject.Basic("u"), "", canary + "\x7f"},
	} {
		req, _ := http.NewRequest("GET", "https://api.test/x", nil)
		err := tt.in.Inject(req, issuance(tt.user, tt.value))
		if !errors.Is(err, inject.ErrNotRenderable) {
			t.Errorf("Inject(%+v) = %v, want ErrNotRenderable", tt.in.Carrier(), err)
			continue
		}
		if len(req.Header) != 0 || strings.Contains(err.Error(), canary) {
			t.Errorf("Inject(%+v): header %v, error %q", tt.in.Carrier(), len(req.Header), err)
		}
	}
}

// Whatever the value, an accepted header is one line.
func FuzzHeader(f *testing.F) {
	f.Add("plain", []byte("tok"))
	f.Add("Bearer ", []byte("a\r\nb"))
	f.Fuzz(func(t *testing.T, prefix string, value []byte) {
		req, _ := http.NewRequest("GET", "https://api.test/", nil)
		iss := &credential.Issuance{Value: credential.NewSecret(value), User: credential.NewSecret([]byte(prefix))}
		for _, in := range []inject.Injector{inject.Header("X-Key", prefix), inject.Basic("")} {
			if err := in.Inject(req, iss); err != nil {
				continue
			}
			var b strings.Builder
			req.Header.Write(&b)
			if n := strings.Count(b.String(), "\n"); n != len(req.Header) {
				t.Errorf("%d header(s) became %d lines", len(req.Header), n)
			}
			req.Header = http.Header{}
		}
	})
}
