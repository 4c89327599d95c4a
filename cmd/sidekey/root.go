package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

// The exit statuses, beside 0.
const (
	exitFailed  = 1
	exitMistake = 2
	exitFound   = 3
)

// An exitError ends the process with a status of its own. A nil Err prints nothing more.
type exitError struct {
	Status int
	Err    error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *exitError) Unwrap() error { return e.Err }

// mistake marks err as the operator's to correct.
func mistake(err error) error { return &exitError{exitMistake, err} }

func newRoot(p process) *cobra.Command {
	root := &cobra.Command{
		Use:   "sidekey",
		Short: "Take the keys away from an agent, and give it short-lived access instead",
		Long: `Sidekey runs beside an AI agent. The agent's HTTP_PROXY points at it; it matches each outbound
request against the routes that the agent's role may use, and puts a short-lived credential on it that
the agent never sees. Every issuance and every use is recorded.`,
		Example: `  sidekey demo                                        # the whole story, nothing to install
  sidekey run --policy policy.yaml -- curl https://api.github.com/user
  sidekey policy check policy.yaml
  sidekey serve --config /etc/sidekey/config.yaml`,
		SilenceErrors: true, SilenceUsage: true,
		Args:    subcommand,
		Version: version,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return mistake(fmt.Errorf("%v\n\tsee %s --help", err, cmd.CommandPath()))
	})
	root.AddCommand(
		newServe(p), newRun(p), newStatus(p), newSession(p), newDemo(p), newPolicy(), newAudit(), newEnv(), newVersion(), newDemoAgent(p),
	)
	root.SetHelpCommand(newHelp(root))
	addCompletion(root)
	return root
}

// newHelp is cobra's help command, but that a topic it does not know is a mistake.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Show the help of a command",
		Example: "  sidekey help policy check",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if at, rest, err := root.Find(args); err == nil && len(rest) == 0 {
				for _, sub := range at.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, sub.Name()+"\t"+sub.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			at, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return subcommand(at, rest)
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// addCompletion adds cobra's completion commands, but that a shell they do not know is a mistake.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args, cmd.SuggestionsMinimumDistance = subcommand, 2
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Short = "Print a completion script for a shell"
		for _, shell := range cmd.Commands() {
			shell.Example = "  " + shell.CommandPath() + " > completion-script"
		}
	}
}

// subcommand refuses the arguments of a command that only has subcommands.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += fmt.Sprintf("; did you mean %q?", cmp.Or(strictyaml.Nearest(args[0], near), near[0]))
	}
	return errors.New(msg + "\n\tsee " + cmd.CommandPath() + " --help")
}

// exitStatus prints err, if there is anything to print, and returns what the process ends with.
// An error that cobra made before any command ran (a wrong number of arguments) is a mistake too.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	status := exitMistake
	e, ours := errors.AsType[*exitError](err)
	if ours {
		status = e.Status
	}
	if !ours || e.Err != nil {
		printError(stderr, err)
	}
	return status
}

// printError prints mistakes one below the other, anything else behind the program's name.
func printError(w io.Writer, err error) {
	if ms, ok := errors.AsType[policy.Mistakes](err); ok {
		for _, m := range ms {
			fmt.Fprintln(w, m)
		}
		return
	}
	fmt.Fprintln(w, "sidekey: "+strings.TrimSpace(err.Error()))
}

// newLogger returns the operational log. It never gets bytes of requests or secrets.
func newLogger(w io.Writer, level string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("log level %q is not debug, info, warn or error", level)
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// failed marks err as something that went wrong while running.
func failed(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	return &exitError{exitFailed, err}
}
