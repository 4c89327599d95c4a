package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/internal/config"
)

// newTestSidecar returns a sidecar for smallPolicy that does not run.
func newTestSidecar(t *testing.T) *sidecar {
	t.Helper()
	dir := inTempDir(t, map[string]string{"policies/tester.yaml": smallPolicy})
	cfg := &config.Config{
		Role: "tester", Policy: "policies", Listen: "127.0.0.1:0", CADir: dir, Audit: config.Audit{Path: "audit.jsonl"},
		Session: config.Session{ID: "s-1", TTL: time.Hour}, DrainGrace: time.Second,
	}
	s, err := prepare(cfg, process{environ: withRoots(t)}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := newSidecar(s, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sc.finish(endStopped)
		sc.trail.Close()
		sc.closeListeners()
	})
	return sc
}

func TestAdminHandler(t *testing.T) {
	sc := newTestSidecar(t)
	h := sc.adminHandler()
	known := func(r *http.Request) *http.Request {
		return r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{1000, 77}))
	}
	for _, tc := range []struct {
		method, path, body string
		known              bool
		status             int
		want               string // in the body
	}{
		{"GET", "/status", "", false, 200, `"id": "s-1.`},
		{"POST", "/kill", "", false, 403, "nobody knows who asks"},
		{"POST", "/status", "", true, 405, ""},
		{"GET", "/kill", "", true, 405, ""},
		{"GET", "/", "", true, 404, ""},
		{"GET", "/debug/pprof/", "", true, 404, ""},
		{"POST", "/kill", `{"reason": "x"`, true, 400, "the body must be empty or"},
		{"POST", "/kill", `{"reason": 5}`, true, 400, "the body must be empty or"},
		{"POST", "/kill", `{"raeson": "x"}`, true, 400, "the body must be empty or"},
		{"POST", "/kill", `{} {}`, true, 400, "the body must be empty or"},
		{"POST", "/kill", `{"reason": "` + strings.Repeat("x", 5000) + `"}`, true, 400, "the body must be empty or"},
		{"GET", "/status", "", true, 200, `"killed": false`},
		{"POST", "/kill", `{"reason": "x"}`, true, 200, `"killed": true`},
		{"POST", "/resume", "", true, 200, `"killed": false`},
		{"POST", "/session/end", "{}", true, 200, `"ended_reason": "admin_socket"`},
		{"POST", "/session/end", "", true, 409, "the session has ended already"},
	} {
		r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
		if tc.known {
			r = known(r)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s %.40s: %d %s, want %d and %q", tc.method, tc.path, tc.body, w.Code, w.Body, tc.status, tc.want)
		}
	}
	trail, err := os.ReadFile("audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"event":"kill.engaged","session":{"id":"s-1.`,
		`"reason":"admin_socket","by":"uid 1000, pid 77","detail":"x"`,
	} {
		if !bytes.Contains(trail, []byte(want)) {
			t.Errorf("the trail lacks %s:\n%s", want, trail)
		}
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	st := sessionStatus{
		Version: "1.0.0", Listen: "127.0.0.1:3128", Started: true, Ready: true,
		Session: statusSession{
			ID: "run-7", Role: "tester", RequestedBy: "Åsa\x1b[2J", Attribution: "vault-verified",
			StartedAt: now.Add(-3*time.Minute - 20*time.Second), EndsAt: now.Add(7*time.Hour + 12*time.Minute + time.Second),
		},
		Policy: statusPolicy{Generation: 3, SHA256: strings.Repeat("0123456789abcdef", 4), Mode: "enforce", File: "/etc/sidekey/policy/tester.yaml"},
		Vault:  &statusVault{Address: "https://vault:8200", Logins: 3, Tokens: 2, Leases: 1, Error: "vault: log in: status 503\n\tmore"},
		Credentials: []statusCredential{
			{Name: "github", Source: "vault", Held: true, ExpiresAt: now.Add(47 * time.Minute), LastUsed: now.Add(-4 * time.Second), InUse: 2},
			{Name: "anthropic", Source: "file", Error: "file source: refused\nhint: x"},
		},
		InFlight: 3, Killed: true, KilledBy: map[string]string{bySocket: "uid 0, pid 9", byFile: "/p/kill"},
	}
	const want = `session      run-7
role         tester
requester    Åsa?[2J (vault-verified)
state        running for 3m20s, ends in 7h12m at the latest
requests     3 in flight
kill switch  ENGAGED: no credential is used (admin socket, uid 0, pid 9; kill file, /p/kill)
policy       enforce, generation 3, sha256 0123456789ab, /etc/sidekey/policy/tester.yaml
vault        https://vault:8200: not logged in; 3 logins, 2 tokens, 1 leases
             last login failed: vault: log in: status 503

CREDENTIAL  SOURCE  STATE     EXPIRES   LAST USED  IN USE  ERROR
github      vault   held      in 47m0s  4s ago     2       -
anthropic   file    not held  -         never      0       file source: refused
`
	var b bytes.Buffer
	if err := printStatus(&b, st, now, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.Reset()
	if err := printStatus(&b, st, now, true); err != nil {
		t.Fatal(err)
	}
	var back sessionStatus
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(st, back); diff != "" {
		t.Errorf("as JSON and back (-want +got):\n%s", diff)
	}
}

func TestStateOf(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		st   sessionStatus
		want string
	}{
		{sessionStatus{}, "starting"},
		{sessionStatus{Started: true}, "draining"},
		{sessionStatus{Started: true, Session: statusSession{EndedAt: now.Add(-time.Minute), EndedReason: "ttl", Unrevoked: []string{"a"}}}, "ended 1m0s ago (ttl), 1 not revoked"},
	} {
		if got := stateOf(tc.st, now); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.st, got, tc.want)
		}
	}
}

// What goes wrong with the socket is told in words that help.
func TestAdminUnreachable(t *testing.T) {
	path := socketPath(t)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for answer := range answers {
			conn, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			if answer != "" {
				conn.Read(make([]byte, 1000))
				io.WriteString(conn, answer)
			}
			conn.Close()
		}
	}()
	for _, tc := range []struct{ answer, want string }{
		{"", "\n\tit answers its own user and root, and nobody else"},
		{"hello\r\n\r\n", "no answer from the sidecar at "},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "is not a sidecar"},
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "is not a sidecar (status 404)"},
		{"HTTP/1.1 409 Conflict\r\nContent-Length: 21\r\n\r\n{\"error\": \"a\\u001bb\"}", "a?b"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{", "no answer from the sidecar at "},
	} {
		answers <- tc.answer
		_, err := adminClient{path}.do(t.Context(), http.MethodGet, adminStatus, "")
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.answer, err, tc.want)
		}
	}
	close(answers)
	<-ended
	ln.Close()
}
