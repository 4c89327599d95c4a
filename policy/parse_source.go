package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	defaultMaxAge  = 5 * time.Minute
	defaultTimeout = 10 * time.Second
)

// decodeFrom decodes a source, of a client certificate if certificate.
func decodeFrom(v strictyaml.Value, certificate bool) (f From) {
	kind, source := v.Mapping("vault", "file", "exec", "env").OneOf("vault", "file", "exec", "env")
	switch kind {
	case "vault":
		f.Vault = decodeVault(source, certificate)
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
