package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/vault"
)

// identify fills in who the session is for, and how far that can be trusted: what a flag, a
// variable or the config file says is asserted; what only the pod's labels or annotations say, and
// nobody wrote over, stands in the Kubernetes API. Vault may vouch for it later.
func (s *setup) identify(ms *mistakes, env environment) {
	own := s.cfg.Session
	var info config.PodInfo
	if own.PodInfo != "" {
		var err error
		info, err = config.ReadPodInfo(own.PodInfo)
		ms.add("session.podinfo", "", err)
	}
	s.pod = audit.Pod{
		Namespace: env.get("POD_NAMESPACE"), Name: env.get("POD_NAME"), UID: env.get("POD_UID"),
		Node: env.get("NODE_NAME"), ServiceAccount: env.get("SERVICE_ACCOUNT"),
	}
	s.session = audit.Session{ID: own.ID, Role: s.cfg.Role, RequestedBy: own.RequestedBy, Attribution: audit.Asserted}
	if own.ID == "" && own.RequestedBy == "" && info != (config.PodInfo{}) {
		s.session.Attribution = audit.Kubernetes
	}
	if s.session.RequestedBy == "" {
		s.session.RequestedBy = info.RequestedBy
	}
	if s.session.ID == "" {
		s.session.ID = info.SessionID
	}
	s.claims = withoutEmpty(map[string]string{
		"pod_uid": s.pod.UID, "pod_name": s.pod.Name, "namespace": s.pod.Namespace,
		"session_id": s.session.ID, "requested_by": s.session.RequestedBy, // as others know it
	})
	s.session.ID = sessionID(s.session.ID, s.pod.UID)
	s.checkVerify(ms)
}

// claimHints say where a claim would come from.
var claimHints = map[string]string{
	"pod_uid":      "set POD_UID from metadata.uid",
	"pod_name":     "set POD_NAME from metadata.name",
	"namespace":    "set POD_NAMESPACE from metadata.namespace",
	"session_id":   "set session.id, or session.podinfo with the annotation " + config.KeySessionID,
	"requested_by": "set session.requested_by, or session.podinfo with the annotation " + config.KeyRequestedBy,
}

// checkVerify refuses to have Vault verify what this process does not know of itself.
func (s *setup) checkVerify(ms *mistakes) {
	if s.cfg.Vault == nil {
		return
	}
	for _, name := range s.cfg.Vault.Auth.Verify {
		if s.claims[name] == "" {
			ms.add("vault.auth.verify", claimHints[name], fmt.Errorf("%s is to be verified, and nothing says what it is here", name))
		}
	}
}

// tokenMeta is the metadata of the session's own Vault token, which every entry of Vault's audit
// log then names.
func (s *setup) tokenMeta() map[string]string {
	return withoutEmpty(map[string]string{
		"agent_role": s.session.Role, "session_id": s.session.ID, "requested_by": s.session.RequestedBy, "pod_uid": s.pod.UID,
	})
}

func withoutEmpty(m map[string]string) map[string]string {
	for k, v := range m {
		if v == "" {
			delete(m, k)
		}
	}
	return m
}

// sessionID returns an id that begins with the given one, else with the pod's UID, and ends in
// random digits; without either it is a UUIDv7. What others call the session would not do alone: a
// container that is restarted begins another session, with a chain of its own, under the same name.
func sessionID(given, podUID string) string {
	if begin := cmp.Or(given, podUID); begin != "" {
		return begin + "." + uuid.NewString()[:8]
	}
	return uuid.Must(uuid.NewV7()).String()
}

// vouches reports whether Vault's login names the session and its requester as claims do. Both have
// to be there: a login that says who asked, but not for which session, may be another session's.
func vouches(login vault.Login, claims map[string]string) bool {
	for _, name := range []string{"session_id", "requested_by"} {
		if claims[name] == "" || login.Metadata[name] != claims[name] {
			return false
		}
	}
	return true
}

// environment is the process's environment as it was given to it.
type environment []string

func (e environment) lookup(name string) (string, bool) {
	for _, kv := range e {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

func (e environment) get(name string) string { v, _ := e.lookup(name); return v }
