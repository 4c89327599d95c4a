package config

import (
	"fmt"
	"strings"
)

// checkTogether finds what shows only when all layers are read: what is missing, and what
// does not go together.
func (l *loader) checkTogether() {
	l.need("role", "pr-reviewer")
	l.need("policy", "/etc/sidekey/policy")
	l.need("ca.dir", "/run/sidekey-ca")
	for _, key := range []string{"audit.otlp.ca_file", "audit.otlp.token_file"} {
		if o, ok := l.origins[key]; ok && l.says(key) && l.lacks("audit.otlp.endpoint") {
			o.wrong("there is no audit.otlp.endpoint that it could be for", howTo("audit.otlp.endpoint", "write it beside"))
		}
	}
	if !l.hasVault() {
		return
	}
	l.need("vault.address", "https://vault.example.com:8200")
	l.need("vault.auth.method", methodKubernetes)
	l.checkMethod()
}

// hasVault reports whether any layer names vault or one of its keys.
func (l *loader) hasVault() bool {
	_, ok := l.groups["vault"]
	return ok || l.first("vault") != nil
}

// first returns the origin of the first key below group that has one.
func (l *loader) first(group string) wrongFunc {
	for _, s := range settings {
		if o, ok := l.origins[s.key]; ok && strings.HasPrefix(s.key, group+".") {
			return o.wrong
		}
	}
	return nil
}

// need records a mistake if no layer has key. A value that is there but wrong is recorded
// already.
func (l *loader) need(key, example string) {
	if _, ok := l.origins[key]; ok {
		return
	}
	if _, ok := l.defaults[key]; ok {
		return
	}
	if group, wrong := l.missing(key); wrong != nil {
		wrong(fmt.Sprintf("the key %s is missing", key), howTo(key, "write "+inYAML(group, key, example)))
	}
}

// missing returns the place nearest to where key should be, and the mapping that it stands
// for. It returns nil if the file has something wrong there already.
func (l *loader) missing(key string) (group string, wrong wrongFunc) {
	for group := parent(key); ; group = parent(group) {
		if l.broken[group] {
			return "", nil
		}
		if v, ok := l.groups[group]; ok {
			return group, v.Wrong
		}
		if group == "" {
			return "", recordIn(&l.general, "config", "")
		}
		if wrong := l.first(group); wrong != nil {
			return "", wrong
		}
	}
}

// parent returns the key of the mapping that key stands in; "" is the whole file.
func parent(key string) string { return key[:max(0, strings.LastIndexByte(key, '.'))] }

// inYAML returns key with a value as one writes it into the mapping at group.
func inYAML(group, key, value string) string {
	names := strings.Split(strings.TrimPrefix(strings.TrimPrefix(key, group), "."), ".")
	return strings.Join(names, ": {") + ": " + value + strings.Repeat("}", len(names)-1)
}

// howTo says how to set key in any layer.
func howTo(key, inFile string) string {
	hint := inFile + ", or set " + envName(key)
	for _, s := range settings {
		if s.key == key && s.flag != "" {
			hint += " or --" + s.flag
		}
	}
	return hint
}
