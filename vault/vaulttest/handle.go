package vaulttest

import (
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
)

var discard = log.New(io.Discard, "", 0)

// An answer is a reply before it is written.
type answer struct {
	status  int
	body    map[string]any // nil for no body
	leaseID string
}

func refuse(status int, texts ...string) answer {
	return answer{status: status, body: map[string]any{"errors": append([]string{}, texts...)}}
}

var (
	noContent        = answer{status: http.StatusNoContent}
	permissionDenied = refuse(http.StatusForbidden, "permission denied")
	notFound         = refuse(http.StatusNotFound)
)

var operations = map[string]string{
	http.MethodGet: "read", http.MethodPost: "update", http.MethodPut: "update",
	http.MethodDelete: "delete", "LIST": "list",
}

// ServeHTTP implements [http.Handler]. A server does not need it called: it serves itself.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.wait(r.Context())
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	var body map[string]any
	if b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20)); err != nil || len(b) > 0 && json.Unmarshal(b, &body) != nil {
		body = nil
	}
	entry := Request{
		ID:            uuid.NewString(),
		Operation:     operations[r.Method],
		Path:          path,
		CorrelationID: r.Header.Get("X-Correlation-Id"),
		Namespace:     r.Header.Get("X-Vault-Namespace"),
		UserAgent:     r.UserAgent(),
		Header:        slices.Sorted(maps.Keys(r.Header)),
	}
	a := s.handle(&entry, caller{r.Header.Get("X-Vault-Token"), leaf(r)}, body)
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat)) // as of the clock that all else goes by
	write(w, a, entry.ID)
}

// handle does what the request asks and records it.
func (s *Server) handle(entry *Request, by caller, body map[string]any) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		panic(http.ErrAbortHandler) // net/http drops the connection
	}
	var a answer
	wrapping, isWrapping := strings.CutPrefix(entry.Path, "sys/wrapping/")
	switch {
	case len(s.failing) > 0:
		a = refuse(s.failing[0], "a failure that the test asked for")
		s.failing = s.failing[1:]
	case entry.Path == "sys/health":
		a = s.health()
	case s.sealed:
		a = refuse(http.StatusServiceUnavailable, "Vault is sealed")
	case strings.HasPrefix(entry.Path, "auth/") && strings.HasSuffix(entry.Path, "/login"):
		a = s.login(entry, by, body)
	case isWrapping:
		a = s.wrapping(wrapping, by.token, body)
	default:
		a = s.authorized(entry, by.token, body)
	}
	entry.Time, entry.Status, entry.LeaseID = s.now(), a.status, a.leaseID
	s.requests = append(s.requests, *entry)
	return a
}

// authorized handles the requests that need a token.
func (s *Server) authorized(entry *Request, tokenValue string, body map[string]any) answer {
	t := s.token(tokenValue)
	if t == nil {
		return permissionDenied
	}
	entry.DisplayName, entry.Metadata = t.display, t.metadata
	path := entry.Path
	if !t.may(path) || !t.root && slices.ContainsFunc(s.denied, func(p string) bool { return strings.HasPrefix(path, p) }) {
		return permissionDenied
	}
	leaseID, revoking := strings.CutPrefix(path, "sys/leases/revoke/")
	tokenRole, creating := strings.CutPrefix(path, "auth/token/create/")
	switch {
	case path == "auth/token/lookup-self" && entry.Operation == "read":
		return s.lookup(tokenValue, t)
	case path == "auth/token/revoke-self" && entry.Operation == "update":
		return s.revokeSelf(tokenValue, t)
	case creating && entry.Operation == "update":
		return s.createToken(tokenValue, t, tokenRole, body)
	case path == "sys/leases/revoke" && entry.Operation == "update":
		leaseID, _ = body["lease_id"].(string)
		s.revokeLease(leaseID)
		return noContent
	case revoking && entry.Operation == "update":
		s.revokeLease(leaseID)
		return noContent
	case s.engines[path] != nil:
		return s.engines[path](entry.Operation, tokenValue, body)
	case entry.Operation != "read":
		return refuse(http.StatusMethodNotAllowed, "unsupported operation")
	}
	if d := s.dynamic[path]; d != nil {
		return s.issue(path, d, tokenValue)
	}
	if kv := s.kv[path]; kv != nil {
		return kv.read()
	}
	return notFound
}

func (s *Server) health() answer {
	a := answer{status: http.StatusOK, body: map[string]any{
		"initialized": true, "sealed": s.sealed, "standby": false, "version": "stand-in",
	}}
	if s.sealed {
		a.status = http.StatusServiceUnavailable
	}
	return a
}

// ok returns a reply in the form that all of Vault's 200 replies have.
func ok(data, auth map[string]any) answer {
	return answer{status: http.StatusOK, body: map[string]any{
		"lease_id": "", "renewable": false, "lease_duration": 0,
		"data": orNull(data), "auth": orNull(auth), "wrap_info": nil, "warnings": nil,
	}}
}

// orNull keeps a nil map from becoming a typed one in the reply.
func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

func write(w http.ResponseWriter, a answer, requestID string) {
	w.Header().Set("Cache-Control", "no-store")
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	body := a.body
	if _, shaped := body["lease_id"]; shaped {
		body = maps.Clone(body)
		body["request_id"] = requestID
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(body) // the client went away
}
