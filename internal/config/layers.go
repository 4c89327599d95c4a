package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

func (l *loader) readFile(path string, src []byte) {
	doc, root := strictyaml.Parse(path, src)
	l.doc = doc
	values := map[string]any{}
	if root.Present() {
		l.readGroup("", root, values)
	} else {
		l.broken[""] = true
	}
	l.merge(values)
}

// readGroup reads the mapping at key, and those in it, into values.
func (l *loader) readGroup(key string, v strictyaml.Value, values map[string]any) {
	m := v.Mapping(namesIn(key)...)
	if !m.Value().Present() {
		l.broken[key] = true
		return
	}
	l.groups[key] = v
	seen := map[string]bool{}
	for _, s := range settings {
		name, leaf := nameIn(key, s.key)
		if name == "" || seen[name] || !m.Has(name) {
			continue
		}
		seen[name] = true
		value := m.Get(name)
		if !leaf {
			l.readGroup(join(key, name), value, values)
			continue
		}
		l.origins[s.key] = origin{layerFile, value.Where(), value.Wrong}
		if values[s.key] = s.form.file(value); values[s.key] == nil {
			l.broken[s.key] = true
		}
	}
	for _, p := range planned {
		if name, leaf := nameIn(key, p); leaf && m.Has(name) {
			m.Key(name).Wrong(notYet, notYetHint)
		}
	}
}

const (
	notYet     = "not supported yet in this version of sidekey"
	notYetHint = "remove it"
)

// namesIn returns the names that the mapping at key may have.
func namesIn(key string) []string {
	var names []string
	add := func(full string) {
		if name, _ := nameIn(key, full); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, s := range settings {
		add(s.key)
	}
	for _, p := range planned {
		add(p)
	}
	return names
}

// nameIn returns the name by which the mapping at key begins the way to full, and whether it
// ends there too. The name is empty if the way does not pass key.
func nameIn(key, full string) (name string, leaf bool) {
	rest := full
	if key != "" {
		var ok bool
		if rest, ok = strings.CutPrefix(full, key+"."); !ok {
			return "", false
		}
	}
	name, _, more := strings.Cut(rest, ".")
	return name, !more
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// readEnv reads the variables that begin with SIDEKEY_.
func (l *loader) readEnv(environ []string) {
	keys := map[string]setting{}
	for _, s := range settings {
		keys[envName(s.key)] = s
	}
	values := map[string]any{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envConfig {
			continue
		}
		s, known := keys[name]
		wrong := recordIn(&l.env, "env "+name, s.key)
		switch {
		case !known:
			wrongVariable(name, wrong)
		case value != "":
			l.origins[s.key] = origin{layerEnv, "env " + name, wrong}
			values[s.key] = s.form.text(value, wrong)
		}
	}
	l.merge(values)
}

// merge puts values over those of the file.
func (l *loader) merge(values map[string]any) {
	if err := l.v.MergeConfigMap(values); err != nil {
		recordIn(&l.general, "config", "")("put the layers together: "+err.Error(), "")
	}
}

// ofKubernetes matches what the kubelet sets for each Service of the namespace, less the
// prefix, if the Service is called sidekey or sidekey-something.
var ofKubernetes = regexp.MustCompile(`^(.+_)?(SERVICE_(HOST|PORT)(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?)$`)

func wrongVariable(name string, wrong wrongFunc) {
	rest := strings.TrimPrefix(name, envPrefix)
	var known []string
	for _, p := range planned {
		if envName(p) == name {
			wrong(notYet, notYetHint)
			return
		}
	}
	for _, s := range settings {
		known = append(known, strings.ToLower(strings.TrimPrefix(envName(s.key), envPrefix)))
	}
	hint := "write the key in upper case after SIDEKEY_, such as SIDEKEY_VAULT_ADDRESS for vault.address"
	if near := strictyaml.Nearest(rest, known); near != "" {
		hint = "did you mean " + envPrefix + strings.ToUpper(near) + "?"
	} else if ofKubernetes.MatchString(rest) {
		hint = "if Kubernetes sets it for a Service, write enableServiceLinks: false in the pod's spec"
	}
	wrong("unknown variable", hint)
}

// readFlags reads the flags that were given; flags may be nil.
func (l *loader) readFlags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	for _, s := range settings {
		// No flag is called "".
		if f := flags.Lookup(s.flag); f != nil && f.Changed {
			wrong := recordIn(&l.flags, "flag --"+s.flag, s.key)
			l.origins[s.key] = origin{layerFlags, "flag --" + s.flag, wrong}
			l.v.Set(s.key, s.form.text(f.Value.String(), wrong))
		}
	}
}

// recordIn returns a function that records mistakes of one place.
func recordIn(ms *policy.Mistakes, where, path string) wrongFunc {
	return func(msg, hint string) {
		*ms = append(*ms, policy.Mistake{Where: where, Path: path, Msg: msg, Hint: hint})
	}
}
