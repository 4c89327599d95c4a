package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// An engine answers the requests for one path of a secrets engine. It is called with the server
// locked.
type engine func(operation, token string, body map[string]any) answer

func (s *Server) addEngine(path string, e engine) {
	s.set(func() {
		if s.engines == nil {
			s.engines = map[string]engine{}
		}
		s.engines[path] = e
	})
}

// AddWrite makes every write of path return what reply returns for the data written, with a lease
// of ttl, or with none if ttl is 0. n counts the writes from 1. A reply of nil is 204, and a read
// of path 405. reply is called with the server locked.
func (s *Server) AddWrite(path string, ttl time.Duration, reply func(n int, data map[string]any) map[string]any) {
	n := 0
	s.addEngine(path, func(operation, token string, body map[string]any) answer {
		if operation != "update" {
			return refuse(http.StatusMethodNotAllowed, "unsupported operation")
		}
		n++
		data := reply(n, body)
		if data == nil {
			return noContent
		}
		return s.leased(ok(data, nil), path, ttl, token)
	})
}

// AddIdentityRole makes identity/oidc/token/<role> return a JWT (ES256) that lives for ttl.
func (s *Server) AddIdentityRole(role string, ttl time.Duration) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	s.addEngine("identity/oidc/token/"+role, func(operation, _ string, _ map[string]any) answer {
		if operation != "read" {
			return refuse(http.StatusMethodNotAllowed, "unsupported operation")
		}
		now := s.now()
		token, err := identityToken(key, map[string]any{
			"iss": s.url + "/v1/identity/oidc", "aud": role, "sub": uuid.NewString(),
			"iat": now.Unix(), "exp": now.Add(ttl).Unix(),
		})
		if err != nil {
			return refuse(http.StatusInternalServerError, "cannot sign")
		}
		return ok(map[string]any{"client_id": role, "token": token, "ttl": int64(ttl / time.Second)}, nil)
	})
	return nil
}

func identityToken(key *ecdsa.PrivateKey, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"1"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	signature, err := ecdsaSignature(key, digest[:], true)
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// leased puts a lease of ttl on a reply; none if ttl is 0. The caller holds s.mu.
func (s *Server) leased(a answer, path string, ttl time.Duration, token string) answer {
	if ttl == 0 {
		return a
	}
	l := &lease{Lease{ID: path + "/" + uuid.NewString(), Path: path, ExpiresAt: s.now().Add(ttl)}, token}
	s.leases[l.ID] = l
	a.leaseID = l.ID
	a.body["lease_id"], a.body["lease_duration"] = l.ID, int64(ttl/time.Second)
	return a
}
