package main

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"

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
	session  policy.Session // what data written to Vault can name
}

// bound is a generation with what has to be looked after while it serves, and closed after it.
type bound struct {
	*proxy.Generation
	credentials []*boundCredential // in the order of the policy
	plain       *http.Transport
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
	name      string
	kind      string // of the source
	prefetch  bool
	from      policy.From
	inject    policy.Inject
	cache     *credential.Cache
	transport *http.Transport
	binding   *proxy.Binding
}

// bind binds every credential of pol, as generation 1. Its error is a [policy.Mistakes].
func (b *binder) bind(pol *policy.Policy) (*bound, error) {
	plain := proxy.NewTransport(b.upstream)
	return b.rebind(pol, &bound{Generation: &proxy.Generation{}, plain: plain})
}

// rebind binds every credential of pol, as the generation after former. A credential that comes from
// the same place and is put on requests in the same way is shared with former. The error is a
// [policy.Mistakes].
func (b *binder) rebind(pol *policy.Policy, former *bound) (*bound, error) {
	out := &bound{plain: former.plain, Generation: &proxy.Generation{
		Number: former.Number + 1, Policy: pol, Plain: former.plain, Dial: former.plain.DialContext, Bindings: map[string]*proxy.Binding{},
	}}
	var mistakes policy.Mistakes
	for _, c := range pol.Credentials() {
		bc := former.same(c)
		if bc == nil {
			var err error
			if bc, err = b.credential(c); err != nil {
				mistakes = append(mistakes, policy.Mistake{Where: c.Where, Path: "credentials." + c.Name + ".from", Msg: err.Error()})
				continue
			}
		}
		out.credentials = append(out.credentials, bc)
		out.Bindings[c.Name] = bc.binding
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return out, nil
}

func (b *binder) credential(c policy.Credential) (*boundCredential, error) {
	kind, source, err := b.source(c)
	if err != nil {
		return nil, err
	}
	cache := credential.NewCache(credential.CacheConfig{Name: c.Name, Source: source, Recorder: b.recorder})
	transport := proxy.NewTransport(b.upstream)
	return &boundCredential{
		name: c.Name, kind: kind, prefetch: c.Prefetch, from: c.From, inject: c.Inject, cache: cache, transport: transport,
		binding: &proxy.Binding{Credential: cache, Injector: injector(c.Inject), Transport: transport},
	}, nil
}

// same returns the credential of b that c is, too; nil if there is none.
func (b *bound) same(c policy.Credential) *boundCredential {
	for _, bc := range b.credentials {
		if bc.name == c.Name && reflect.DeepEqual(bc.from, c.From) && reflect.DeepEqual(bc.inject, c.Inject) {
			return bc
		}
	}
	return nil
}

// without returns the credentials of b that other does not have.
func (b *bound) without(other *bound) (out []*boundCredential) {
	for _, bc := range b.credentials {
		if !slices.Contains(other.credentials, bc) {
			out = append(out, bc)
		}
	}
	return out
}

// source returns where the values of c come from, and of which kind that is.
func (b *binder) source(c policy.Credential) (kind string, s credential.Source, err error) {
	switch from := c.From; {
	case from.Vault != nil && b.vault == nil:
		return "", nil, fmt.Errorf("comes from Vault, and no vault.address is configured")
	case from.Vault != nil:
		return kindVault, b.vault.Source(b.vaultSource(from.Vault, c.Inject.ClientCertificate != nil)), nil
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
func (b *binder) vaultSource(v *policy.VaultFrom, certificate bool) vault.SourceConfig {
	cfg := vault.SourceConfig{
		Path: v.Path, Field: v.Field, UserField: v.UserField, MaxAge: v.MaxAge,
		Write: v.Write, Data: v.DataFor(b.session), Certificate: certificate,
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

// closeIdle drops the connections that no request uses.
func (c *boundCredential) closeIdle() {
	c.transport.CloseIdleConnections()
	c.binding.CloseIdleConnections()
}
