// Package credential obtains short-lived credentials and keeps them in memory for as long
// as they are valid, and no longer.
//
// A [Source] obtains one value (an [Issuance]) of one credential: from Vault, a file, a
// command. A [Cache] stands before a source: it hands out the current issuance, obtains the
// next one before the current one expires, or when an upstream refuses it, lets all waiting
// requests share one call, and revokes what it replaced once the last request that used it has
// ended.
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

	// Replaces is the ID of the issuance that an upstream refused and that this one was
	// obtained to replace; empty otherwise. The cache sets it.
	Replaces string

	// Value is the secret itself. It is never empty.
	Value Secret

	// User is the name that goes with Value where the source has one (a database user name,
	// the user part of basic authentication); empty otherwise.
	User Secret

	// Certificate is the PEM certificate chain, leaf first, that belongs to Value, which is then
	// the leaf's private key in PEM. It is nil unless the credential is a client certificate. It
	// is no secret.
	Certificate []byte

	// IssuedAt is when the source was asked, on this process's clock.
	IssuedAt time.Time

	// ExpiresAt is when the value must not be used any more. It is never zero: a source whose
	// values have no expiry of their own sets the time by which it must be read again.
	ExpiresAt time.Time

	// Origin says where the value can be found in the source's own records.
	Origin Origin

	uses *useGate // set by the cache
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
	// result but ID, Credential and Replaces.
	//
	// The error wraps [ErrRefused] or [ErrUnavailable] and holds no secret. Issue must be safe
	// for concurrent use.
	Issue(ctx context.Context, id string) (*Issuance, error)
}

// A Revoker is a [Source] whose issuances can be ended early. Caches look for it.
type Revoker interface {
	// Revoke ends iss at its source, and returns nil if there is nothing to end. It is called
	// for an expired issuance too, since what the source keeps of it may live longer. After an
	// error that wraps [ErrUnavailable] it is called again later. It must be safe for concurrent
	// use.
	Revoke(ctx context.Context, iss *Issuance) error
}

// A Recorder keeps the trail of issuances. Its methods must be safe for concurrent use.
type Recorder interface {
	// Issued records iss before anything can use it. If it returns an error the issuance is
	// revoked and not used.
	Issued(iss *Issuance) error

	// Revoked records that iss was given up, once for each that was recorded as issued. err is
	// nil, [ErrExpired] if iss had reached its expiry, or what kept the source from revoking it.
	Revoked(iss *Issuance, err error)
}
