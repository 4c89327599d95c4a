package mitmca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
)

var FindRoots = findRoots

// Sign signs template as whoever stole the CA's key would, without the checks of Leaf.
func (ca *CA) Sign(template *x509.Certificate) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, ca.cert, ca.leafKey.Public(), ca.key)
}

// Keys returns the private keys, to look for them where they must not be.
func (ca *CA) Keys() []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{ca.key, ca.leafKey} }

// Cached returns how many leaves are kept.
func (ca *CA) Cached() int { return ca.leaves.len() }
