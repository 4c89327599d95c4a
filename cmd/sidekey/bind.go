package main

import (
	"fmt"
	"net/http"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/credential/envsource"
	"github.com/sidekey/sidekey/credential/execsource"
	"github.com/sidekey/sidekey/credential/filesource"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
	"github.com/sidekey/sidekey/vault"
)

// A binder gives the names of a policy their meaning: a credential's name becomes a cache before
// a source, an injector and a transport of its own.
type binder struct {
	vault    *vault.Session // nil if the config has no vault section
	lookup   func(name string) (value string, ok bool)
	recorder credential.Recorder
	upstream proxy.UpstreamConfig
}

// bound is a generation with what has to be looked after while it serves, and closed after it.
type bound struct {
	*proxy.Generation
	credentials []boundCredential // in the order of the policy
	transports  []*http.Transport
}

// The kinds of sources, as records name them.
const (
	kindVault = "vault"
	kindFile  = "file"
	kindExec  = "exec"
	kindEnv   = "env"
)

// A boundCredential is a credential of the policy with the cache that stands before its source.
type boundCredential struct {
	name     string
	kind     string // of the source
	prefetch bool
	cache    *credential.Cache
}

// bind binds every credential of pol. Its error is a [policy.Mistakes].
func (b *binder) bind(pol *policy.Policy) (*bound, error) {
	plain := proxy.NewTransport(b.upstream)
	out := &bound{
		Generation: &proxy.Generation{Policy: pol, Plain: plain, Dial: plain.DialContext, Bindings: map[string]*proxy.Binding{}},
		transports: []*http.Transport{plain},
	}
	var mistakes policy.Mistakes
	for _, c := range pol.Credentials() {
		kind, source, err := b.source(c)
		if err != nil {
			mistakes = append(mistakes, policy.Mistake{Where: c.Where, Path: "credentials." + c.Name + ".from", Msg: err.Error()})
			continue
		}
		cache := credential.NewCache(credential.CacheConfig{Name: c.Name, Source: source, Recorder: b.recorder})
		transport := proxy.NewTransport(b.upstream)
		out.credentials = append(out.credentials, boundCredential{c.Name, kind, c.Prefetch, cache})
		out.transports = append(out.transports, transport)
		out.Bindings[c.Name] = &proxy.Binding{Credential: cache, Injector: injector(c.Inject), Transport: transport}
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return out, nil
}

// source returns where the values of c come from, and of which kind that is.
func (b *binder) source(c policy.Credential) (kind string, s credential.Source, err error) {
	switch from := c.From; {
	case from.Vault != nil && b.vault == nil:
		return "", nil, fmt.Errorf("comes from Vault, and no vault.address is configured")
	case from.Vault != nil:
		return kindVault, b.vault.Source(vaultSource(from.Vault, c.Inject.ClientCertificate != nil)), nil
	case from.File != nil:
		s, err = filesource.New(filesource.Config{Path: from.File.Path, MaxAge: from.File.MaxAge})
		return kindFile, s, err
	case from.Exec != nil:
		s, err = execsource.New(execsource.Config{Command: from.Exec.Command, MaxAge: from.Exec.MaxAge, Timeout: from.Exec.Timeout})
		return kindExec, s, err
	case from.Env != nil:
		value, ok := b.lookup(from.Env.Name)
		if !ok || value == "" {
			return "", nil, fmt.Errorf("environment variable %s is not set", from.Env.Name)
		}
		s, err = envsource.New(from.Env.Name, value)
		return kindEnv, s, err
	}
	return "", nil, fmt.Errorf("names no source")
}

// vaultSource says in Vault's words what the policy asks of it.
func vaultSource(v *policy.VaultFrom, certificate bool) vault.SourceConfig {
	cfg := vault.SourceConfig{
		Path: v.Path, Field: v.Field, UserField: v.UserField, MaxAge: v.MaxAge,
		Write: v.Write, Data: v.Data, Certificate: certificate,
	}
	if v.JWT != nil {
		cfg.JWT = &vault.JWTConfig{Algorithm: v.JWT.Algorithm, KeyID: v.JWT.KeyID, Claims: v.JWT.Claims, TTL: v.JWT.TTL}
	}
	return cfg
}

// injector never returns nil for a credential that came out of [policy.Parse]; for any other it
// does, and [proxy.New] refuses the binding.
func injector(i policy.Inject) inject.Injector {
	switch {
	case i.Bearer != nil:
		return inject.Bearer()
	case i.Basic != nil:
		return inject.Basic(i.Basic.User)
	case i.Header != nil:
		return inject.Header(i.Header.Name, i.Header.Prefix)
	case i.Query != nil:
		return inject.Query(i.Query.Name)
	case i.ClientCertificate != nil:
		return inject.ClientCertificate()
	}
	return nil
}

// close ends the caches, which revokes what they hold, and drops idle connections.
func (b *bound) close(revoke func(*credential.Cache)) {
	for _, c := range b.credentials {
		revoke(c.cache)
	}
	for _, t := range b.transports {
		t.CloseIdleConnections()
	}
}
