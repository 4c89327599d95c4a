package main

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/sidekey/sidekey/audit"
)

// metrics are what an operator can graph. No label holds anything that the agent chose: routes,
// credentials and reasons are closed sets.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec
	denied        *prometheus.CounterVec
	refused       *prometheus.CounterVec
	issued        *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	records       *prometheus.CounterVec
	auditErrors   prometheus.Counter
	otlpDropped   prometheus.Counter
	policyRefused prometheus.Counter
}

// newMetrics returns the metrics of a role.
func newMetrics(role string) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidekey_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("requests_total", "Requests that were sent upstream, by the class of the answer.", "route", "code_class"),
		denied:   counter("denied_total", "Requests that were refused, by reason.", "reason"),
		refused:  counter("connections_refused_total", "Connections that came to no request, by reason.", "reason"),
		issued:   counter("credential_issued_total", "Issuances obtained.", "credential"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sidekey_request_duration_seconds", Help: "From a request's head to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60, 600},
		}, []string{"route"}),
		records:       counter("audit_records_total", "Records in the audit trail.", "event"),
		policyRefused: prometheus.NewCounter(prometheus.CounterOpts{Name: "sidekey_policy_refused_total", Help: "Times that a changed policy was not taken."}),
		auditErrors:   prometheus.NewCounter(prometheus.CounterOpts{Name: "sidekey_audit_write_errors_total", Help: "Records that could not be written."}),
		otlpDropped:   prometheus.NewCounter(prometheus.CounterOpts{Name: "sidekey_audit_otlp_dropped_total", Help: "Records of which no copy reached the OTLP endpoint."}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidekey_build_info", Help: "1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version(), "role": role},
	})
	info.Set(1)
	m.registry.MustRegister(m.requests, m.denied, m.refused, m.issued, m.duration, m.records, m.auditErrors, m.otlpDropped, m.policyRefused, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// observe counts a record that was given to the trail; err says that it could not be written.
func (m *metrics) observe(r audit.Record, err error) {
	m.recorded(r.Event, err)
	if err == nil {
		m.happened(&r)
	}
}

// recorded counts a record that is in the trail, or could not be written.
func (m *metrics) recorded(event audit.Event, err error) {
	switch {
	case errors.Is(err, audit.ErrLate): // nothing is wrong with the trail
	case err != nil:
		m.auditErrors.Inc()
	default:
		m.records.WithLabelValues(string(event)).Inc()
	}
}

// happened counts what r is about.
func (m *metrics) happened(r *audit.Record) {
	switch r.Event {
	case audit.RequestOutcome:
		m.requests.WithLabelValues(r.Route, strconv.Itoa(r.Status/100)+"xx").Inc()
		m.duration.WithLabelValues(r.Route).Observe(r.DurationMS / 1000)
	case audit.RequestDenied:
		m.denied.WithLabelValues(r.Reason).Inc()
	case audit.ConnectionRefused:
		m.refused.WithLabelValues(r.Reason).Inc()
	case audit.CredentialIssued:
		m.issued.WithLabelValues(r.Credential).Inc()
	}
}

// state is what the probes tell.
type state struct {
	started atomic.Bool // listening, CA written, first Vault login done; never goes back
	ready   atomic.Bool // serving; goes back on the way out
}

// opsHandler serves the probes and the metrics, and nothing else. Readiness does not depend on
// Vault: an outage must not take the pod out of its Services.
func opsHandler(st *state, m *metrics) http.Handler {
	probe := func(up func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if !up() {
				w.WriteHeader(http.StatusServiceUnavailable)
				io.WriteString(w, "no\n")
				return
			}
			io.WriteString(w, "ok\n")
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /livez", probe(func() bool { return true }))
	mux.Handle("GET /readyz", probe(st.ready.Load))
	mux.Handle("GET /startedz", probe(st.started.Load))
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// maxProbes bounds the connections of the ops listener.
const maxProbes = 64

// serveOps serves until ctx ends.
func serveOps(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := boundedServer(h)
	srv.SetKeepAlivesEnabled(false) // connections that stay would fill its few places
	return serveUntil(ctx, srv, netutil.LimitListener(ln, maxProbes))
}

// boundedServer is a server for short requests and answers.
func boundedServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, MaxHeaderBytes: 16 << 10, ErrorLog: stdlog.New(io.Discard, "", 0),
		ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 30 * time.Second,
	}
}

// serveUntil serves until ctx ends, and then drops all connections.
func serveUntil(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
