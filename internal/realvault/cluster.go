package realvault

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// A Cluster stands for the part of a Kubernetes API server that Vault's auth method asks: the
// TokenReview (authentication.k8s.io/v1), over TLS. Like the real one it verifies the token's
// signature, expiry and audience, and that the service account still exists.
type Cluster struct {
	URL       string
	CACertPEM []byte

	issuer   *Issuer
	reviewer string // the token with which Vault asks

	mu      sync.Mutex
	deleted map[string]bool // uids of service accounts that are gone
	reviews int
}

// StartCluster starts a cluster that is stopped when the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{issuer: NewIssuer(t), deleted: map[string]bool{}}
	c.issuer.Name = "https://kubernetes.default.svc.cluster.local"
	c.reviewer = c.ServiceAccountToken(t, "vault", "vault", apiAudience)
	pair := SelfSigned(t, "127.0.0.1")
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c.URL, c.CACertPEM = srv.URL, pair.CertPEM
	return c
}

// apiAudience is the audience of tokens for the API server itself.
const apiAudience = "https://kubernetes.default.svc.cluster.local"

// ServiceAccountToken returns a projected token of a service account, as a pod has it.
func (c *Cluster) ServiceAccountToken(t testing.TB, namespace, name string, audiences ...string) string {
	t.Helper()
	return c.issuer.Sign(t, map[string]any{
		"aud": audiences, "sub": "system:serviceaccount:" + namespace + ":" + name, "jti": rand.Text(),
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"serviceaccount": map[string]any{"name": name, "uid": uid(namespace, name)},
			"pod":            map[string]any{"name": name + "-0", "uid": uid(namespace, name+"-0")},
		},
	})
}

// Delete deletes a service account: its tokens are no longer good.
func (c *Cluster) Delete(namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted[uid(namespace, name)] = true
}

// Reviews returns how many tokens were reviewed.
func (c *Cluster) Reviews() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reviews
}

func uid(namespace, name string) string { return "uid-of-" + namespace + "-" + name }

// tokenReview is the part of a TokenReview that is used.
type tokenReview struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences,omitempty"`
	} `json:"spec"`
	Status struct {
		Authenticated bool           `json:"authenticated,omitempty"`
		User          map[string]any `json:"user"`
		Audiences     []string       `json:"audiences,omitempty"`
		Error         string         `json:"error,omitempty"`
	} `json:"status"`
}

func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if _, ok := c.issuer.verify(bearer(r)); !ok {
		answer(w, http.StatusUnauthorized, map[string]any{
			"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Unauthorized", "code": 401,
		})
		return
	}
	var review tokenReview
	if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" ||
		json.NewDecoder(r.Body).Decode(&review) != nil {
		answer(w, http.StatusNotFound, map[string]any{
			"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
		})
		return
	}
	c.review(&review)
	answer(w, http.StatusCreated, review)
}

// review fills in the status.
func (c *Cluster) review(r *tokenReview) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reviews++
	r.APIVersion, r.Kind = "authentication.k8s.io/v1", "TokenReview"
	claims, ok := c.issuer.verify(r.Spec.Token)
	if !ok {
		r.Status.Error = "invalid bearer token"
		return
	}
	wanted := r.Spec.Audiences
	if len(wanted) == 0 {
		wanted = []string{apiAudience}
	}
	has, _ := claims["aud"].([]any)
	for _, audience := range wanted {
		if slices.Contains(has, any(audience)) {
			r.Status.Audiences = append(r.Status.Audiences, audience)
		}
	}
	k8s, _ := claims["kubernetes.io"].(map[string]any)
	account, _ := k8s["serviceaccount"].(map[string]any)
	id, _ := account["uid"].(string)
	switch {
	case len(r.Status.Audiences) == 0:
		r.Status.Error = "token audiences are invalid for the target audiences"
	case c.deleted[id]:
		r.Status.Error = "service account has been deleted"
		r.Status.Audiences = nil
	default:
		r.Status.Authenticated = true
		r.Status.User = map[string]any{"username": claims["sub"], "uid": id, "groups": []string{"system:serviceaccounts"}}
	}
}

func bearer(r *http.Request) string {
	const scheme = "Bearer "
	if h := r.Header.Get("Authorization"); len(h) > len(scheme) && h[:len(scheme)] == scheme {
		return h[len(scheme):]
	}
	return ""
}

func answer(w http.ResponseWriter, status int, body any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away
}
