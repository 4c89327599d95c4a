package main

import "time"

// A sessionStatus is what GET /status answers. It holds no secret. A time that is not known, or that
// there is none of, is left out.
type sessionStatus struct {
	Version     string             `json:"version"`
	Listen      string             `json:"listen"`
	Started     bool               `json:"started"`
	Ready       bool               `json:"ready"`
	Session     statusSession      `json:"session"`
	Policy      statusPolicy       `json:"policy"`
	Vault       *statusVault       `json:"vault,omitempty"`
	Credentials []statusCredential `json:"credentials"`
	InFlight    int                `json:"requests_in_flight"`
	Killed      bool               `json:"killed"`
	KilledBy    map[string]string  `json:"killed_by,omitempty"` // how ("admin_socket", "kill_file") to who
}

type statusSession struct {
	ID          string    `json:"id"`
	Role        string    `json:"role"`
	RequestedBy string    `json:"requested_by,omitempty"`
	Attribution string    `json:"attribution"`
	StartedAt   time.Time `json:"started_at"`
	EndsAt      time.Time `json:"ends_at"` // at the latest
	EndedAt     time.Time `json:"ended_at,omitzero"`
	EndedReason string    `json:"ended_reason,omitempty"`
	Unrevoked   []string  `json:"unrevoked,omitempty"`
}

type statusPolicy struct {
	Generation uint64         `json:"generation"`
	SHA256     string         `json:"sha256"`
	Mode       string         `json:"mode"`
	File       string         `json:"file"`
	Refused    *refusedPolicy `json:"refused,omitempty"` // what the file holds now, and why it is not in force
}

type statusVault struct {
	Address   string    `json:"address"`
	LoggedIn  bool      `json:"logged_in"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Logins    int       `json:"logins"`
	Leases    int       `json:"leases"`
	Tokens    int       `json:"tokens"`
	Error     string    `json:"error,omitempty"` // of the last login
}

type statusCredential struct {
	Name      string    `json:"name"`
	Source    string    `json:"source"`
	Held      bool      `json:"held"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	InUse     int       `json:"in_use"`
	Error     string    `json:"error,omitempty"` // of the last attempt to obtain it
	RetryAt   time.Time `json:"retry_at,omitzero"`
}

// status describes the session as it is now.
func (sc *sidecar) status() sessionStatus {
	now := sc.inForce.Load()
	pol := now.Policy
	st := sessionStatus{
		Version: version, Listen: sc.listener.Addr().String(),
		Started: sc.state.started.Load(), Ready: sc.state.ready.Load(),
		Session: statusSession{
			ID: sc.session.ID, Role: sc.session.Role, RequestedBy: sc.session.RequestedBy, Attribution: sc.trail.attribution(),
			StartedAt: sc.began.UTC(), EndsAt: sc.began.Add(sc.cfg.Session.TTL).UTC(),
		},
		Policy:      statusPolicy{Generation: now.Number, SHA256: pol.SHA256(), Mode: pol.Mode().String(), File: sc.policyFile, Refused: sc.reloader.status()},
		Credentials: []statusCredential{},
		InFlight:    sc.proxy.InFlight(),
		Killed:      sc.proxy.Killed(), KilledBy: sc.kill.by(),
	}
	if e := sc.ended.Load(); e != nil {
		st.Session.EndedAt, st.Session.EndedReason, st.Session.Unrevoked = e.at.UTC(), e.reason, e.unrevoked
	}
	if sc.vault != nil {
		v := sc.vault.Status()
		st.Vault = &statusVault{
			Address: sc.cfg.Vault.Address, LoggedIn: v.LoggedIn, ExpiresAt: v.ExpiresAt.UTC(), Logins: v.Generation,
			Leases: v.Leases, Tokens: v.Tokens, Error: errorText(v.Err),
		}
	}
	for _, c := range now.credentials {
		s := c.cache.Status()
		st.Credentials = append(st.Credentials, statusCredential{
			Name: c.name, Source: c.kind, Held: s.Held, ExpiresAt: s.ExpiresAt.UTC(), LastUsed: s.LastUsed.UTC(),
			InUse: s.InUse, Error: errorText(s.Err), RetryAt: s.RetryAt.UTC(),
		})
	}
	return st
}

// errorText returns what err says, "" for none. Errors of sources and logins hold no secret.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
