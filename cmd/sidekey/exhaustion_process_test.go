package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A served is a process of the real binary that runs `sidekey serve`.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string // its working directory
	caDir  string
	proxy  string // host:port
	ops    string // host:port
	stdout lockedBuffer
	stderr lockedBuffer
	exited chan error
}

// A lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// buildSidekey builds the binary as `make build` does and returns its path.
func buildSidekey(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sidekey")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// startServe runs serve in a directory of its own until the test ends or stop is called. config is
// what its file has beside listen, ops, ca and policy.
func startServe(t *testing.T, binary, config, policy string, environ ...string) *served {
	t.Helper()
	s := &served{t: t, dir: t.TempDir(), exited: make(chan error, 1)}
	s.caDir = filepath.Join(s.dir, "ca")
	if err := os.Mkdir(s.caDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []*string{&s.proxy, &s.ops} {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		*addr = "127.0.0.1:" + port
	}
	head := fmt.Sprintf("role: tester\npolicy: policy.yaml\nlisten: %s\nops: %s\nca: {dir: %q}\n", s.proxy, s.ops, s.caDir)
	s.write("config.yaml", head+config)
	s.write("policy.yaml", policy)
	s.cmd = exec.Command(binary, "serve", "--config", "config.yaml")
	s.cmd.Dir, s.cmd.Env = s.dir, environ
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	t.Cleanup(func() { s.stop() })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	if !poll(func() bool {
		resp, err := client.Get("http://" + s.ops + "/startedz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}) {
		t.Fatalf("serve did not start:\n%s", s.stderr.String())
	}
	return s
}

// write makes a file in the directory of serve.
func (s *served) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends serve as Kubernetes does, and returns how it exited. It can be called again.
func (s *served) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		s.exited <- err
		return err
	case <-time.After(patience):
		s.cmd.Process.Kill()
		return fmt.Errorf("still there %v after SIGTERM", patience)
	}
}

// client is an agent of serve.
func (s *served) client() agentClient {
	return agentClient{proxy: "http://" + s.proxy, caFile: filepath.Join(s.caDir, "ca.crt")}
}

// memory returns a field of /proc/PID/status in bytes: VmRSS is what the process has in memory now,
// VmHWM the most that it ever had.
func (s *served) memory(field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, line, ok := strings.Cut(string(status), field+":")
	if !ok {
		return 0, fmt.Errorf("no %s in /proc/PID/status", field)
	}
	kib, err := strconv.ParseInt(strings.Fields(line)[0], 10, 64)
	return kib << 10, err
}
