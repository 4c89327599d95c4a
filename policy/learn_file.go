package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A flow is a mapping of the file on one line.
type flow []string

// add adds a key, unless value is empty.
func (f *flow) add(key, value string) {
	if value != "" {
		*f = append(*f, key+": "+value)
	}
}

func (f flow) String() string { return "{" + strings.Join(f, ", ") + "}" }

// file returns f as the file has it.
func (f From) file() string {
	var kind string
	var m flow
	switch {
	case f.Vault != nil:
		kind, m = "vault", f.Vault.flow()
	case f.File != nil:
		kind = "file"
		m.add("path", quotedIf(f.File.Path))
		m.add("max_age", duration(f.File.MaxAge))
	case f.Exec != nil:
		kind = "exec"
		m.add("command", textList(f.Exec.Command))
		m.add("max_age", duration(f.Exec.MaxAge))
		m.add("timeout", duration(f.Exec.Timeout))
	case f.Env != nil:
		kind = "env"
		m.add("name", quotedIf(f.Env.Name))
	}
	return flow{kind + ": " + m.String()}.String()
}

func (v *VaultFrom) flow() (m flow) {
	m.add("path", quotedIf(v.Path))
	if v.Write {
		m.add("method", "write")
	}
	m.add("data", plainData(v.Data))
	m.add("field", plainText(v.Field))
	m.add("user_field", plainText(v.UserField))
	m.add("max_age", duration(v.MaxAge))
	if v.JWT != nil {
		var j flow
		j.add("algorithm", v.JWT.Algorithm)
		j.add("key_id", plainText(v.JWT.KeyID))
		j.add("claims", plainData(v.JWT.Claims))
		j.add("ttl", duration(v.JWT.TTL))
		m.add("jwt", j.String())
	}
	return m
}

// plainData returns what decodePlain decodes; it is empty for nil.
func plainData(data map[string]any) string {
	if data == nil {
		return ""
	}
	var m flow
	for _, name := range slices.Sorted(maps.Keys(data)) {
		value := ""
		switch v := data[name].(type) {
		case string:
			value = forceQuoted(v)
		case []string:
			var items []string
			for _, s := range v {
				items = append(items, forceQuoted(s))
			}
			value = "[" + strings.Join(items, ", ") + "]"
		case float64:
			value = strconv.FormatFloat(v, 'f', -1, 64)
			if !strings.Contains(value, ".") {
				value += ".0"
			}
		default:
			value = fmt.Sprint(v)
		}
		m.add(forceQuoted(name), value)
	}
	return m.String()
}

// duration returns d as the file has it, without the zeros that Go puts behind it; empty for 0.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// file returns i as the file has it.
func (i Inject) file() string {
	var m flow
	kind := "bearer"
	switch {
	case i.Basic != nil:
		kind = "basic"
		m.add("user", plainText(i.Basic.User))
	case i.Header != nil:
		kind = "header"
		m.add("name", plainText(i.Header.Name))
		m.add("prefix", quoted(i.Header.Prefix))
	case i.Query != nil:
		kind = "query"
		m.add("name", plainText(i.Query.Name))
	case i.ClientCertificate != nil:
		kind = "client_certificate"
	}
	return flow{kind + ": " + m.String()}.String()
}

// file returns l as the file has it; empty for no limits.
func (l Limits) file() string {
	var m flow
	if l.Rate.N > 0 {
		m.add("rate", fmt.Sprintf("%d/%s", l.Rate.N, rateUnits[l.Rate.Per]))
	}
	m.add("body", size(l.Body))
	m.add("response", size(l.Response))
	m.add("concurrency", whole(int64(l.Concurrency)))
	m.add("timeout", duration(l.Timeout))
	var b flow
	b.add("requests", whole(l.Budget.Requests))
	b.add("bytes", size(l.Budget.Bytes))
	if len(b) > 0 {
		m.add("budget", b.String())
	}
	if len(m) == 0 {
		return ""
	}
	return m.String()
}

var rateUnits = map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}

func whole(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// size returns n bytes in the largest unit of which they are a whole number; empty for 0.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	i := 0
	for i < len(units)-1 && n >= 1<<10 && n%(1<<10) == 0 {
		n, i = n>>10, i+1
	}
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10) + units[i]
}
