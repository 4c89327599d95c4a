package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/internal/config"
)

const (
	exportBytes  = 512 << 10              // of lines in one call, about
	exportLinger = 200 * time.Millisecond // for which the first record waits for others
	exportCall   = 10 * time.Second       // for one call
	exportPause  = 30 * time.Second       // at most, after a failure
)

// An exporter sends copies of the trail's lines as OpenTelemetry logs: OTLP/HTTP with JSON, which every
// receiver of OTLP/HTTP must take. OpenTelemetry's own exporter would do the same with a queue of its own
// and make the binary larger by a third.
type exporter struct {
	url       string
	tokenFile string // "" for none
	client    *http.Client
	resource  otlpResource
	queue     *copyQueue
	log       zerolog.Logger

	closing chan struct{} // closed when nothing more comes
	done    chan struct{} // closed when run has ended
	ctx     context.Context
	cancel  context.CancelFunc
	failing bool // the last call failed
}

// newExporter returns the exporter that run is to be called on, once, or nil if no endpoint is configured.
// roots verify the endpoint.
func newExporter(cfg config.OTLP, roots *x509.CertPool, session audit.Session, pod audit.Pod, q *copyQueue, log zerolog.Logger) *exporter {
	if cfg.Endpoint == "" {
		return nil
	}
	x := &exporter{
		url: logsURL(cfg.Endpoint), tokenFile: cfg.TokenFile, queue: q, log: log,
		client: &http.Client{
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	for _, a := range [][2]string{
		{"service.name", "sidekey"}, {"service.version", version}, {"service.instance.id", session.ID},
		{"k8s.namespace.name", pod.Namespace}, {"k8s.pod.name", pod.Name}, {"k8s.pod.uid", pod.UID}, {"k8s.node.name", pod.Node},
	} {
		if a[1] != "" {
			x.resource.Attributes = append(x.resource.Attributes, otlpAttribute{a[0], otlpValue{String: a[1]}})
		}
	}
	return x
}

// logsURL adds the path that OTLP/HTTP has for logs to an endpoint without one.
func logsURL(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil && strings.Trim(u.Path, "/") == "" {
		return strings.TrimRight(endpoint, "/") + "/v1/logs"
	}
	return endpoint
}

// run sends what is queued until finish is called and nothing is left.
func (x *exporter) run() {
	defer close(x.done)
	defer x.client.CloseIdleConnections()
	for {
		if lines := x.queue.take(exportBytes); lines != nil {
			x.deliver(lines)
			continue
		}
		select {
		case <-x.queue.wake:
			x.pause(exportLinger)
		case <-x.closing:
			if len(x.queue.wake) == 0 {
				return
			}
		}
	}
}

// finish sends what is left, for at most d. Nothing may be queued any more. It is for an exporter that
// runs, or for none.
func (x *exporter) finish(d time.Duration) {
	if x == nil {
		return
	}
	close(x.closing)
	if !within(d, x.done) {
		x.cancel()
		<-x.done
	}
	x.cancel()
}

// pause waits for d, or until finish is called, or if it has been for a little while. It reports false if
// there is no more time.
func (x *exporter) pause(d time.Duration) bool {
	closing := x.closing
	select {
	case <-closing:
		closing, d = nil, min(d, 100*time.Millisecond)
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closing:
	case <-x.ctx.Done():
	}
	return x.ctx.Err() == nil
}

// deliver sends lines, again and again where that may help, or drops them.
func (x *exporter) deliver(lines []byte) {
	body, err := x.encode(lines)
	for wait := time.Second; err == nil && x.ctx.Err() == nil; wait = min(2*wait, exportPause) {
		var failed *exportError
		if err := x.post(body); err == nil {
			x.failing = false
			return
		} else if !errors.As(err, &failed) {
			failed = &exportError{err: err, again: true} // of the network
		}
		if failed.rejected > 0 {
			x.queue.dropped.Add(float64(failed.rejected))
		}
		if !x.failing || failed.rejected > 0 {
			x.log.Warn().Err(failed).Bool("again", failed.again).Msg("audit records could not be copied to the OTLP endpoint; the trail has them")
		}
		x.failing = true
		if failed.rejected > 0 {
			return
		}
		if !failed.again || !x.pause(max(wait, failed.after)) {
			break
		}
	}
	x.queue.drop(lines)
}

// An exportError is what the endpoint said that is not yes.
type exportError struct {
	err      error
	again    bool          // the same call may succeed
	after    time.Duration // when
	rejected int           // of a call that was taken otherwise
}

func (e *exportError) Error() string { return e.err.Error() }

// post makes a call. Which answers ask for another one is in the OTLP specification ("Retryable Response
// Codes").
func (x *exporter) post(body []byte) error {
	ctx, cancel := context.WithTimeout(x.ctx, exportCall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url, bytes.NewReader(body))
	if err != nil {
		return &exportError{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sidekey/"+version)
	if x.tokenFile != "" {
		token, err := os.ReadFile(x.tokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
		clear(token)
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status says whether the records were taken
	switch {
	case resp.StatusCode/100 == 2:
		return rejectedBy(answer)
	case resp.StatusCode == 429, resp.StatusCode == 502, resp.StatusCode == 503, resp.StatusCode == 504:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &exportError{err: errors.New("the endpoint answered " + resp.Status), again: true, after: min(time.Duration(max(seconds, 0))*time.Second, exportPause)}
	}
	return &exportError{err: errors.New("the endpoint answered " + resp.Status)}
}

// rejectedBy returns an error if a successful answer says that some records were not taken. What cannot be
// read is no such answer.
func rejectedBy(answer []byte) error {
	var a struct {
		PartialSuccess struct {
			RejectedLogRecords json.RawMessage `json:"rejectedLogRecords"` // an int64, which JSON of protobuf has in quotes or not
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return nil
	}
	n, err := strconv.Atoi(strings.Trim(string(a.PartialSuccess.RejectedLogRecords), `"`))
	if err != nil || n <= 0 {
		return nil
	}
	return &exportError{err: fmt.Errorf("the endpoint did not take %d records", n), rejected: n}
}
