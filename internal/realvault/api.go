package realvault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Call makes one request to path, without "/v1/", and returns the status and the reply, nil if it
// has no body. An empty token sends none; a nil body sends none.
func (s *Server) Call(t testing.TB, method, path, token string, body any) (status int, reply map[string]any) {
	t.Helper()
	status, b, err := s.call(method, path, token, "", body)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &reply); err != nil {
			t.Fatalf("%s %s: status %d: %v", method, path, status, err)
		}
	}
	return status, reply
}

// Must is Call for a request that Vault must answer with 200 or 204.
func (s *Server) Must(t testing.TB, method, path, token string, body any) map[string]any {
	t.Helper()
	status, reply := s.Call(t, method, path, token, body)
	if status/100 != 2 {
		t.Fatalf("%s %s: status %d: %v", method, path, status, reply["errors"])
	}
	return reply
}

// Write writes body to path with the root token and returns the reply's data, if it has any.
func (s *Server) Write(t testing.TB, path string, body map[string]any) map[string]any {
	t.Helper()
	data, _ := s.Must(t, "POST", path, s.RootToken, body)["data"].(map[string]any)
	return data
}

// Read reads path with the root token and returns the reply's data.
func (s *Server) Read(t testing.TB, path string) map[string]any {
	t.Helper()
	data, _ := s.Must(t, "GET", path, s.RootToken, nil)["data"].(map[string]any)
	return data
}

// list returns the keys below path; none if there is no such path.
func (s *Server) list(t testing.TB, path string) []string {
	t.Helper()
	status, reply := s.Call(t, "LIST", path, s.RootToken, nil)
	if status == 404 {
		return nil
	}
	data, _ := reply["data"].(map[string]any)
	all, ok := data["keys"].([]any)
	if status != 200 || !ok {
		t.Fatalf("LIST %s: status %d: %v", path, status, reply["errors"])
	}
	keys := make([]string, len(all))
	for i, k := range all {
		keys[i], _ = k.(string)
	}
	return keys
}

// Leases returns the ids of the leases that are alive below prefix, such as "database/creds/"; an
// empty prefix asks for all but those of tokens.
func (s *Server) Leases(t testing.TB, prefix string) []string {
	t.Helper()
	var ids []string
	for _, key := range s.list(t, "sys/leases/lookup/"+prefix) {
		switch {
		case prefix == "" && key == "auth/":
		case strings.HasSuffix(key, "/"):
			ids = append(ids, s.Leases(t, prefix+key)...)
		case s.LeaseAlive(t, prefix+key):
			ids = append(ids, prefix+key)
		}
	}
	return ids
}

// LeaseAlive asks Vault (sys/leases/lookup) whether the lease is alive.
func (s *Server) LeaseAlive(t testing.TB, id string) bool {
	t.Helper()
	status, reply := s.Call(t, "PUT", "sys/leases/lookup", s.RootToken, map[string]any{"lease_id": id})
	if status != 200 && status != 400 {
		t.Fatalf("look up lease %s: status %d: %v", id, status, reply["errors"])
	}
	return status == 200
}

// A Token is what Vault says of one live token. It does not hold the token.
type Token struct {
	Accessor    string            `json:"accessor"`
	DisplayName string            `json:"display_name"`
	Path        string            `json:"path"` // where it was made, such as "auth/approle/login"
	Meta        map[string]string `json:"meta"`
	Policies    []string          `json:"policies"`
	Type        string            `json:"type"`
	Orphan      bool              `json:"orphan"`
	TTL         int               `json:"ttl"` // seconds
	EntityID    string            `json:"entity_id"`
}

// Tokens returns the live tokens (auth/token/accessors, auth/token/lookup-accessor), oldest first,
// without those that can do everything.
func (s *Server) Tokens(t testing.TB) []Token {
	t.Helper()
	type dated struct {
		Token
		CreationTime int64 `json:"creation_time"`
	}
	var found []dated
	for _, accessor := range s.list(t, "auth/token/accessors") {
		status, reply := s.Call(t, "POST", "auth/token/lookup-accessor", s.RootToken, map[string]any{"accessor": accessor})
		if status == 400 || status == 403 || status == 404 {
			continue // it ended meanwhile
		}
		var d dated
		remarshal(t, reply["data"], &d)
		if status != 200 || d.Accessor == "" {
			t.Fatalf("look up accessor: status %d: %v", status, reply["errors"])
		}
		if !slices.Contains(d.Policies, "root") {
			found = append(found, d)
		}
	}
	slices.SortStableFunc(found, func(a, b dated) int { return int(a.CreationTime - b.CreationTime) })
	tokens := make([]Token, len(found))
	for i, d := range found {
		tokens[i] = d.Token
	}
	return tokens
}

// RevokeTokens revokes every token but those that can do everything, as an operator would.
func (s *Server) RevokeTokens(t testing.TB) {
	t.Helper()
	for _, token := range s.Tokens(t) {
		s.Must(t, "POST", "auth/token/revoke-accessor", s.RootToken, map[string]any{"accessor": token.Accessor})
	}
}

// An AuditEntry is what tests read of one line of Vault's audit log.
type AuditEntry struct {
	Time time.Time `json:"time"`
	Type string    `json:"type"` // "request" or "response"
	Auth struct {
		DisplayName string            `json:"display_name"`
		Metadata    map[string]string `json:"metadata"`
		Policies    []string          `json:"policies"`
	} `json:"auth"`
	Request struct {
		ID        string              `json:"id"`
		Operation string              `json:"operation"` // "read", "update", "create", ...
		Path      string              `json:"path"`
		MountType string              `json:"mount_type"`
		Headers   map[string][]string `json:"headers"` // the audited ones, in lower case
	} `json:"request"`
	Response struct {
		Secret struct {
			LeaseID string `json:"lease_id"`
		} `json:"secret"`
		Auth struct {
			DisplayName string            `json:"display_name"`
			Metadata    map[string]string `json:"metadata"`
		} `json:"auth"`
	} `json:"response"`
	Error string `json:"error"`
}

// Correlation returns the entry's X-Correlation-Id; empty if it has none.
func (e AuditEntry) Correlation() string {
	if v := e.Request.Headers["x-correlation-id"]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// AuditEntries returns the audit log so far. Vault writes an entry before it answers.
func (s *Server) AuditEntries(t testing.TB) []AuditEntry {
	t.Helper()
	log, err := os.ReadFile(s.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	whole := log[:bytes.LastIndexByte(log, '\n')+1] // a line may be in the middle of being written
	var entries []AuditEntry
	for line := range bytes.Lines(whole) {
		var e AuditEntry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: line %d: %v", s.AuditLog, len(entries)+1, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// remarshal decodes what Call has decoded without a type.
func remarshal(t testing.TB, from, to any) {
	t.Helper()
	b, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// call makes one request and returns the status and the body. wrapTTL asks for the reply to be
// wrapped; empty does not.
func (s *Server) call(method, path, token, wrapTTL string, body any) (int, []byte, error) {
	var r io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, s.Addr+"/v1/"+path, r)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if wrapTTL != "" {
		req.Header.Set("X-Vault-Wrap-TTL", wrapTTL)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}
