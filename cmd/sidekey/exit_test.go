package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func TestExitStatus(t *testing.T) {
	plain := errors.New("it broke")
	two := policy.Mistakes{{Where: "a.yaml:1:2", Path: "role", Msg: "wrong", Hint: "right"}, {Where: "a.yaml:3:4", Msg: "worse"}}
	const twoText = "a.yaml:1:2: role: wrong\n\thint: right\na.yaml:3:4: worse\n"
	for _, tc := range []struct {
		name   string
		err    error
		status int
		stderr string
	}{
		{"nothing", nil, 0, ""},
		{"failed(nil)", failed(nil), 0, ""},
		{"what cobra found", plain, exitMistake, "sidekey: it broke\n"},
		{"failed", failed(plain), exitFailed, "sidekey: it broke\n"},
		{"mistake", mistake(plain), exitMistake, "sidekey: it broke\n"},
		{"mistakes", mistake(two), exitMistake, twoText},
		{"mistakes while running", failed(two), exitFailed, twoText},
		{"failed keeps a mistake", failed(mistake(plain)), exitMistake, "sidekey: it broke\n"},
		{"wrapped", fmt.Errorf("at the end: %w", mistake(plain)), exitMistake, "sidekey: at the end: it broke\n"},
		{"found, and said so already", &exitError{Status: exitFound}, exitFound, ""},
		{"a child's status", &exitError{Status: 137}, 137, ""},
		{"a status with words", &exitError{127, errors.New("x: command not found")}, 127, "sidekey: x: command not found\n"},
		{"no blank lines", mistake(errors.New("\nit broke\n\n")), exitMistake, "sidekey: it broke\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := exitStatus(tc.err, &stderr); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
			if got := stderr.String(); got != tc.stderr {
				t.Errorf("stderr %q, want %q", got, tc.stderr)
			}
		})
	}
}

// What is wrong on the command line ends with its status and is told on stderr, and only there.
func TestRunStatus(t *testing.T) {
	for _, tc := range []struct {
		args   string
		status int
		stderr string // part of it; "" is nothing at all
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"version", 0, ""},
		{"env", 0, ""},
		{"policy schema", 0, ""},
		{"frobnicate", 2, `unknown command "frobnicate"`},
		{"--frobnicate", 2, "unknown flag: --frobnicate\n\tsee sidekey --help\n"},
		{"env --frobnicate", 2, "see sidekey env --help\n"},
		{"env --format", 2, "flag needs an argument: --format\n\tsee sidekey env --help\n"},
		{"env now", 2, "now"},
		{"demo now", 2, "now"},
		{"version now", 2, "now"},
		{"policy schema now", 2, "now"},
		{"policy chekc policy.yaml", 2, `unknown command "chekc"`},
		{"serve --confg config.yaml", 2, "see sidekey serve --help\n"},
		{"run --polcy policy.yaml -- true", 2, "see sidekey run --help\n"},
		{"run --vault-wait soon -- true", 2, "see sidekey run --help\n"},
		{"run -- /no/such/command", 127, "sidekey: /no/such/command: command not found\n"},
		{"env --format toml", 2, `unknown format "toml"`},
		{"run", 2, "no command to run"},
		{"run --", 2, "no command to run"},
		{"help nonsense", 2, `unknown command "nonsense"`},
		{"help polcy", 2, `did you mean "policy"`},
		{"help policy nonsense", 2, `unknown command "nonsense"`},
		{"help policy check", 0, ""},
		{"completion bsh", 2, `unknown command "bsh"; did you mean "bash"?`},
		{"completion bash", 0, ""},
		{"completion", 0, ""},
		{"session", 0, ""},
		{"session stop", 2, `unknown command "stop"`},
		{"session ed", 2, `did you mean "end"?`},
		{"session end now", 2, "now"},
		{"status now", 2, "now"},
		{"status --admin /no/such.sock", 1, "no sidecar at /no/such.sock: there is no such socket\n\tset admin "},
		{"session kill --admin /no/such.sock", 1, "no sidecar at /no/such.sock"},
		{"policy check", 2, "name at least one policy file"},
		{"policy test", 2, "name at least one policy file"},
		{"policy explain", 2, "a method and a URL"},
		{"policy check /does/not/exist", 2, "/does/not/exist: "},
		{"serve --config /does/not/exist", 2, "/does/not/exist: "},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := process{strings.Fields(tc.args), []string{"PATH=/usr/bin:/bin"}, strings.NewReader(""), &stdout, &stderr}
			if got := run(context.Background(), p); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
			if got := stderr.String(); !strings.Contains(got, tc.stderr) || (tc.stderr == "") != (got == "") {
				t.Errorf("stderr %q, want %q in it", got, tc.stderr)
			}
			if (tc.status == 0) != (stdout.Len() > 0) {
				t.Errorf("stdout has %d bytes with status %d", stdout.Len(), tc.status)
			}
		})
	}
}

// Every command that does something says what, and shows how.
func TestCommandsHaveHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its short text is %q; want one line without a full stop", cmd.CommandPath(), cmd.Short)
		}
		if !cmd.HasSubCommands() && !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: its example is %q; want one that calls it", cmd.CommandPath(), cmd.Example)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	root := newRoot(process{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	if len(root.Commands()) == 0 {
		t.Fatal("there are no commands")
	}
	walk(root)
}
