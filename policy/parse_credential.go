package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	defaultMaxAge  = 5 * time.Minute
	defaultTimeout = 10 * time.Second
)

func (d *decoder) decodeCredentials(v strictyaml.Value) {
	for _, e := range v.Entries() {
		checkRef(e.Key, e.Name)
		c := Credential{Name: e.Name, Where: e.Key.Where()}
		m := e.Value.Mapping("from", "inject")
		from := m.Need("from", "write from: {vault: {path: ..., field: ...}}")
		inject := m.Need("inject", "write inject: {bearer: {}}")
		c.From = decodeFrom(from)
		c.Inject = decodeInject(inject)
		d.policy.credentials = append(d.policy.credentials, c)
		d.credentials = append(d.credentials, declared{
			name: c.Name, key: e.Key, inject: inject,
			asksUser: c.Inject.Basic != nil && c.Inject.Basic.User == "",
			// A source that could not be read is no reason for a second mistake.
			givesUser: c.From == (From{}) || c.From.Vault != nil && c.From.Vault.UserField != "",
		})
	}
}

func decodeFrom(v strictyaml.Value) (f From) {
	kind, source := v.Mapping("vault", "file", "exec", "env").OneOf("vault", "file", "exec", "env")
	switch kind {
	case "vault":
		m := source.Mapping("path", "field", "user_field", "max_age")
		f.Vault = &VaultFrom{Path: vaultPath(m.Need("path", "write the API path, such as path: secret/data/agents/x"))}
		f.Vault.Field, _ = nonEmpty(m.Need("field", "write the name of the field that holds the value"))
		f.Vault.UserField, _ = nonEmpty(m.Get("user_field"))
		f.Vault.MaxAge, _ = m.Get("max_age").Duration()
	case "file":
		m := source.Mapping("path", "max_age")
		f.File = &FileFrom{}
		f.File.Path, _ = nonEmpty(m.Need("path", "write the path of the file"))
		f.File.MaxAge = durationOr(m.Get("max_age"), defaultMaxAge)
	case "exec":
		m := source.Mapping("command", "max_age", "timeout")
		f.Exec = &ExecFrom{}
		for _, arg := range m.Need("command", "write command: [PROGRAM, ARGUMENT]").List() {
			s, _ := arg.Text()
			if strings.ContainsRune(s, 0) || s == "" && len(f.Exec.Command) == 0 {
				arg.Wrong("not a program or an argument of one", "")
			}
			f.Exec.Command = append(f.Exec.Command, s)
		}
		f.Exec.MaxAge = durationOr(m.Get("max_age"), defaultMaxAge)
		f.Exec.Timeout = durationOr(m.Get("timeout"), defaultTimeout)
	case "env":
		name := source.Mapping("name").Need("name", "write the name of the variable")
		f.Env = &EnvFrom{}
		f.Env.Name, _ = nonEmpty(name)
		if n := f.Env.Name; n != "" && (isDigit(n[0]) || strings.ContainsFunc(n, func(r rune) bool { return r > 'z' || !isAlphanumeric(byte(r)) && r != '_' })) {
			name.Wrong(fmt.Sprintf("%s is not a name of a variable", strictyaml.Quote(n)), "write letters, digits and _")
		}
	}
	return f
}

func durationOr(v strictyaml.Value, standard time.Duration) time.Duration {
	if d, ok := v.Duration(); ok {
		return d
	}
	return standard
}

// vaultPath checks a path so that it can be put into a URL as it is and means there what it
// says here.
func vaultPath(v strictyaml.Value) string {
	s, ok := nonEmpty(v)
	if !ok {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("?#%\\", c) >= 0 {
			v.Wrong(fmt.Sprintf("the Vault path has the byte %s", showByte(c)), "write the path as plain ASCII, without a query")
			return ""
		}
	}
	first, _, _ := strings.Cut(s, "/")
	switch {
	case s[0] == '/':
		v.Wrong("the Vault path begins with /", fmt.Sprintf("write %s", strictyaml.Quote(strings.TrimLeft(s, "/"))))
	case s[len(s)-1] == '/':
		v.Wrong("the Vault path ends with /", fmt.Sprintf("write %s", strictyaml.Quote(strings.TrimRight(s, "/"))))
	case strings.Contains(s, ".."), slices.Contains(strings.Split(s, "/"), "."):
		v.Wrong("the Vault path has a dot segment", "write the path it leads to")
	case strings.Contains(s, "//"):
		v.Wrong("the Vault path has an empty segment (//)", "write one slash")
	case slices.Contains([]string{"sys", "auth", "cubbyhole", "identity"}, first) && !strings.HasPrefix(s, "identity/oidc/token/"):
		v.Wrong(fmt.Sprintf("%s/ belongs to Vault itself and holds no credential for a route", first),
			"write a path of a secrets engine; of identity/ only identity/oidc/token/ROLE")
	}
	return s
}

func decodeInject(v strictyaml.Value) (in Inject) {
	kind, way := v.Mapping("bearer", "basic", "header", "query").OneOf("bearer", "basic", "header", "query")
	switch kind {
	case "bearer":
		way.Mapping()
		in.Bearer = &BearerInject{}
	case "basic":
		user := way.Mapping("user").Get("user")
		in.Basic = &BasicInject{}
		in.Basic.User, _ = nonEmpty(user)
		if strings.Contains(in.Basic.User, ":") {
			user.Wrong("the user has a colon, where basic authentication ends the user (RFC 7617 section 2)", "")
		}
		if user.Present() && in.Basic.User == "" {
			// Already a mistake; it must not also pass for the source's own user.
			in.Basic = nil
		}
	case "header":
		m := way.Mapping("name", "prefix")
		in.Header = &HeaderInject{
			Name:   headerName(m.Need("name", "write the header's name, such as name: X-Api-Key")),
			Prefix: headerPrefix(m.Get("prefix")),
		}
	case "query":
		name := way.Mapping("name").Need("name", "write the parameter's name, such as name: api_key")
		way.Warn("the credential becomes part of the URL, which servers log", "inject it in a header, if the upstream takes it there")
		in.Query = &QueryInject{}
		in.Query.Name, _ = nonEmpty(name)
		if strings.ContainsFunc(in.Query.Name, func(r rune) bool {
			return r >= 0x7f || !isAlphanumeric(byte(r)) && !strings.ContainsRune("-._~", r)
		}) {
			name.Wrong(fmt.Sprintf("%s is not a name of a query parameter", strictyaml.Quote(in.Query.Name)), "write letters, digits, -, ., _ and ~")
		}
	}
	return in
}

// reservedHeaders are the headers that frame a message, steer the connection or the way to the
// upstream, or that the proxy writes itself. A name that ends in "-" stands for all that begin
// with it.
var reservedHeaders = []string{
	"connection", "content-encoding", "content-length", "content-type", "cookie", "cookie2", "expect",
	"forwarded", "host", "http2-settings", "keep-alive", "proxy-", "sec-", "set-cookie", "set-cookie2", "te",
	"trailer", "transfer-encoding", "upgrade", "via", "x-forwarded-", "x-real-ip",
}

func headerName(v strictyaml.Value) string {
	s, ok := nonEmpty(v)
	if !ok {
		return ""
	}
	if !isToken(s) {
		v.Wrong(fmt.Sprintf("%s is not a header name (RFC 9110 section 5.1)", strictyaml.Quote(s)), "write letters, digits and -, without the colon")
		return ""
	}
	// Servers that hand headers on as variables (CGI, WSGI) read _ and . as -.
	folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(s))
	for _, r := range reservedHeaders {
		if folded == r || strings.HasSuffix(r, "-") && strings.HasPrefix(folded, r) {
			v.Wrong(fmt.Sprintf("header %s belongs to the connection and cannot carry a credential", s),
				"write Authorization, or the header of its own that the upstream asks for")
			return ""
		}
	}
	return s
}

func headerPrefix(v strictyaml.Value) string {
	s, ok := v.Text()
	if !ok {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == ' ' && i == 0 {
			v.Wrong("the prefix is not visible ASCII with spaces after the first character", `write it as it stands before the value, such as "Token "`)
			return ""
		}
	}
	return s
}
