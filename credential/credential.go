// Package credential obtains short-lived credentials and keeps them in memory for as long
// as they are valid, and no longer.
//
// A [Source] obtains one value (an [Issuance]) of one credential: from Vault, a file, a
// command. A [Cache] stands before a source: it hands out the current issuance, obtains the
// next one before the current one expires, lets all waiting requests share one call, and
// revokes what it replaced once the last request that used it has ended.
//
// Nothing here knows what an issuance is used for; package inject puts it on a request.
package credential

import (
	"context"
	"errors"
	"time"
)

// ErrRefused means that the source answered and said no: the path does not exist, the role
// may not read it, the reply has no such field. Asking again at once cannot help.
var ErrRefused = errors.New("credential refused")

// ErrUnavailable means that the source could not be asked, or did not answer in time. Asking
// again later may help.
var ErrUnavailable = errors.New("credential source unavailable")

// ErrClosed means that the session has ended and no credential is handed out any more.
var ErrClosed = errors.New("credential session ended")

// An Issuance is one value of a credential obtained from a source. It does not change after
// the source returned it. Printing it shows no secret.
type Issuance struct {
	// ID is the UUID that the cache gave to this issuance before the source was asked.
	ID string

	// Credential is the credential's name in the policy. The cache sets it.
	Credential string

	// Value is the secret itself. It is never empty.
	Value Secret

	// User is the name that goes with Value where the source has one (a database user name,
	// the user part of basic authentication); empty otherwise.
	User Secret

	// IssuedAt is when the source was asked, on this process's clock.
	IssuedAt time.Time

	// ExpiresAt is when the value must not be used any more. It is never zero: a source whose
	// values have no expiry of their own sets the time by which it must be read again.
	ExpiresAt time.Time

	// Origin says where the value can be found in the source's own records.
	Origin Origin
}

// Origin is what joins an issuance to the records of its source. It holds no secret. Which
// fields are set depends on the source.
type Origin struct {
	// Kind is the source's kind: "vault", "file", "exec" or "env".
	Kind string

	// Path is the Vault path, the file, or the command's name.
	Path string

	// RequestID is Vault's request_id, equal to request.id in Vault's audit log.
	RequestID string

	// CorrelationID is the X-Correlation-Id that the call carried.
	CorrelationID string

	// LeaseID is Vault's lease id; empty if there is no lease.
	LeaseID string

	// Version is the version of a Vault KV v2 secret; 0 if there is none.
	Version int
}

// A Source obtains values of one credential.
type Source interface {
	// Issue obtains a value now; it never returns an earlier one. It may block on the network
	// until ctx ends. The caller chooses id, a UUID that the source hands on to the records of
	// the system it asks (Vault's audit log) where it can. The source sets every field of the
	// result but ID and Credential.
	//
	// The error wraps [ErrRefused] or [ErrUnavailable] and holds no secret. Issue must be safe
	// for concurrent use.
	Issue(ctx context.Context, id string) (*Issuance, error)
}

// A Revoker is a [Source] whose issuances can be ended early. Caches look for it.
type Revoker interface {
	// Revoke ends iss at its source. It must be safe for concurrent use and return nil if
	// there is nothing to end.
	Revoke(ctx context.Context, iss *Issuance) error
}

// A Recorder keeps the trail of issuances. Its methods must be safe for concurrent use.
type Recorder interface {
	// Issued records iss before anything can use it. If it returns an error the issuance is
	// revoked and not used.
	Issued(iss *Issuance) error

	// Revoked records that iss was given up; err is what kept the source from revoking it, or
	// nil.
	Revoked(iss *Issuance, err error)
}
