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

// bound is a generation with what has to be closed after it.
type bound struct {
	*proxy.Generation
	caches     []*credential.Cache
	transports []*http.Transport
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
		source, err := b.source(c.From)
		if err != nil {
			mistakes = append(mistakes, policy.Mistake{Where: c.Where, Path: "credentials." + c.Name + ".from", Msg: err.Error()})
			continue
		}
		cache := credential.NewCache(credential.CacheConfig{Name: c.Name, Source: source, Recorder: b.recorder})
		transport := proxy.NewTransport(b.upstream)
		out.caches = append(out.caches, cache)
		out.transports = append(out.transports, transport)
		out.Bindings[c.Name] = &proxy.Binding{Credential: cache, Injector: injector(c.Inject), Transport: transport}
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return out, nil
}

func (b *binder) source(from policy.From) (credential.Source, error) {
	switch {
	case from.Vault != nil && b.vault == nil:
		return nil, fmt.Errorf("comes from Vault, and no vault.address is configured")
	case from.Vault != nil:
		v := from.Vault
		return b.vault.Source(vault.SourceConfig{Path: v.Path, Field: v.Field, UserField: v.UserField, MaxAge: v.MaxAge}), nil
	case from.File != nil:
		return filesource.New(filesource.Config{Path: from.File.Path, MaxAge: from.File.MaxAge})
	case from.Exec != nil:
		return execsource.New(execsource.Config{Command: from.Exec.Command, MaxAge: from.Exec.MaxAge, Timeout: from.Exec.Timeout})
	case from.Env != nil:
		value, ok := b.lookup(from.Env.Name)
		if !ok || value == "" {
			return nil, fmt.Errorf("environment variable %s is not set", from.Env.Name)
		}
		return envsource.New(from.Env.Name, value)
	}
	return nil, fmt.Errorf("names no source")
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
	}
	return nil
}

// close ends the caches, which revokes what they hold, and drops idle connections.
func (b *bound) close(revoke func(*credential.Cache)) {
	for _, c := range b.caches {
		revoke(c)
	}
	for _, t := range b.transports {
		t.CloseIdleConnections()
	}
}
