// Package envsource holds a credential that was in this process's environment at start, for
// laptops. The caller read the variable, and removes it from what child processes get.
package envsource

import (
	"context"
	"fmt"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// maxAge is how long one issuance is used. The next one has the same value: a process's
// environment does not change.
const maxAge = 24 * time.Hour

// A Source hands out one value for as long as the process lives. It implements
// [credential.Source].
type Source struct {
	name  string
	value func() []byte // a fresh copy each time; a closure does not print
}

// New returns a source of value, which the caller found in the environment variable name. It
// does not read the environment. An empty value is an error.
func New(name, value string) (*Source, error) {
	if value == "" {
		return nil, fmt.Errorf("env source: %s is empty or not set", name)
	}
	return &Source{name: name, value: func() []byte { return []byte(value) }}, nil
}

// Issue implements [credential.Source]. It does not fail. Each issuance has bytes of its own,
// so that wiping one leaves the others.
func (s *Source) Issue(_ context.Context, _ string) (*credential.Issuance, error) {
	now := time.Now()
	return &credential.Issuance{
		Value:     credential.NewSecret(s.value()),
		IssuedAt:  now,
		ExpiresAt: now.Add(maxAge),
		Origin:    credential.Origin{Kind: "env", Path: s.name},
	}, nil
}
