package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A collector is an OpenTelemetry Collector that prints what it is sent.
type collector struct {
	cmd    *exec.Cmd
	output bytes.Buffer // whole when the process has ended
	addr   string
	caFile string
}

// startCollector starts the one that `make test-otlp` names. It listens on TLS.
func startCollector(t *testing.T, binary string) *collector {
	t.Helper()
	r := newLogReceiver(t) // for its certificate
	key, err := x509.MarshalPKCS8PrivateKey(r.TLS.Certificates[0].PrivateKey)
	port, portErr := freePort()
	dir := t.TempDir()
	keyFile, configFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "config.yaml")
	c := &collector{addr: "127.0.0.1:" + port, caFile: r.caFile}
	config := fmt.Sprintf(`receivers: {otlp: {protocols: {http: {endpoint: %q, tls: {cert_file: %q, key_file: %q}}}}}
exporters: {debug: {verbosity: detailed, use_internal_logger: false}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {logs: {receivers: [otlp], exporters: [debug]}}
`, c.addr, r.caFile, keyFile)
	if err := errors.Join(err, portErr, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600), os.WriteFile(configFile, []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command(binary, "--config", configFile)
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", c.addr)
		if err == nil {
			conn.Close()
			return c
		}
		if time.Now().After(limit) {
			c.stop(t)
			t.Fatalf("the collector does not listen:\n%s", c.output.String())
		}
	}
}

// stop ends the collector, which handles first what it was sent.
func (c *collector) stop(t *testing.T) {
	t.Helper()
	c.cmd.Process.Signal(syscall.SIGTERM)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the collector: %v", err)
	}
}

// values are what stands in the lines "prefix(value)", in order.
func (c *collector) values(prefix string) (all []string) {
	for line := range strings.Lines(c.output.String()) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), prefix+"("); ok {
			all = append(all, strings.TrimSuffix(value, ")"))
		}
	}
	return all
}

// A real collector takes the copies of a real process, and has the trail, line by line.
func TestRealCollector(t *testing.T) {
	binary := os.Getenv("SIDEKEY_OTELCOL")
	if binary == "" {
		t.Skip("needs an OpenTelemetry Collector: run `make test-otlp`")
	}
	c := startCollector(t, binary)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	st := newSinkStage(t, realSidekey(t), path, fmt.Sprintf("otlp: {endpoint: %q, ca_file: %q}", "https://"+c.addr, c.caFile))
	for range 200 {
		if answer, err := st.ask(t.Context()); err != nil || answer != "200" {
			t.Fatal(answer, err)
		}
	}
	st.wantOver(t, 5*time.Second)
	c.stop(t)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st.wantTrail(t, string(want))
	lines := c.values("Body: Str")
	if got := strings.Join(append(lines, ""), "\n"); got != string(want) || len(lines) < 400 {
		t.Fatalf("the collector has %d lines, the trail %d", len(lines), bytes.Count(want, []byte("\n")))
	}
	for i, seq := range c.values("-> sidekey.seq: Int") {
		if !strings.HasPrefix(lines[i], `{"seq":`+seq+",") {
			t.Fatalf("line %d has the attribute %s", i, seq)
		}
	}
	for _, want := range []string{"-> service.name: Str(sidekey)", "SeverityNumber: Info(9)"} {
		if !strings.Contains(c.output.String(), want) {
			t.Errorf("the collector does not have %s", want)
		}
	}
}
