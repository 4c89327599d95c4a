package vault_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/vault"
)

// jwtPart returns a part of a JWT, decoded.
func jwtPart(t *testing.T, token string, n int) []byte {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[n])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func signing(algorithm string) vault.SourceConfig {
	return vault.SourceConfig{Path: "transit/sign/app", JWT: &vault.JWTConfig{
		Algorithm: algorithm, TTL: 5 * time.Minute, Claims: map[string]any{"iss": int64(12345), "aud": []string{"a", "b"}, "sub": "s"},
	}}
}

// What Vault signs is a JWT that the key's public half verifies, and says what it is to say.
func TestJWT(t *testing.T) {
	for _, tt := range []struct{ algorithm, keyType, kid string }{
		{"RS256", "rsa-2048", ""}, {"PS256", "rsa-2048", "k1"}, {"ES256", "ecdsa-p256", "k1"},
		{"ES384", "ecdsa-p384", ""}, {"EdDSA", "ed25519", "k1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			key, err := srv.AddTransitKey("transit", "app", tt.keyType)
			if err != nil {
				t.Fatal(err)
			}
			cfg := signing(tt.algorithm)
			cfg.JWT.KeyID = tt.kid
			iss := issue(t, session(t, p).Source(cfg))
			header, claims := verifyJWT(t, string(iss.Value.Expose()), tt.algorithm, key)
			wantHeader := map[string]any{"alg": tt.algorithm, "typ": "JWT"}
			if tt.kid != "" {
				wantHeader["kid"] = tt.kid
			}
			begin := float64(time.Now().Add(-30 * time.Second).Unix())
			wantClaims := map[string]any{
				"iss": 12345.0, "aud": []any{"a", "b"}, "sub": "s",
				"iat": begin, "nbf": begin, "exp": begin + 300, "jti": "id",
			}
			if diff := cmp.Diff(wantHeader, header) + cmp.Diff(wantClaims, claims); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.algorithm, diff)
			}
			if end := time.Unix(int64(begin)+300, 0); iss.ExpiresAt.After(end) || end.Sub(iss.ExpiresAt) > 2*time.Second {
				t.Errorf("%s: expires %v, the JWT %v", tt.algorithm, iss.ExpiresAt, end)
			}
			if iss.Origin.LeaseID != "" || iss.Origin.RequestID == "" || iss.Origin.Version != 0 {
				t.Errorf("origin %+v", iss.Origin)
			}
			if n := count(srv, "transit/sign/app"); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A JWT is neither from the future nor over for an upstream whose clock is right, however wrong
// this process's is; and the issuance ends when it does.
func TestJWTWithAWrongClock(t *testing.T) {
	for _, tt := range []struct {
		off   time.Duration
		calls int // for two issuances
	}{
		{0, 2}, {3 * time.Second, 2}, {-3 * time.Second, 2},
		{time.Hour, 3}, {-time.Hour, 3}, {7 * time.Second, 3}, {-7 * time.Second, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, 10*time.Hour)
			key, err := srv.AddTransitKey("transit", "app", "ecdsa-p256")
			if err != nil {
				t.Fatal(err)
			}
			cfg := appRole(t, "http://127.0.0.1:8200")
			now := func() time.Time { return time.Now().Add(tt.off) }
			cfg.Now = func() time.Time { return now() }
			s := open(t, cfg)
			s.SetDial(p.dial)
			login(t, s)
			jwt := signing("ES256")
			jwt.JWT.TTL = time.Minute // begins 6 s ago
			src := s.Source(jwt)
			check := func() {
				t.Helper()
				iss := issue(t, src)
				_, claims := verifyJWT(t, string(iss.Value.Expose()), "ES256", key)
				iat, _ := claims["iat"].(float64)
				exp, _ := claims["exp"].(float64)
				upstream := float64(time.Now().Unix())
				if iat > upstream || exp < upstream+45 || exp-iat != 60 {
					t.Errorf("off by %v: iat %v, exp %v, at %v", tt.off, iat, exp, upstream)
				}
				ends := time.Unix(int64(exp), 0)
				if mine := iss.ExpiresAt.Add(-tt.off); mine.After(ends) || ends.Sub(mine) > 2*time.Second {
					t.Errorf("off by %v: the issuance ends %v before the JWT", tt.off, ends.Sub(mine))
				}
			}
			check()
			time.Sleep(20 * time.Second)
			check()
			if n := count(srv, "transit/sign/app"); n != tt.calls {
				t.Errorf("off by %v: %d calls, want %d", tt.off, n, tt.calls)
			}
			if tt.calls == 3 { // the clock is set right
				tt.off = 0
				check()
				check()
				if n := count(srv, "transit/sign/app"); n != 6 {
					t.Errorf("%d calls", n)
				}
			}
		})
	}
}

// signedBy answers with a signature and a Date; a Date of nil is none.
func signedBy(signature string, date func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if w.Header()["Date"] = nil; date != nil {
			w.Header().Set("Date", date())
		}
		fmt.Fprintf(w, `{"data":{"signature":%s}}`, signature)
	}
}

var ed25519Long = `"vault:v1:` + base64.StdEncoding.EncodeToString(make([]byte, 64)) + `"`

func TestJWTWithoutVaultsClock(t *testing.T) {
	for _, date := range []func() string{nil, func() string { return "yesterday" }} {
		synctest.Test(t, func(t *testing.T) {
			iss := issue(t, odd(t, signedBy(ed25519Long, date)).Source(signing("EdDSA")))
			if got := iss.ExpiresAt.Sub(iss.IssuedAt.Truncate(time.Second)); got != 270*time.Second {
				t.Errorf("lives for %v", got)
			}
		})
	}
}

// Clocks that jump about give an error, not a JWT that may be no good, and no endless loop.
func TestJWTWithClocksThatJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s := odd(t, signedBy(ed25519Long, func() string {
			calls++
			return time.Now().Add(time.Duration(calls) * time.Hour).UTC().Format(http.TimeFormat)
		}))
		_, err := s.Source(signing("EdDSA")).Issue(t.Context(), "id")
		wantError(t, err, credential.ErrUnavailable, "write transit/sign/app: by 1h0m0s: vault's clock and this one disagree")
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestJWTBadSignatures(t *testing.T) {
	long := func(n int) string { return `"vault:v1:` + base64.StdEncoding.EncodeToString(make([]byte, n)) + `"` }
	refused, unavailable := credential.ErrRefused, credential.ErrUnavailable
	for _, tt := range []struct {
		algorithm, signature string
		kind                 error
		says                 string
	}{
		{"RS256", long(70), refused, "a signature of 70 bytes is not one of RS256: the key is of another type"},
		{"PS256", long(64), refused, "another type"},
		{"ES256", long(96), refused, "another type"},
		{"ES384", long(64), refused, "another type"},
		{"EdDSA", long(71), refused, "another type"},
		{"EdDSA", long(0), refused, "another type"},
		{"EdDSA", `"` + canary + `"`, unavailable, "malformed"},
		{"EdDSA", `"vault:v1:` + canary + `!"`, unavailable, "malformed"},
		{"EdDSA", strings.Replace(long(64), "vault:", "", 1), unavailable, "malformed"},
		{"EdDSA", "null", unavailable, "malformed"},
		{"EdDSA", "7", unavailable, "holds no signature"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := odd(t, signedBy(tt.signature, nil))
			_, err := s.Source(signing(tt.algorithm)).Issue(t.Context(), "id")
			wantError(t, err, tt.kind, tt.says)
		})
	}
}

// A key of another type is found out by what Vault answers.
func TestJWTByAKeyOfAnotherType(t *testing.T) {
	for _, tt := range []struct{ algorithm, keyType string }{
		{"RS256", "ecdsa-p256"}, {"PS256", "ed25519"}, {"ES256", "rsa-2048"}, {"ES256", "ed25519"},
		{"ES256", "ecdsa-p384"}, {"ES384", "ecdsa-p256"}, {"EdDSA", "ecdsa-p256"}, {"EdDSA", "rsa-2048"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, p := stand(t, time.Hour)
			if _, err := srv.AddTransitKey("transit", "app", tt.keyType); err != nil {
				t.Fatal(err)
			}
			_, err := session(t, p).Source(signing(tt.algorithm)).Issue(t.Context(), "id")
			wantError(t, err, credential.ErrRefused, "write transit/sign/app")
		})
	}
}

// A second attempt, after Vault was unavailable, is for the same JWT.
func TestJWTTriesASecondTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		s := odd(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if bodies = append(bodies, string(b)); len(bodies) == 1 {
				w.WriteHeader(503)
				return
			}
			signedBy(ed25519Long, nil)(w, r)
		})
		issue(t, s.Source(signing("EdDSA")))
		if len(bodies) != 2 || bodies[0] != bodies[1] {
			t.Errorf("bodies %q", bodies)
		}
	})
}
