// Package execsource obtains credentials from a command that the operator names in the policy.
package execsource

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/sidekey/sidekey/credential"
)

const (
	// maxOutput is the most that a command may write to its standard output, in bytes.
	maxOutput = 64 << 10

	// waitDelay is how long a process that the command left behind may hold its output open.
	waitDelay = 500 * time.Millisecond
)

// Config says which command to run. Command is required.
type Config struct {
	// Command is the program and its arguments. No shell is involved. A program without a
	// slash is looked up in PATH.
	Command []string

	// MaxAge is how long one value is used. Zero means 5 minutes.
	MaxAge time.Duration

	// Timeout bounds one run. Zero means 10 s.
	Timeout time.Duration

	// Now is the clock that expiries are computed by. Nil means time.Now.
	Now func() time.Time
}

// A Source runs its command for every issuance. It implements [credential.Source].
type Source struct {
	cfg Config
	env []string
}

// New returns a source. It reads PATH and HOME, which are all of the environment that the
// command gets, and runs nothing.
func New(cfg Config) (*Source, error) {
	if len(cfg.Command) == 0 || cfg.Command[0] == "" {
		return nil, errors.New("exec source: the command is missing")
	}
	if cfg.MaxAge < 0 || cfg.Timeout < 0 {
		return nil, fmt.Errorf("exec source: maximum age %v, timeout %v: negative", cfg.MaxAge, cfg.Timeout)
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 5*time.Minute)
	cfg.Timeout = cmp.Or(cfg.Timeout, 10*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Source{cfg: cfg, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}}, nil
}

// Issue implements [credential.Source]. The value is the command's standard output without one
// trailing newline, or, if that begins with "{", the member "value" of a JSON object that may
// also have "user" and "expires_at" (RFC 3339). The issuance expires then or at MaxAge,
// whichever comes first.
//
// The error wraps ErrUnavailable if the command failed or took too long, and ErrRefused if it
// cannot be run or its output is not usable. It holds the program's name and the exit status:
// arguments and output may be secret.
func (s *Source) Issue(ctx context.Context, _ string) (*credential.Issuance, error) {
	asked := s.cfg.Now()
	out, err := s.run(ctx)
	if err != nil {
		return nil, err
	}
	iss := &credential.Issuance{
		IssuedAt:  asked,
		ExpiresAt: asked.Add(s.cfg.MaxAge),
		Origin:    credential.Origin{Kind: "exec", Path: s.cfg.Command[0]},
	}
	if bytes.HasPrefix(out, []byte("{")) {
		err = s.object(iss, out)
	} else {
		iss.Value = credential.NewSecret(trimLine(out))
	}
	switch {
	case err != nil:
		return nil, err
	case iss.Value.IsZero():
		return nil, s.refused("no value on its standard output")
	case !asked.Before(iss.ExpiresAt):
		return nil, s.refused("the value has expired already")
	}
	return iss, nil
}

func (s *Source) object(iss *credential.Issuance, out []byte) error {
	var o struct {
		Value     string    `json:"value"`
		User      string    `json:"user"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal(out, &o); err != nil {
		return s.refused("malformed JSON on its standard output") // err would quote it
	}
	iss.Value = credential.NewSecret([]byte(o.Value))
	iss.User = credential.NewSecret([]byte(o.User))
	if !o.ExpiresAt.IsZero() && o.ExpiresAt.Before(iss.ExpiresAt) {
		iss.ExpiresAt = o.ExpiresAt
	}
	return nil
}

func (s *Source) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.cfg.Command[0], s.cfg.Command[1:]...)
	out := new(limited)
	cmd.Env, cmd.Stdout = s.env, out // no stdin, and stderr is thrown away
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	killGroup := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = killGroup, waitDelay

	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.b, nil
	case ctx.Err() != nil:
		return nil, s.failed(credential.ErrUnavailable, "not done in time")
	case out.over:
		return nil, s.refused("over 64 KiB on its standard output")
	case errors.Is(err, exec.ErrWaitDelay):
		_ = killGroup()
		return nil, s.failed(credential.ErrUnavailable, "it left a process behind that holds its output open")
	case errors.As(err, &exit):
		return nil, s.failed(credential.ErrUnavailable, exit.ProcessState.String())
	}
	return nil, s.refused("it cannot be started")
}

func (s *Source) refused(why string) error { return s.failed(credential.ErrRefused, why) }

func (s *Source) failed(kind error, why string) error {
	return fmt.Errorf("exec source: run %s: %s: %w", s.cfg.Command[0], why, kind)
}

func trimLine(b []byte) []byte {
	if line, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		return bytes.TrimSuffix(line, []byte("\r"))
	}
	return b
}

// limited keeps at most maxOutput bytes and fails beyond, so that the command's next write
// fails too.
type limited struct {
	b    []byte
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if len(l.b)+len(p) > maxOutput {
		l.over = true
		return 0, errors.New("too much output")
	}
	l.b = append(l.b, p...)
	return len(p), nil
}
