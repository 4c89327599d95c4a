package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http"
)

// AddTransitKey makes a key of one of the types "rsa-2048", "ecdsa-p256", "ecdsa-p384" and
// "ed25519" that signs at <mount>/sign/<name>, and returns its public key. It takes the
// parameters input, hash_algorithm, prehashed, signature_algorithm, salt_length and
// marshaling_algorithm as Vault does; others are ignored.
func (s *Server) AddTransitKey(mount, name, keyType string) (crypto.PublicKey, error) {
	key, err := newKey(keyType)
	if err != nil {
		return nil, fmt.Errorf("vaulttest: %w", err)
	}
	s.addEngine(mount+"/sign/"+name, func(operation, _ string, body map[string]any) answer {
		if operation != "update" {
			return refuse(http.StatusMethodNotAllowed, "unsupported operation")
		}
		text := func(name string) string { v, _ := body[name].(string); return v }
		prehashed, _ := body["prehashed"].(bool)
		input, err := base64.StdEncoding.DecodeString(text("input"))
		if err != nil || len(input) == 0 {
			return refuse(http.StatusBadRequest, "unable to decode input")
		}
		o := signOptions{
			hash: text("hash_algorithm"), prehashed: prehashed, pkcs1: text("signature_algorithm") == "pkcs1v15",
			salt: text("salt_length"), jws: text("marshaling_algorithm") == "jws",
		}
		signature, err := o.sign(key, input)
		if err != nil {
			return refuse(http.StatusBadRequest, err.Error())
		}
		encoded := base64.StdEncoding.EncodeToString(signature)
		if o.jws {
			encoded = base64.RawURLEncoding.EncodeToString(signature)
		}
		return ok(map[string]any{"signature": "vault:v1:" + encoded, "key_version": 1}, nil)
	})
	return key.Public(), nil
}

func newKey(keyType string) (crypto.Signer, error) {
	switch keyType {
	case "rsa-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("key type %q is not known", keyType)
}

type signOptions struct {
	hash, salt            string
	prehashed, pkcs1, jws bool
}

func (o signOptions) sign(key crypto.Signer, input []byte) ([]byte, error) {
	if key, ok := key.(ed25519.PrivateKey); ok {
		if o.prehashed {
			return nil, fmt.Errorf("only Pure Ed25519 signatures supported, prehashed must be false")
		}
		return ed25519.Sign(key, input), nil
	}
	hash, digest := crypto.SHA256, input
	switch {
	case o.hash == "sha2-384":
		hash = crypto.SHA384
		if sum := sha512.Sum384(input); !o.prehashed {
			digest = sum[:]
		}
	case o.hash != "" && o.hash != "sha2-256":
		return nil, fmt.Errorf("unsupported hash algorithm")
	case !o.prehashed:
		sum := sha256.Sum256(input)
		digest = sum[:]
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return ecdsaSignature(key, digest, o.jws)
	case *rsa.PrivateKey:
		if o.pkcs1 {
			return rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
		}
		salt := rsa.PSSSaltLengthAuto
		if o.salt == "hash" {
			salt = rsa.PSSSaltLengthEqualsHash
		}
		return rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: salt})
	}
	return nil, fmt.Errorf("unsupported key type")
}

// ecdsaSignature signs in ASN.1 or, for JWS, as two numbers of the length of the curve
// (RFC 7518 section 3.4).
func ecdsaSignature(key *ecdsa.PrivateKey, digest []byte, jws bool) ([]byte, error) {
	if !jws {
		return ecdsa.SignASN1(rand.Reader, key, digest)
	}
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	return signature, nil
}
