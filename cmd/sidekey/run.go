package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
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
		Use:   "run [--policy FILE] [--requested-by WHO] -- COMMAND [ARG...]",
		Short: "Run one command as an agent, for the life of one session",
		Long: `run starts a session on a free loopback port, runs COMMAND with the proxy and CA variables set, and
ends the session when it ends: everything that was issued is revoked. Whatever looks like a credential is
taken out of the command's environment; the names are printed. The exit status is the command's.

The policy is policy.yaml in the current directory unless --policy says otherwise. A credential that comes
from: {env: {name: GITHUB_TOKEN}} is read from your environment and is not handed to the command.

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
	config.Flags(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&o.config, "config", "", "configuration file, for Vault and upstream settings")
	cmd.Flags().StringSliceVar(&o.keepEnv, "keep-env", nil, "keep this variable although it looks like a credential; can be repeated")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	cmd.Flags().DurationVar(&o.wait, "vault-wait", 15*time.Second, "how long to wait for the first login to Vault")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	return cmd
}

func runCommand(cmd *cobra.Command, p process, o runOptions, args []string) error {
	argv0, err := exec.LookPath(args[0])
	if err != nil {
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
		return failed(fmt.Errorf("no login to Vault at %s within %v (--vault-wait)", cfg.Vault.Address, o.wait))
	case <-cmd.Context().Done():
		stop()
		<-done
		return &exitError{Status: 130}
	}

	environ, removed := scrub(p.environ, o.keepEnv, agentEnv(sc.url(), dir))
	environ, removed = dropSources(environ, removed, s.policy)
	fmt.Fprintf(say, "sidekey: role %s, session %s, audit trail %s\n", cfg.Role, s.session.ID, cfg.Audit.Path)
	if len(removed) > 0 {
		fmt.Fprintf(say, "sidekey: kept from the command: %s (--keep-env NAME keeps one)\n", strings.Join(removed, ", "))
	}
	status, childErr := runChild(p, argv0, args, environ)
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

// runConfig is serve's configuration with the defaults of run: a free port, no probes, a CA
// directory and an audit file of the session's own.
func runConfig(cmd *cobra.Command, p process, o runOptions, caDir string) (*config.Config, error) {
	fs := cmd.Flags()
	if !fs.Changed("policy") && o.config == "" {
		fs.Set("policy", "policy.yaml")
	}
	setDefault := func(name, value string) {
		if !fs.Changed(name) {
			fs.Set(name, value)
		}
	}
	setDefault("listen", "127.0.0.1:0")
	setDefault("ops", "off")
	setDefault("log-level", "warn")
	setDefault("drain-grace", "2s")
	fs.Set("ca-dir", caDir)
	if !fs.Changed("role") {
		if role := roleOf(fs.Lookup("policy").Value.String()); role != "" {
			fs.Set("role", role)
		}
	}
	if !fs.Changed("audit") {
		path, err := auditFile(environment(p.environ))
		if err != nil {
			return nil, failed(err)
		}
		fs.Set("audit", path)
	}
	cfg, err := config.Load(o.config, p.environ, fs)
	if err != nil {
		return nil, mistake(err)
	}
	return cfg, nil
}

// roleOf returns the role of a policy file, or "" if that cannot be told; whatever is wrong is
// reported when the policy is loaded.
func roleOf(path string) string {
	pol, err := readPolicy(path)
	if err != nil {
		return "unknown"
	}
	return pol.Role()
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

// runChild runs the command to its end and returns its exit status, or 128 plus the number of the
// signal that ended it. Signals sent to this process reach the child.
func runChild(p process, argv0 string, args, environ []string) (int, error) {
	child := &exec.Cmd{Path: argv0, Args: args, Env: environ, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %v", args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case sig := <-signals:
			// A terminal sends ^C and ^\ to the whole foreground group: the child has it already.
			if (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && onTerminal(p.stdin) {
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

func onTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
