package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/vault"
)

func TestSessionID(t *testing.T) {
	const v7 = `[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`
	for _, tc := range []struct{ configured, podUID, want string }{
		{"s-1", "u-1", `s-1\.[0-9a-f]{8}`},
		{"s-1", "", `s-1\.[0-9a-f]{8}`},
		{"", "u-1", `u-1\.[0-9a-f]{8}`},
		{"", "", v7},
	} {
		want := regexp.MustCompile("^" + tc.want + "$")
		one, other := sessionID(tc.configured, tc.podUID), sessionID(tc.configured, tc.podUID)
		if !want.MatchString(one) || !want.MatchString(other) {
			t.Errorf("sessionID(%q, %q) = %s, and %s; want %s", tc.configured, tc.podUID, one, other, tc.want)
		}
		if one == other {
			t.Errorf("sessionID(%q, %q) = %s, twice", tc.configured, tc.podUID, one)
		}
	}
}

const (
	annotatedID = `sidekey.dev/session-id="run-7"` + "\n"
	annotatedBy = `sidekey.dev/requested-by="Åsa \"A\" <asa@example.com>"` + "\n"
)

// What is written over counts for nothing, and what nothing says is made up.
func TestIdentify(t *testing.T) {
	const byPod = `Åsa "A" <asa@example.com>`
	for _, tc := range []struct {
		name                string
		id, by, annotations string
		want                audit.Session
		claims              map[string]string
	}{
		{"nothing said", "", "", "", audit.Session{Attribution: "asserted"}, map[string]string{}},
		{"by the config", "s-1", "alice", "", audit.Session{ID: "s-1", RequestedBy: "alice", Attribution: "asserted"}, map[string]string{"session_id": "s-1", "requested_by": "alice"}},
		{"by the pod", "", "", annotatedID + annotatedBy, audit.Session{ID: "run-7", RequestedBy: byPod, Attribution: "kubernetes"}, map[string]string{"session_id": "run-7", "requested_by": byPod}},
		{"the requester by the pod", "", "", annotatedBy, audit.Session{RequestedBy: byPod, Attribution: "kubernetes"}, map[string]string{"requested_by": byPod}},
		{"other annotations", "", "", `a="b"` + "\n", audit.Session{Attribution: "asserted"}, map[string]string{}},
		{"the config over the pod", "s-1", "alice", annotatedID + annotatedBy, audit.Session{ID: "s-1", RequestedBy: "alice", Attribution: "asserted"}, map[string]string{"session_id": "s-1", "requested_by": "alice"}},
		{"one of each", "s-1", "", annotatedBy, audit.Session{ID: "s-1", RequestedBy: byPod, Attribution: "asserted"}, map[string]string{"session_id": "s-1", "requested_by": byPod}},
		{"the other of each", "", "alice", annotatedID, audit.Session{ID: "run-7", RequestedBy: "alice", Attribution: "asserted"}, map[string]string{"session_id": "run-7", "requested_by": "alice"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inTempDir(t, map[string]string{"podinfo/annotations": tc.annotations})
			s := &setup{cfg: &config.Config{Role: "tester", Session: config.Session{ID: tc.id, RequestedBy: tc.by}}}
			if tc.annotations != "" {
				s.cfg.Session.PodInfo = "podinfo"
			}
			var ms mistakes
			s.identify(&ms, nil)
			name, digits, _ := strings.Cut(s.session.ID, ".")
			if tc.want.ID == "" {
				if s.session.ID == "" {
					t.Error("the session has no id")
				}
			} else if name != tc.want.ID || len(digits) != 8 {
				t.Errorf("id %q, want %s, a dot and 8 digits", s.session.ID, tc.want.ID)
			}
			tc.want.ID = s.session.ID
			tc.want.Role = "tester"
			if diff := cmp.Diff(tc.want, s.session); diff != "" || len(ms.Mistakes) > 0 {
				t.Errorf("mistakes %v, session (-want +got):\n%s", ms.Mistakes, diff)
			}
			if diff := cmp.Diff(tc.claims, s.claims); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdentifyPod(t *testing.T) {
	s := &setup{cfg: &config.Config{Role: "tester", Session: config.Session{RequestedBy: "alice"}}}
	s.identify(&mistakes{}, environment{"POD_NAMESPACE=ns", "POD_NAME=p", "POD_UID=u", "NODE_NAME=n", "SERVICE_ACCOUNT=sa", "HOSTNAME=h"})
	if diff := cmp.Diff(audit.Pod{Namespace: "ns", Name: "p", UID: "u", Node: "n", ServiceAccount: "sa"}, s.pod); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	want := map[string]string{"pod_uid": "u", "pod_name": "p", "namespace": "ns", "requested_by": "alice"}
	if diff := cmp.Diff(want, s.claims); diff != "" { // the id was made up here: nobody else can know it
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	want = map[string]string{"agent_role": "tester", "session_id": s.session.ID, "requested_by": "alice", "pod_uid": "u"}
	if diff := cmp.Diff(want, s.tokenMeta()); diff != "" {
		t.Errorf("metadata of the token (-want +got):\n%s", diff)
	}
}

// What is to be verified must be known.
func TestIdentifyMistakes(t *testing.T) {
	where := func(string) string { return "config" }
	for _, tc := range []struct {
		name   string
		verify []string
		env    environment
		podTo  string
		want   []string
	}{
		{"all known", []string{"pod_uid", "pod_name", "namespace", "session_id", "requested_by"}, environment{"POD_UID=u", "POD_NAME=p", "POD_NAMESPACE=n"}, annotatedID + annotatedBy, nil},
		{"none known", []string{"pod_uid", "session_id"}, nil, "", []string{
			"config: vault.auth.verify: pod_uid is to be verified, and nothing says what it is here\n\thint: set POD_UID",
			"config: vault.auth.verify: session_id is to be verified, and nothing says what it is here\n\thint: set session.id, or session.podinfo",
		}},
		{"a wrong annotation", nil, nil, "x", []string{`podinfo/annotations:1: the line is not KEY="VALUE"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inTempDir(t, map[string]string{"podinfo/annotations": tc.podTo})
			s := &setup{cfg: &config.Config{Session: config.Session{PodInfo: "podinfo"}, Vault: &config.Vault{Auth: config.Auth{Verify: tc.verify}}}}
			ms := mistakes{where: where}
			s.identify(&ms, tc.env)
			for i, m := range ms.Mistakes {
				if i >= len(tc.want) || !strings.HasPrefix(m.String(), tc.want[i]) {
					t.Errorf("not wanted: %v", m)
				}
			}
			if len(ms.Mistakes) < len(tc.want) {
				t.Errorf("not found: %q", tc.want[len(ms.Mistakes):])
			}
		})
	}
}

// Vault vouches for a session only if it names both the session and the requester.
func TestVouches(t *testing.T) {
	s := map[string]string{"session_id": "s-1", "requested_by": "alice", "pod_uid": "u"}
	for _, tc := range []struct {
		name             string
		claims, metadata map[string]string
		want             bool
	}{
		{"both", s, map[string]string{"session_id": "s-1", "requested_by": "alice", "x": "y"}, true},
		{"nothing", s, nil, false},
		{"no session", s, map[string]string{"requested_by": "alice"}, false},
		{"no requester", s, map[string]string{"session_id": "s-1"}, false},
		{"another session", s, map[string]string{"session_id": "s-2", "requested_by": "alice"}, false},
		{"another requester", s, map[string]string{"session_id": "s-1", "requested_by": "bob"}, false},
		{"an unknown requester", map[string]string{"session_id": "s-1"}, map[string]string{"session_id": "s-1"}, false},
		{"an unknown session", map[string]string{"requested_by": "alice"}, map[string]string{"requested_by": "alice"}, false},
		{"an empty requester", map[string]string{"session_id": "s-1"}, map[string]string{"session_id": "s-1", "requested_by": ""}, false},
	} {
		if got := vouches(vault.Login{Metadata: tc.metadata}, tc.claims); got != tc.want {
			t.Errorf("%s: %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := environment{"A=1", "B=", "C", "D=x=y", "A=2", "=E=3"}
	for _, tc := range []struct {
		name, value string
		ok          bool
	}{
		{"A", "1", true}, // the first one, as with os.Getenv
		{"B", "", true},
		{"C", "", false},
		{"D", "x=y", true},
		{"a", "", false},
		{"E", "", false},
	} {
		value, ok := env.lookup(tc.name)
		if value != tc.value || ok != tc.ok {
			t.Errorf("lookup(%q) = %q, %t; want %q, %t", tc.name, value, ok, tc.value, tc.ok)
		}
		if got := env.get(tc.name); got != tc.value {
			t.Errorf("get(%q) = %q, want %q", tc.name, got, tc.value)
		}
	}
}
