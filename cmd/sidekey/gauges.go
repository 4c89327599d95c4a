package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges tell what holds at the moment of a scrape, taken from the same place as `sidekey status`.
// What there is not (Vault, an issuance at hand) has no value, rather than an old one.
type gauges struct{ status func() sessionStatus }

var (
	gaugeKilled       = newGauge("killed", "1 while the kill switch is engaged.")
	gaugeEnded        = newGauge("session_ended", "1 once the session's credentials have been given up.")
	gaugeGeneration   = newGauge("policy_generation", "The generation of the policy in force.")
	gaugeFileRefused  = newGauge("policy_file_refused", "1 while the policy's files hold what is not taken.")
	gaugeInFlight     = newGauge("requests_in_flight", "Requests being served, and tunnels.")
	gaugeVaultValid   = newGauge("vault_token_valid", "1 while a valid Vault token is held.")
	gaugeVaultExpiry  = newGauge("vault_token_expiry_timestamp_seconds", "When the Vault token expires.")
	gaugeVaultLogins  = newGauge("vault_logins", "Logins to Vault that succeeded.")
	gaugeVaultLeases  = newGauge("vault_leases", "Leases that the session holds.")
	gaugeVaultTokens  = newGauge("vault_tokens", "Vault tokens that the session holds.")
	gaugeHeld         = newGauge("credential_held", "1 while a valid issuance is at hand.", "credential")
	gaugeHeldExpiry   = newGauge("credential_expiry_timestamp_seconds", "When the issuance at hand expires.", "credential")
	gaugeHeldFailing  = newGauge("credential_failing", "1 while the last attempt to obtain an issuance failed.", "credential")
	gaugeDescriptions = []*prometheus.Desc{
		gaugeKilled, gaugeEnded, gaugeGeneration, gaugeFileRefused, gaugeInFlight, gaugeVaultValid, gaugeVaultExpiry, gaugeVaultLogins, gaugeVaultLeases, gaugeVaultTokens,
		gaugeHeld, gaugeHeldExpiry, gaugeHeldFailing,
	}
)

func newGauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sidekey_"+name, help, labels, nil)
}

// Describe implements [prometheus.Collector].
func (gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range gaugeDescriptions {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	at := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			send(d, float64(t.Unix()), labels...)
		}
	}
	st := g.status()
	send(gaugeKilled, one(st.Killed))
	send(gaugeEnded, one(!st.Session.EndedAt.IsZero()))
	send(gaugeGeneration, float64(st.Policy.Generation))
	send(gaugeFileRefused, one(st.Policy.Refused != nil))
	send(gaugeInFlight, float64(st.InFlight))
	if v := st.Vault; v != nil {
		send(gaugeVaultValid, one(v.LoggedIn))
		at(gaugeVaultExpiry, v.ExpiresAt)
		send(gaugeVaultLogins, float64(v.Logins))
		send(gaugeVaultLeases, float64(v.Leases))
		send(gaugeVaultTokens, float64(v.Tokens))
	}
	for _, c := range st.Credentials {
		send(gaugeHeld, one(c.Held), c.Name)
		send(gaugeHeldFailing, one(c.Error != ""), c.Name)
		at(gaugeHeldExpiry, c.ExpiresAt, c.Name)
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
