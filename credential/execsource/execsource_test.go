package execsource_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/credential/execsource"
)

var _ credential.Source = (*execsource.Source)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestIssue(t *testing.T) {
	for _, tt := range []struct {
		command     []string
		value, user string
		age         time.Duration
	}{
		{sh(`echo canary-1`), "canary-1", "", time.Minute},
		{sh(`printf canary-1`), "canary-1", "", time.Minute},
		{[]string{"echo", "$HOME; id"}, "$HOME; id", "", time.Minute}, // no shell
		{sh(`echo '{"value":"canary-1"}'`), "canary-1", "", time.Minute},
		{sh(`echo '{"value":"canary-1","user":"u","expires_at":"2026-01-02T03:04:35Z"}'`), "canary-1", "u", 30 * time.Second},
		{sh(`echo '{"value":"canary-1","expires_at":"2027-01-02T03:04:35Z"}'`), "canary-1", "", time.Minute},
		{sh(`echo canary-2 >&2; echo canary-1`), "canary-1", "", time.Minute},
		{sh(`cat; echo canary-1`), "canary-1", "", time.Minute}, // stdin is empty
	} {
		iss, err := source(t, execsource.Config{Command: tt.command}).Issue(t.Context(), "")
		if err != nil {
			t.Errorf("%q: %v", tt.command, err)
			continue
		}
		if v, u := string(iss.Value.Expose()), string(iss.User.Expose()); v != tt.value || u != tt.user {
			t.Errorf("%q: value %q, user %q, want %q, %q", tt.command, v, u, tt.value, tt.user)
		}
		if !iss.IssuedAt.Equal(start) || !iss.ExpiresAt.Equal(start.Add(tt.age)) {
			t.Errorf("%q: issued %v, expires %v, want %v later", tt.command, iss.IssuedAt, iss.ExpiresAt, tt.age)
		}
		if iss.Origin != (credential.Origin{Kind: "exec", Path: tt.command[0]}) {
			t.Errorf("%q: origin %+v", tt.command, iss.Origin)
		}
	}
}

func TestIssueErrorsHoldNoOutput(t *testing.T) {
	for _, tt := range []struct {
		command []string
		kind    error
		says    string
	}{
		{sh(`echo canary-1; echo canary-2 >&2; exit 4`), credential.ErrUnavailable, "exit status 4"},
		{sh(`echo canary-1; kill -9 $$`), credential.ErrUnavailable, "signal: killed"},
		{sh(`: canary-1`), credential.ErrRefused, "no value"},
		{sh(`echo; : canary-1`), credential.ErrRefused, "no value"},
		{sh(`echo '{"value":"canary-1"'`), credential.ErrRefused, "malformed JSON"},
		{sh(`echo '{"value":{"a":"canary-1"}}'`), credential.ErrRefused, "malformed JSON"},
		{sh(`echo '{"token":"canary-1"}'`), credential.ErrRefused, "no value"},
		{sh(`echo '{"value":"canary-1","expires_at":"2026-01-02T03:04:05Z"}'`), credential.ErrRefused, "expired"},
		{sh(`yes canary-1`), credential.ErrRefused, "over 64 KiB"},
		{[]string{"/nonexistent/program", "canary-1"}, credential.ErrRefused, "cannot be started"},
		{[]string{"no-such-program-in-path", "canary-1"}, credential.ErrRefused, "cannot be started"},
	} {
		_, err := source(t, execsource.Config{Command: tt.command}).Issue(t.Context(), "")
		if !errors.Is(err, tt.kind) || !strings.Contains(fmt.Sprint(err), tt.says) || !strings.Contains(fmt.Sprint(err), tt.command[0]) {
			t.Errorf("%q: error %v, want %v that says %q", tt.command, err, tt.kind, tt.says)
		}
		if strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%q: error %v holds a secret", tt.command, err)
		}
	}
}

func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("SIDEKEY_CANARY", "canary-1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	iss, err := source(t, execsource.Config{Command: []string{"env"}}).Issue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(iss.Value.Expose())) {
		if name, _, _ := strings.Cut(line, "="); name != "PATH" && name != "HOME" {
			t.Errorf("the command got %s", line)
		}
	}
}

// The shell's own child must die with it: it would hold the credential's session open.
func TestTimeoutKillsTheGroup(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	src := source(t, execsource.Config{
		Command: sh(`sleep 600 & echo $! > ` + pidFile + `.new; mv ` + pidFile + `.new ` + pidFile + `; wait`),
		Timeout: time.Minute,
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := src.Issue(ctx, ""); result <- err }()
	pid := waitForPID(t, pidFile)
	cancel()
	if err := <-result; !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	waitForEnd(t, pid)
}

func TestTimeout(t *testing.T) {
	src := source(t, execsource.Config{Command: []string{"sleep", "600"}, Timeout: 20 * time.Millisecond})
	if _, err := src.Issue(t.Context(), ""); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
}

func TestProcessLeftBehind(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	src := source(t, execsource.Config{Command: sh(`sleep 600 & echo $! > ` + pidFile + `; echo canary-1`)})
	if _, err := src.Issue(t.Context(), ""); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	waitForEnd(t, waitForPID(t, pidFile))
}

func TestNewChecks(t *testing.T) {
	for _, cfg := range []execsource.Config{
		{}, {Command: []string{""}}, {Command: []string{"x"}, MaxAge: -1}, {Command: []string{"x"}, Timeout: -1},
	} {
		if _, err := execsource.New(cfg); err == nil {
			t.Errorf("New(%+v): no error", cfg)
		}
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func source(t *testing.T, cfg execsource.Config) *execsource.Source {
	t.Helper()
	cfg.MaxAge = time.Minute
	cfg.Now = func() time.Time { return start }
	src, err := execsource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func waitForPID(t *testing.T, path string) int {
	t.Helper()
	var pid int
	eventually(t, "the pid file", func() bool {
		b, _ := os.ReadFile(path)
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		pid = n
		return err == nil
	})
	return pid
}

// waitForEnd waits until pid has gone or is a zombie that its new parent has yet to reap.
func waitForEnd(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the end of the child", func() bool {
		if syscall.Kill(pid, 0) != nil {
			return true
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
