// Package realvault starts a real Vault, and a real PostgreSQL, for the tests of the other
// packages. It is imported by test files only.
//
// The Vault is the binary that tools/build.sh builds; `make test-vault` names it in the environment
// and runs the tests whose names hold "RealVault". Where that is not done the tests are skipped;
// where it is done they are not, whatever is missing.
//
// Every server is the test's own, on a loopback port of its own, and is stopped when the test ends.
package realvault

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Binary is the name of the environment variable that holds the path of the Vault binary.
const Binary = "SIDEKEY_VAULTD"

// patience bounds each wait for a server to do what it was told.
const patience = 30 * time.Second

// Options says how a Vault runs. The zero value is usable.
type Options struct {
	// TLS makes Vault speak https and ask clients for a certificate, which the auth method cert
	// needs.
	TLS bool

	// NoAuditedHeaders takes X-Correlation-Id off the list of headers that Vault writes to its
	// audit log, as OpenBao and Vault before 1.17 have it.
	NoAuditedHeaders bool
}

// A Server is one running Vault, unsealed. A KV version 2 engine is mounted at secret/ and a file
// audit device at file/. Its methods are safe for concurrent use; those that are given a test
// fail it, and must be called from its goroutine, if something is not as it should be.
type Server struct {
	Addr      string // base URL, without "/v1"
	RootToken string
	AuditLog  string // the file of the audit device
	CACertPEM []byte // verifies Addr; nil without TLS

	unsealKey string
	cmd       *exec.Cmd
	stdin     io.Closer
	stderr    *lockedBuffer
	exited    chan struct{} // closed when the process has ended
	http      *http.Client

	mu      sync.Mutex
	mounted map[string]bool // what Mount and EnableAuth mounted
}

// Start starts a Vault that is stopped when the test ends. It skips the test if the environment
// names no binary.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	binary := os.Getenv(Binary)
	if binary == "" {
		t.Skipf("needs a real Vault: run `make test-vault`, or set %s to what `tools/build.sh vaultd` prints", Binary)
	}
	s := &Server{
		RootToken: "root-" + rand.Text(),
		AuditLog:  filepath.Join(t.TempDir(), "vault-audit.log"),
		stderr:    new(lockedBuffer),
		exited:    make(chan struct{}),
		mounted:   map[string]bool{},
	}
	transport := &http.Transport{ResponseHeaderTimeout: patience}
	s.http = &http.Client{Transport: transport, Timeout: patience}
	// -attached: Vault ends with this process, even if that is killed.
	args := []string{"-attached", "-root-token", s.RootToken, "-audit", s.AuditLog}
	if opts.TLS {
		pair := SelfSigned(t, "127.0.0.1", "localhost")
		s.CACertPEM = pair.CertPEM
		transport.TLSClientConfig = &tls.Config{RootCAs: pool(t, pair.CertPEM), MinVersion: tls.VersionTLS12}
		args = append(args, "-tls-cert", pair.CertFile(t), "-tls-key", pair.KeyFile(t))
	}
	s.start(t, binary, args)
	if opts.NoAuditedHeaders {
		s.Must(t, "DELETE", "sys/config/auditing/request-headers/x-correlation-id", s.RootToken, nil)
	}
	return s
}

// start starts the process and waits for the line that says that it is ready.
func (s *Server) start(t testing.TB, binary string, args []string) {
	t.Helper()
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stderr = s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start the Vault that %s names: %v", Binary, err)
	}
	lines := make(chan []byte, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadBytes('\n')
		lines <- line
		_ = s.cmd.Wait() // reported by stop
		close(s.exited)
	}()
	t.Cleanup(func() { s.stop(t) })
	var ready struct {
		Addr      string `json:"addr"`
		UnsealKey string `json:"unseal_key_hex"`
	}
	select {
	case line := <-lines:
		if err := json.Unmarshal(line, &ready); err != nil || ready.Addr == "" {
			<-s.exited
			t.Fatalf("the Vault that %s names did not start: %v: %s", Binary, s.cmd.ProcessState, s.stderr)
		}
	case <-time.After(patience):
		t.Fatalf("the Vault that %s names did not say that it is ready within %v: %s", Binary, patience, s.stderr)
	}
	s.Addr, s.unsealKey = ready.Addr, ready.UnsealKey
}

// stop ends the process and waits for it.
func (s *Server) stop(t testing.TB) {
	s.http.CloseIdleConnections()
	select {
	case <-s.exited:
		if !t.Failed() {
			t.Errorf("Vault ended by itself: %v: %s", s.cmd.ProcessState, s.stderr)
		}
		return
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.stdin.Close()
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.exited
		t.Errorf("Vault did not end within %v", patience)
	}
	if t.Failed() && s.stderr.String() != "" {
		t.Logf("Vault's own log:\n%s", s.stderr)
	}
}

// Seal seals Vault: it answers 503 until Unseal.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	s.Must(t, "PUT", "sys/seal", s.RootToken, nil)
}

// Unseal undoes Seal. Tokens and leases are still valid.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	s.Must(t, "PUT", "sys/unseal", "", map[string]any{"key": s.unsealKey})
	s.awaitHealth(t)
}

// Stop freezes Vault: connections are accepted and never answered, until Cont. All its threads stand
// still when it returns.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
	s.await(t, "stand still", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.cmd.Process.Pid))
		for _, name := range threads {
			stat, _ := os.ReadFile(name) // "pid (name) state ..."; a thread may end meanwhile
			if i := bytes.LastIndex(stat, []byte(") ")); i >= 0 && stat[i+2] != 'T' {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
}

// Cont undoes Stop.
func (s *Server) Cont(t testing.TB) { t.Helper(); s.signal(t, syscall.SIGCONT) }

// Down stops Vault as a crash would look to clients: connections break off and new ones are
// refused, until Up.
func (s *Server) Down(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGUSR1)
	s.await(t, "refuse connections", func() bool {
		resp, err := s.http.Get(s.Addr + "/v1/sys/health")
		if err == nil {
			resp.Body.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// Up undoes Down, on the same port and with the same storage, unsealed.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGUSR2)
	s.awaitHealth(t)
}

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal Vault: %v", err)
	}
}

func (s *Server) awaitHealth(t testing.TB) {
	t.Helper()
	s.await(t, "become active", func() bool {
		resp, err := s.http.Get(s.Addr + "/v1/sys/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (s *Server) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	Eventually(t, "Vault to "+what, done)
}

// Eventually waits until done returns true: for what another process does in its own time. It
// fails the test if that takes longer than half a minute.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// lockedBuffer collects what a process prints.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func pool(t testing.TB, certs []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(certs) {
		t.Fatal("no certificate in PEM")
	}
	return p
}
