package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/policy"
)

// runOptions are the flags of run that serve does not have.
type runOptions struct {
	config  string
	keepEnv []string
	quiet   bool
	wait    time.Duration
}

func newRun(p process) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:                   "run [FLAGS] -- COMMAND [ARG...]",
		DisableFlagsInUseLine: true,
		Short:                 "Run one command as an agent, for the life of one session",
		Long: `run starts a session on a free loopback port, runs COMMAND with the proxy and CA variables set, and
ends the session when it ends: everything that was issued is revoked. Whatever looks like a credential is
taken out of the command's environment; the names are printed, and --keep-env NAME keeps one, unless the
policy itself reads it. The exit status is the command's.

The policy is policy.yaml in the current directory unless --policy says otherwise. A credential that comes
from: {env: {name: GITHUB_TOKEN}} is read from your environment and is not handed to the command.

With --admin PATH there is a socket for sidekey status and sidekey session; the command runs as you, and can use it too.

The audit trail goes to a file of its own below $XDG_STATE_HOME/sidekey (or ~/.local/state/sidekey).`,
		Example: `  sidekey run --policy policy.yaml -- curl https://api.github.com/user
  sidekey run --requested-by alice@example.com -- claude -p "review the open pull requests"
  sidekey run --keep-env DATABASE_URL -- make integration
  sidekey run --config sidekey.yaml -- ./agent.py      # with Vault`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return mistake(errors.New("no command to run\n\tput it behind --, as in: sidekey run -- curl https://api.github.com/user"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runCommand(cmd, p, o, args) },
	}
	runDefaults("").Flags(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&o.config, "config", "", "configuration file, for Vault and upstream settings")
	cmd.Flags().StringSliceVar(&o.keepEnv, "keep-env", nil, "keep this variable although it looks like a credential; can be repeated")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	cmd.Flags().DurationVar(&o.wait, "vault-wait", 15*time.Second, "how long to wait for the first login to Vault, and for the credentials")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	return cmd
}

func runCommand(cmd *cobra.Command, p process, o runOptions, args []string) error {
	// Signals are taken over before anything is made that has to be cleaned up, and none is lost
	// between here and the child.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, childSignals...)
	defer signal.Stop(signals)
	argv0, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &exitError{126, fmt.Errorf("%s: permission denied", args[0])}
	case err != nil:
		return &exitError{127, fmt.Errorf("%s: command not found", args[0])}
	}
	dir, err := os.MkdirTemp("", "sidekey-ca-")
	if err != nil {
		return failed(fmt.Errorf("make a directory for the CA: %v", err))
	}
	defer os.RemoveAll(dir)
	cfg, err := runConfig(cmd, p, o, dir)
	if err != nil {
		return err
	}
	log, err := newLogger(p.stderr, cfg.LogLevel)
	if err != nil {
		return mistake(err)
	}
	s, err := prepare(cfg, p, log)
	if err != nil {
		return err
	}
	sc, err := newSidecar(s, log)
	if err != nil {
		return err
	}
	say := p.stderr
	if o.quiet {
		say = io.Discard
	}

	// The sidecar outlives the signal that ends the child: it has to answer and then revoke.
	ctx, stop := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- sc.run(ctx) }()
	select {
	case <-sc.ready:
	case err := <-done:
		return failed(err)
	case <-time.After(o.wait):
		stop()
		<-done
		return failed(sc.notReady(o.wait))
	case sig := <-signals:
		stop()
		<-done
		return &exitError{Status: 128 + int(sig.(syscall.Signal))}
	}

	environ, removed := scrub(p.environ, o.keepEnv, agentEnv(sc.url(), cfg.CADir))
	environ, removed = dropSources(environ, removed, s.policy)
	fmt.Fprintf(say, "sidekey: role %s, session %s, audit trail %s\n", cfg.Role, s.session.ID, cfg.Audit.Path)
	if len(removed) > 0 {
		fmt.Fprintf(say, "sidekey: kept from the command: %s (--keep-env NAME keeps one)\n", strings.Join(removed, ", "))
	}
	status, childErr := runChild(p, argv0, args, environ, signals)
	stop()
	if err := <-done; err != nil {
		printError(p.stderr, err)
		status = cmp.Or(status, exitFailed)
	}
	if childErr != nil {
		return failed(childErr)
	}
	if status != 0 {
		return &exitError{Status: status}
	}
	return nil
}

// notReady says what the session was still waiting for.
func (sc *sidecar) notReady(waited time.Duration) error {
	what := "the credentials were not there"
	if !sc.vaultReady.Load() {
		what = "no login to Vault at " + sc.cfg.Vault.Address
	}
	return fmt.Errorf("%s within %v (--vault-wait)", what, waited)
}

// runDefaults are the defaults of run where they differ from serve's: a free port, no probes, a
// CA directory and an audit file of the session's own, the role of the policy.
func runDefaults(caDir string) config.Defaults {
	return config.Defaults{
		"role": "", "policy": "policy.yaml", "listen": "127.0.0.1:0", "ops": "off", "ca.dir": caDir,
		"audit.path": "", "drain_grace": "2s", "log_level": "warn",
	}
}

func runConfig(cmd *cobra.Command, p process, o runOptions, caDir string) (*config.Config, error) {
	env := environment(p.environ)
	if o.config == "" {
		o.config = env.get("SIDEKEY_CONFIG")
	}
	cfg, err := runDefaults(caDir).Load(o.config, p.environ, cmd.Flags())
	if err != nil {
		return nil, mistake(err)
	}
	if cfg.Audit.Path == "" {
		if cfg.Audit.Path, err = auditFile(env); err != nil {
			return nil, failed(fmt.Errorf("%v\n\tsay where the audit trail is to go: --audit FILE", err))
		}
	}
	return cfg, nil
}

// auditFile names a file for a session's trail.
func auditFile(env environment) (string, error) {
	state := env.get("XDG_STATE_HOME")
	if state == "" {
		home := env.get("HOME")
		if home == "" {
			return "", errors.New("neither XDG_STATE_HOME nor HOME is set; say --audit FILE")
		}
		state = filepath.Join(home, ".local", "state")
	}
	dir := filepath.Join(state, "sidekey")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a directory for audit trails: %v", err)
	}
	return filepath.Join(dir, fmt.Sprintf("%s-%d.jsonl", time.Now().UTC().Format("20060102T150405Z"), os.Getpid())), nil
}

// dropSources takes the variables that credentials come from out of the child's environment,
// whatever they are called.
func dropSources(environ, removed []string, pol *policy.Policy) (out, names []string) {
	for _, c := range pol.Credentials() {
		if c.From.Env == nil {
			continue
		}
		name := c.From.Env.Name
		environ = slices.DeleteFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
		if !slices.Contains(removed, name) {
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	return environ, removed
}

var childSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// runChild runs the command to its end and returns its exit status, or 128 plus the number of the
// signal that ended it. Signals sent to this process reach the child.
func runChild(p process, argv0 string, args, environ []string, signals <-chan os.Signal) (int, error) {
	child := &exec.Cmd{Path: argv0, Args: args, Env: environ, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
	if err := child.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %v", args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case sig := <-signals:
			// A terminal sends ^C and ^\ to its whole foreground group: the child has it already.
			if (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && inForeground() {
				continue
			}
			child.Process.Signal(sig)
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, fmt.Errorf("run %s: %v", args[0], err)
			}
			if ws, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return child.ProcessState.ExitCode(), nil
		}
	}
}

// inForeground reports whether this process is in the foreground group of its terminal.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // no terminal
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// onTerminal reports whether v is a terminal.
func onTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
