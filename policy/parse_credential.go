package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// prefetchRoutes is how many routes may carry a credential that is obtained at the start of the
// session without being told to.
const prefetchRoutes = 20

// A declared credential, whether or not the rest of it could be read.
type declared struct {
	name         string
	key          strictyaml.Value
	inject       strictyaml.Value
	asksUser     bool // basic without a user of its own
	givesUser    bool
	saysPrefetch bool
}

func (d *decoder) decodeCredentials(v strictyaml.Value) {
	for _, e := range v.Entries() {
		checkRef(e.Key, e.Name)
		c := Credential{Name: e.Name, Where: e.Key.Where()}
		m := e.Value.Mapping("from", "inject", "prefetch")
		from := m.Need("from", "write from: {vault: {path: ..., field: ...}}")
		inject := m.Need("inject", "write inject: {bearer: {}}")
		c.Inject = decodeInject(inject)
		certificate := c.Inject.ClientCertificate != nil
		c.From = decodeFrom(from, certificate)
		if certificate && c.From != (From{}) && c.From.Vault == nil {
			inject.Wrong("a client certificate comes from Vault", "write from: {vault: {path: pki/issue/ROLE, method: write, data: {common_name: NAME}}}")
		}
		c.Prefetch, _ = m.Get("prefetch").Bool()
		if i := slices.IndexFunc(d.credentials, func(c declared) bool { return c.name == e.Name }); i >= 0 {
			e.Key.Wrong(fmt.Sprintf("the credential %s has the name %s already", placeFrom(e.Key, d.credentials[i].key), e.Name), "write another name, or remove one of the two")
			continue
		}
		d.policy.credentials = append(d.policy.credentials, c)
		d.credentials = append(d.credentials, declared{
			name: c.Name, key: e.Key, inject: inject,
			asksUser: c.Inject.Basic != nil && c.Inject.Basic.User == "",
			// A source that could not be read is no reason for a second mistake.
			givesUser:    c.From == (From{}) || c.From.Vault != nil && c.From.Vault.UserField != "",
			saysPrefetch: m.Has("prefetch"),
		})
	}
}

// checkCredentials finds what only shows when all routes are known, and settles what depends on
// them.
func (d *decoder) checkCredentials() {
	carried := map[string]int{}
	for _, r := range d.policy.routes {
		carried[r.Credential]++
	}
	for i, c := range d.credentials {
		if !d.used[c.name] {
			c.key.Wrong("no route carries this credential", fmt.Sprintf("remove it, or write credential: %s on a route", c.name))
		}
		if c.asksUser && !c.givesUser {
			c.inject.Wrong("basic has no user, and the source gives none",
				"write basic: {user: NAME}, or user_field: NAME in from.vault")
		}
		if !c.saysPrefetch {
			d.policy.credentials[i].Prefetch = carried[c.name] <= prefetchRoutes
		}
	}
}

func decodeInject(v strictyaml.Value) (in Inject) {
	kinds := []string{"bearer", "basic", "header", "query", "client_certificate"}
	kind, way := v.Mapping(kinds...).OneOf(kinds...)
	switch kind {
	case "client_certificate":
		way.Mapping()
		in.ClientCertificate = &ClientCertificateInject{}
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
	"trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-forwarded-", "x-real-ip", "x-request-id",
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
