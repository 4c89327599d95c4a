package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// The messages of opentelemetry/proto/logs/v1, as JSON has them, as far as records need them.
type (
	otlpLogs struct {
		ResourceLogs []otlpResourceLogs `json:"resourceLogs"`
	}
	otlpResourceLogs struct {
		Resource  otlpResource    `json:"resource"`
		ScopeLogs []otlpScopeLogs `json:"scopeLogs"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpScopeLogs struct {
		Scope      otlpScope    `json:"scope"`
		LogRecords []otlpRecord `json:"logRecords"`
	}
	otlpScope struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	otlpRecord struct {
		Time       string          `json:"timeUnixNano"`
		Observed   string          `json:"observedTimeUnixNano"`
		Severity   int             `json:"severityNumber"`
		Body       otlpValue       `json:"body"`
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpValue struct {
		String string `json:"stringValue,omitempty"`
		Int    string `json:"intValue,omitempty"`
	}
)

const severityInfo = 9

// encode returns lines of the trail as one ExportLogsServiceRequest: each is the body of a log, byte for
// byte, so that what `sidekey audit verify` takes can be had from the logs.
func (x *exporter) encode(lines []byte) ([]byte, error) {
	observed := strconv.FormatInt(time.Now().UnixNano(), 10)
	var records []otlpRecord
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, newline)
		var e struct {
			Seq     uint64    `json:"seq"`
			Time    time.Time `json:"time"`
			Event   string    `json:"event"`
			Session struct {
				ID string `json:"id"`
			} `json:"session"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read a record: %v", err)
		}
		records = append(records, otlpRecord{
			Time: strconv.FormatInt(e.Time.UnixNano(), 10), Observed: observed, Severity: severityInfo, Body: otlpValue{String: string(line)},
			Attributes: []otlpAttribute{
				{"sidekey.event", otlpValue{String: e.Event}},
				{"sidekey.session", otlpValue{String: e.Session.ID}},
				{"sidekey.seq", otlpValue{Int: strconv.FormatUint(e.Seq, 10)}},
			},
		})
	}
	return json.Marshal(otlpLogs{[]otlpResourceLogs{{x.resource, []otlpScopeLogs{{otlpScope{"sidekey/audit", version}, records}}}}})
}
