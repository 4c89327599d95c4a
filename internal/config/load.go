package config

import (
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

// Load reads the configuration: defaults, then the file at path, then the SIDEKEY_* variables
// of environ, which is as os.Environ has it, then the flags of [Flags] that the user gave. An
// empty path means no file, a nil flags none. A variable without a value counts as not set.
//
// Load opens no other file than path. The error is a [policy.Mistakes] with everything that is
// wrong, in the order of the file, then by variable, then by flag. A mistake's Where names the
// layer: "config.yaml:12:3", "env SIDEKEY_LISTEN", "flag --listen"; it is path alone if the
// file cannot be read, and "config" for what is missing if there is no file.
func Load(path string, environ []string, flags *pflag.FlagSet) (*Config, error) {
	return Defaults(nil).Load(path, environ, flags)
}

// Defaults are defaults of a command's own, by key, as one would write them. A key that has one
// is not missing when no layer names it, even if its default is empty: the command finds a value
// by itself then.
type Defaults map[string]string

// Load is like the function, with the defaults of d in place of the usual ones.
func (d Defaults) Load(path string, environ []string, flags *pflag.FlagSet) (*Config, error) {
	l := newLoader(d)
	if path != "" {
		src, err := readFile(path, strictyaml.MaxSize)
		if err != nil {
			return nil, policy.Mistakes{{Where: path, Msg: "read the configuration: " + err.Error()}}
		}
		l.readFile(path, src)
	}
	l.readEnv(environ)
	l.readFlags(flags)
	l.checkTogether()
	if ms := l.mistakes(); len(ms) > 0 {
		return nil, ms
	}
	return l.config(), nil
}

// readFile returns the file at path; if it is larger than most bytes, one byte more than that. The
// error does not name the path.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var src []byte
		if src, err = io.ReadAll(io.LimitReader(f, most+1)); err == nil {
			return src, nil
		}
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, pe.Err
	}
	return nil, err
}

// mistakes returns all that is wrong, in a stable order.
func (l *loader) mistakes() policy.Mistakes {
	all := l.general
	if l.doc != nil {
		if ms, ok := errors.AsType[policy.Mistakes](l.doc.Err()); ok {
			all = append(all, ms...)
		}
	}
	byWhere := func(a, b policy.Mistake) int { return strings.Compare(a.Where, b.Where) }
	slices.SortStableFunc(l.env, byWhere)
	slices.SortStableFunc(l.flags, byWhere)
	return slices.Concat(all, l.env, l.flags)
}

// A layer is one origin of values; a later one has the last word.
type layer int

const (
	layerFile layer = iota
	layerEnv
	layerFlags
)

// An origin is the place of a value, where what is wrong with it is recorded.
type origin struct {
	layer layer
	where string
	wrong wrongFunc
}

// A loader puts the layers together.
type loader struct {
	v        *viper.Viper
	defaults Defaults
	origins  map[string]origin           // key to the layer with the last word on it; a default has none
	groups   map[string]strictyaml.Value // mapping to its place in the file; "" is the whole file
	broken   map[string]bool             // keys that have something of the wrong kind in the file

	doc     *strictyaml.Document // nil without a file
	general policy.Mistakes      // of no layer
	env     policy.Mistakes
	flags   policy.Mistakes
}

func newLoader(defaults Defaults) *loader {
	l := &loader{
		defaults: defaults,
		// viper splits keys at its delimiter and folds those of nested maps. Here its keys are
		// flat, with their dots, and its values are typed, so it does neither.
		v:       viper.NewWithOptions(viper.KeyDelimiter("\x1f")),
		origins: map[string]origin{},
		groups:  map[string]strictyaml.Value{},
		broken:  map[string]bool{},
	}
	for _, s := range settings {
		if fallback := defaults.of(s); fallback != "" {
			// A fallback is right: a test loads the defaults.
			l.v.SetDefault(s.key, s.form.text(fallback, func(msg, hint string) {}))
		}
	}
	return l
}

func (l *loader) config() *Config {
	v := l.v
	c := &Config{
		where:  map[string]string{},
		Role:   v.GetString("role"),
		Policy: v.GetString("policy"),
		Listen: v.GetString("listen"),
		Ops:    v.GetString("ops"),
		Admin:  v.GetString("admin"),
		CADir:  v.GetString("ca.dir"),
		Session: Session{
			ID:          v.GetString("session.id"),
			RequestedBy: v.GetString("session.requested_by"),
			PodInfo:     v.GetString("session.podinfo"),
			TTL:         v.GetDuration("session.ttl"),
		},
		Upstream: Upstream{CAFile: v.GetString("upstream.ca_file")},
		Audit: Audit{
			Path: v.GetString("audit.path"),
			Sync: v.GetBool("audit.sync"), Segment: v.GetInt64("audit.segment"), Keep: v.GetInt("audit.keep"),
			OTLP: OTLP{
				Endpoint:  v.GetString("audit.otlp.endpoint"),
				CAFile:    v.GetString("audit.otlp.ca_file"),
				TokenFile: v.GetString("audit.otlp.token_file"),
			},
		},
		RefuseEarly: v.GetString("connect_refusal") == refuseEarly,
		DrainGrace:  v.GetDuration("drain_grace"),
		LogLevel:    v.GetString("log_level"),
	}
	for key, o := range l.origins {
		c.where[key] = o.where
	}
	c.Upstream.AllowCIDRs, _ = v.Get("upstream.allow_cidrs").([]netip.Prefix)
	c.Upstream.Resolve, _ = v.Get("upstream.resolve").(map[string]netip.Addr)
	if c.Ops == opsOff {
		c.Ops = ""
	}
	if l.hasVault() {
		c.Vault = l.vault()
	}
	return c
}

func (l *loader) vault() *Vault {
	v := l.v
	out := &Vault{
		Address:          v.GetString("vault.address"),
		Namespace:        v.GetString("vault.namespace"),
		CAFile:           v.GetString("vault.ca_file"),
		SessionTokenRole: v.GetString("vault.session_token_role"),
		Auth: Auth{
			Method:          v.GetString("vault.auth.method"),
			Mount:           v.GetString("vault.auth.mount"),
			Role:            v.GetString("vault.auth.role"),
			TokenFile:       v.GetString("vault.auth.token_file"),
			RoleID:          v.GetString("vault.auth.role_id"),
			RoleIDFile:      v.GetString("vault.auth.role_id_file"),
			SecretIDFile:    v.GetString("vault.auth.secret_id_file"),
			SecretIDWrapped: v.GetBool("vault.auth.secret_id_wrapped"),
			CertFile:        v.GetString("vault.auth.cert_file"),
			KeyFile:         v.GetString("vault.auth.key_file"),
		},
	}
	out.Auth.Verify, _ = v.Get("vault.auth.verify").([]string)
	return out
}
