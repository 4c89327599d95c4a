package config

import (
	"fmt"
	"slices"
	"strings"
)

const (
	methodToken      = "token"
	methodAppRole    = "approle"
	methodKubernetes = "kubernetes"
	methodJWT        = "jwt"
	methodCert       = "cert"
)

// A method is a login method with the keys below vault.auth that it has a use for.
type method struct {
	name  string
	needs []string // by itself; see needRoleID too
	takes []string // besides
}

var methods = []method{
	{methodToken, []string{"token_file"}, nil},
	{methodAppRole, []string{"secret_id_file"}, []string{"mount", "role_id", "role_id_file", "secret_id_wrapped", "verify"}},
	{methodKubernetes, []string{"role", "token_file"}, []string{"mount", "verify"}},
	{methodJWT, []string{"role", "token_file"}, []string{"mount", "verify"}},
	{methodCert, []string{"cert_file", "key_file"}, []string{"mount", "role", "verify"}},
}

func methodNames() (names []string) {
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

// claims are what vault.auth.verify may name: what the pod says of itself.
var claims = []string{"pod_uid", "pod_name", "namespace", "session_id", "requested_by"}

const authGroup = "vault.auth."

// checkMethod finds what the login method lacks and what it has no use for.
func (l *loader) checkMethod() {
	name := l.v.GetString("vault.auth.method")
	i := slices.IndexFunc(methods, func(m method) bool { return m.name == name })
	if i < 0 {
		return // missing or wrong, and recorded as that
	}
	m := methods[i]
	if name == methodAppRole {
		l.needRoleID()
	}
	for _, key := range m.needs {
		l.needForMethod(authGroup + key)
	}
	if name == methodCert && strings.HasPrefix(l.v.GetString("vault.address"), "http:") {
		l.wrongMethod("needs an https address: the certificate is shown in the TLS handshake", "write vault.address with https")
	}
	for _, s := range settings {
		key, ok := strings.CutPrefix(s.key, authGroup)
		if ok && key != "method" && !slices.Contains(m.needs, key) && !slices.Contains(m.takes, key) {
			l.refuseForMethod(s.key)
		}
	}
}

// needForMethod records a mistake of the login method if it lacks key.
func (l *loader) needForMethod(key string) {
	if l.lacks(key) {
		l.wrongMethod("needs "+key, howTo(key, "write it beside the method"))
	}
}

func (l *loader) needRoleID() {
	const id, file = "vault.auth.role_id", "vault.auth.role_id_file"
	switch {
	case l.lacks(id) && l.lacks(file):
		l.wrongMethod("needs "+id+" or "+file, howTo(id, "write it beside the method"))
	case l.v.GetString(id) != "" && l.v.GetString(file) != "":
		l.wrongMethod("has both "+id+" and "+file, "keep one of the two")
	}
}

// lacks reports whether key has no value, and no mistake in its place either.
func (l *loader) lacks(key string) bool { return l.v.GetString(key) == "" && !l.broken[key] }

// refuseForMethod records a mistake if key, which the method has no use for, has a value, unless it
// stands in a layer below: a laptop's variable may choose another method than the file.
func (l *loader) refuseForMethod(key string) {
	if o, ok := l.origins[key]; ok && o.layer >= l.origins["vault.auth.method"].layer && l.says(key) {
		o.wrong(fmt.Sprintf("the method %s has no use for it", l.v.GetString("vault.auth.method")), "remove it")
	}
}

// says reports whether key has a value that says something.
func (l *loader) says(key string) bool {
	switch v := l.v.Get(key).(type) {
	case string:
		return v != ""
	case bool:
		return v
	case []string:
		return len(v) > 0
	}
	return false
}

func (l *loader) wrongMethod(msg, hint string) {
	method := l.origins["vault.auth.method"]
	method.wrong(fmt.Sprintf("the method %s %s", l.v.GetString("vault.auth.method"), msg), hint)
}
