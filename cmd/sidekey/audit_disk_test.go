package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

// A sinkStage is a process of the real binary whose audit sink fails, between a Vault that leases what
// it hands out and an upstream that notes what comes.
type sinkStage struct {
	*served
	vault *vaulttest.Server
	up    *notingUpstream
	agent *http.Client
	next  int // number of the next request
}

// newSinkStage starts the process with its trail at path; more are further keys of audit. binary is
// sidekey, or what runs it.
func newSinkStage(t *testing.T, binary, path string, more ...string) *sinkStage {
	t.Helper()
	st := &sinkStage{vault: vaulttest.Start(t), up: newNotingUpstream(t)}
	st.vault.AddDynamic("github/token/tester", time.Hour, func(int) map[string]string { return map[string]string{"token": newCanary()} })
	token := filepath.Join(t.TempDir(), "vault-token")
	if err := os.WriteFile(token, []byte(st.vault.AddToken(time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`vault: {address: %q, auth: {method: token, token_file: %q}}
upstream: {allow_cidrs: [127.0.0.1/32], resolve: {api.test: 127.0.0.1}, ca_file: %q}
audit: {%s}
drain_grace: 1s
`, st.vault.URL(), token, st.up.caFile, strings.Join(append(more, fmt.Sprintf("path: %q", path)), ", "))
	policy := fmt.Sprintf(`version: 1
role: tester
credentials:
  api: {from: {vault: {path: github/token/tester, field: token}}, inject: {bearer: {}}}
routes:
  - {name: api, host: "api.test:%s", access: read-only, paths: ["/**"], credential: api}
`, st.up.port)
	st.served = startServe(t, binary, config, policy, "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	client, done, err := st.client().http()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	st.agent = client
	return st
}

// ask makes a request with a number of its own and returns "200", or the status and the refusal. The
// error is ctx's end, mostly.
func (st *sinkStage) ask(ctx context.Context) (answer string, err error) {
	st.next++
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("https://api.test:%s/%d", st.up.port, st.next), http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := st.agent.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode == http.StatusOK {
		return "200", nil
	}
	return fmt.Sprint(resp.StatusCode, " ", refusalOf(resp)), nil
}

const unavailable = "503 audit_unavailable"

// until makes requests until one is answered like that, and returns how many were answered 200.
func (st *sinkStage) until(t *testing.T, want string) (served int) {
	t.Helper()
	for range 1000 {
		answer, err := st.ask(t.Context())
		switch {
		case err != nil:
			t.Fatal(err)
		case answer == "200":
			served++
		case answer != unavailable:
			t.Fatalf("answer %s", answer)
		}
		if answer == want {
			return served
		}
	}
	t.Fatalf("no answer %s to 1000 requests", want)
	return 0
}

// wantUpstream holds that the upstream received n requests.
func (st *sinkStage) wantUpstream(t *testing.T, n int) {
	t.Helper()
	if got := st.up.total(); got != n {
		t.Errorf("the upstream received %d requests, want the %d that were answered 200: %v", got, n, slices.Sorted(maps.Keys(st.up.received())))
	}
}

// probe returns the status of a probe.
func (st *sinkStage) probe(t *testing.T, path string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + st.ops + path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// wantOver ends the process by SIGTERM and holds that it ends within d and leaves no lease.
func (st *sinkStage) wantOver(t *testing.T, d time.Duration) {
	t.Helper()
	live, revoked := st.vault.Leases()
	if len(live) == 0 {
		t.Error("there is no lease that could be revoked")
	}
	begin := time.Now()
	err := st.stop()
	took := time.Since(begin)
	t.Logf("ended %v after SIGTERM: %v", took.Round(time.Millisecond), err)
	if took > d {
		t.Errorf("it took %v to end, want at most %v\n%s", took, d, st.stderr.String())
	}
	if live, now := st.vault.Leases(); len(live) > 0 || len(now) <= len(revoked) {
		t.Errorf("%d leases are live, %d revoked", len(live), len(now))
	}
}

// wantTrail holds that a trail is intact, for what is there, and has an intent for each of the requests
// that the upstream received.
func (st *sinkStage) wantTrail(t *testing.T, text string) {
	t.Helper()
	sum, err := audit.Verify(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	intents := 0
	for _, s := range sum.Sessions {
		intents += s.Intents
	}
	if got := st.up.total(); got > intents {
		t.Errorf("the upstream received %d requests, and the trail has %d intents", got, intents)
	}
	t.Logf("received %d, summary %+v", st.up.total(), sum)
}

// tmpfs is a command that runs sidekey with a file system of 64 KiB, a quarter of which is taken, at
// sink in its directory.
const tmpfs = `#!/bin/sh
mkdir -p sink
exec unshare -m --propagation private sh -c 'mount -t tmpfs -o size=64k none sink && head -c 16384 /dev/zero >sink/filler && exec sidekey "$@"' sidekey "$@"
`

func TestDiskFull(t *testing.T) {
	if out, err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", t.TempDir()).CombinedOutput(); err != nil {
		t.Skipf("a file system cannot be mounted here (that needs root on Linux): %v %s", err, out)
	}
	script := filepath.Join(t.TempDir(), "on-tmpfs")
	if err := os.WriteFile(script, []byte(tmpfs), 0o700); err != nil {
		t.Fatal(err)
	}
	st := newSinkStage(t, script, "sink/audit.jsonl")
	sink := filepath.Join(fmt.Sprintf("/proc/%d/root", st.cmd.Process.Pid), st.dir, "sink")
	file, err := os.Open(filepath.Join(sink, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() // keeps it readable when its mount is gone

	served := st.until(t, unavailable)
	st.wantUpstream(t, served)
	if served == 0 {
		t.Error("nothing was served before the disk was full")
	}
	if got := st.probe(t, "/livez"); got != http.StatusOK {
		t.Errorf("/livez: %d", got)
	}
	if err := os.Remove(filepath.Join(sink, "filler")); err != nil {
		t.Fatal(err)
	}
	served += st.until(t, "200")
	served += st.until(t, unavailable)
	st.wantUpstream(t, served)
	st.wantOver(t, 5*time.Second)
	text, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	st.wantTrail(t, string(text))
}

// A slowReader is what reads a FIFO or a socket: all that comes, some of it, or nothing.
type slowReader struct {
	in   io.ReadCloser
	over sync.WaitGroup

	mu   sync.Mutex
	held bool          // nothing is read
	pace time.Duration // for each KiB
	wake *sync.Cond
	text bytes.Buffer
}

func readSlowly(in io.ReadCloser) *slowReader {
	r := &slowReader{in: in}
	r.wake = sync.NewCond(&r.mu)
	r.over.Go(func() {
		buf := make([]byte, 1024)
		for {
			r.mu.Lock()
			for r.held {
				r.wake.Wait()
			}
			pace := r.pace
			r.mu.Unlock()
			waitFor(context.Background(), pace)
			n, err := in.Read(buf)
			r.mu.Lock()
			r.text.Write(buf[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return r
}

// hold stops reading, or goes on with it.
func (r *slowReader) hold(held bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = held
	r.wake.Broadcast()
}

// slow has it read a KiB each d.
func (r *slowReader) slow(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pace = d
}

func (r *slowReader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// newFIFO makes a FIFO that is read, and returns its path. Its buffer is a page.
func newFIFO(t *testing.T) (path string, r *slowReader) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ, fcntl(2)
	var errno syscall.Errno
	err = conn.Control(func(fd uintptr) { _, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, 4096) })
	if err != nil || errno != 0 {
		t.Fatal(err, errno)
	}
	return path, readSlowly(untilWritten{f})
}

// untilWritten reads a FIFO, whether or not somebody has it open for writing, until it is closed.
type untilWritten struct{ *os.File }

func (u untilWritten) Read(p []byte) (int, error) {
	for {
		n, err := u.File.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		waitFor(context.Background(), 10*time.Millisecond)
	}
}

func TestSinkClosed(t *testing.T) {
	path, reader := newFIFO(t)
	testClosed(t, newSinkStage(t, realSidekey(t), path), reader)
}

// testClosed has the sink's reader go away.
func testClosed(t *testing.T, st *sinkStage, reader *slowReader) {
	t.Helper()
	served := 0
	for range 5 {
		if answer, err := st.ask(t.Context()); err != nil || answer != "200" {
			t.Fatal(answer, err)
		}
		served++
	}
	reader.in.Close()
	reader.over.Wait()
	served += st.until(t, unavailable)
	st.wantUpstream(t, served)
	if answer, err := st.ask(t.Context()); err != nil || answer != unavailable {
		t.Errorf("the request after that: %s %v", answer, err)
	}
	st.wantUpstream(t, served)
	if got := st.probe(t, "/livez"); got != http.StatusOK {
		t.Errorf("/livez: %d", got)
	}
	st.wantOver(t, 5*time.Second)
	st.wantTrail(t, reader.String())
}

// testStuck has the sink's reader read little, nothing, and all again, and ends the process while it
// reads nothing.
func testStuck(t *testing.T, st *sinkStage, reader *slowReader) {
	t.Helper()
	reader.slow(time.Second)
	begin := time.Now()
	for range 5 {
		if answer, err := st.ask(t.Context()); err != nil || answer != "200" {
			t.Fatal(answer, err)
		}
	}
	t.Logf("5 requests took %v with a sink that takes 1 KiB/s", time.Since(begin).Round(time.Millisecond))
	reader.slow(0)
	before, err := st.memory("VmRSS")
	if err != nil {
		t.Fatal(err)
	}
	reader.hold(true)
	st.untilRefused(t)
	at := st.up.total()
	for range 500 {
		if answer, err := st.ask(t.Context()); err != nil || answer != unavailable {
			t.Fatalf("while the sink stands still: %s %v", answer, err)
		}
	}
	after, err := st.memory("VmRSS")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resident memory: %d KiB before, %d KiB after 500 refusals; /readyz %d", before>>10, after>>10, st.probe(t, "/readyz"))
	if after > before+32<<20 {
		t.Errorf("resident memory grew from %d to %d KiB", before>>10, after>>10)
	}
	if got := st.up.total(); got != at {
		t.Errorf("the upstream received %d requests while the sink stood still", got-at)
	}
	reader.hold(false)
	if !poll(func() bool { answer, err := st.ask(t.Context()); return err == nil && answer == "200" }) {
		t.Error("requests are refused though the sink moves again")
	}
	reader.hold(true)
	st.untilRefused(t)
	st.wantOver(t, 12*time.Second) // 1 s for the drain, 5 s beyond it, 2 s for Vault, and the last records
}

// untilRefused makes requests, each for at most a second, until one is told that the sink stands still.
func (st *sinkStage) untilRefused(t *testing.T) {
	t.Helper()
	var answer string
	var err error
	for range 1000 { // a socket's buffer takes some records
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		answer, err = st.ask(ctx)
		cancel()
		if err == nil && answer != "200" || err != nil && !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if err != nil || answer != unavailable {
		t.Fatalf("answer %s, %v, want %s", answer, err, unavailable)
	}
}

func TestSinkStuck(t *testing.T) {
	t.Parallel()
	path, reader := newFIFO(t)
	st := newSinkStage(t, realSidekey(t), path)
	testStuck(t, st, reader)
	reader.hold(false)
	reader.in.Close()
	reader.over.Wait()
	st.wantTrail(t, reader.String())
}

// newSocket makes a Unix socket whose first connection is read, and returns what the config names.
func newSocket(t *testing.T) (path string, accepted <-chan *slowReader) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	readers := make(chan *slowReader, 1)
	go func() {
		defer close(readers)
		if conn, err := ln.Accept(); err == nil {
			readers <- readSlowly(conn)
		}
	}()
	return "unix:" + path, readers
}

func TestSocketStuck(t *testing.T) {
	t.Parallel()
	path, readers := newSocket(t)
	st := newSinkStage(t, realSidekey(t), path)
	reader := <-readers
	testStuck(t, st, reader)
	reader.hold(false)
	reader.over.Wait()
	reader.in.Close()
	st.wantTrail(t, reader.String())
}

func TestSocketClosed(t *testing.T) {
	path, readers := newSocket(t)
	st := newSinkStage(t, realSidekey(t), path)
	testClosed(t, st, <-readers)
}
