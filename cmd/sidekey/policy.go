package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, test and explain policy files",
		Example: `  sidekey policy check policy.yaml
  sidekey policy explain --policy policy.yaml GET https://api.github.com/user`,
		Args:                       subcommand,
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyTest(), newPolicyExplain(), newPolicySchema())
	return cmd
}

// policyArgs asks for at least one file and completes YAML files.
func policyArgs(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return mistake(errors.New("name at least one policy file"))
		}
		return nil
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return cmd
}

func newPolicyCheck() *cobra.Command {
	var asJSON bool
	cmd := policyArgs(&cobra.Command{
		Use:   "check FILE|-...",
		Short: "List every mistake in policy files, and run their tests",
		Long: `check parses each file as strictly as the sidecar does and runs the tests that stand in it. It prints
nothing if all is well. A warning is printed and does no more. A file called - is standard input. The exit status is 2 if a file
has mistakes and 3 if a test fails.`,
		Example: "  sidekey policy check policies/*.yaml\n  sidekey policy check --json policy.yaml\n  git show HEAD:policy.yaml | sidekey policy check -",
		RunE: func(cmd *cobra.Command, args []string) error {
			return checkPolicies(cmd, args, asJSON)
		},
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the mistakes as a JSON array on standard output")
	return cmd
}

const levelError = "error"

// A finding is a mistake, a warning, or a failed test, as JSON.
type finding struct {
	Where string `json:"where"`
	Path  string `json:"path,omitempty"`
	Msg   string `json:"message"`
	Hint  string `json:"hint,omitempty"`
	Level string `json:"level"` // "error" or "warning"
}

// policyFrom reads and parses the policy file that an argument names; - is standard input.
func policyFrom(cmd *cobra.Command, file string) (*policy.Policy, error) {
	if file != "-" {
		return readPolicy(file)
	}
	src, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), strictyaml.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read policy from standard input: %v", err)
	}
	return policy.Parse("stdin", src)
}

func checkPolicies(cmd *cobra.Command, files []string, asJSON bool) error {
	stdout, stderr := cmd.OutOrStdout(), cmd.ErrOrStderr()
	found := []finding{}
	status := 0
	for _, file := range files {
		pol, err := policyFrom(cmd, file)
		ms, ok := errors.AsType[policy.Mistakes](err)
		switch {
		case ok:
			status = exitMistake
			for _, m := range ms {
				found = append(found, finding{m.Where, m.Path, m.Msg, m.Hint, levelError})
			}
			continue
		case err != nil:
			status = exitMistake
			found = append(found, finding{Where: file, Msg: err.Error(), Level: levelError})
			continue
		}
		for _, w := range pol.Warnings() {
			found = append(found, finding{w.Where, w.Path, w.Msg, w.Hint, "warning"})
		}
		for _, t := range pol.RunTests() {
			if !t.OK {
				if status == 0 {
					status = exitFound
				}
				found = append(found, finding{t.Where, "tests", t.Request + ": want " + t.Want + ", got " + t.Got, "", levelError})
			}
		}
	}
	if asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return failed(err)
		}
	} else {
		for _, f := range found {
			msg := f.Msg
			if f.Level != levelError {
				msg = f.Level + ": " + msg
			}
			fmt.Fprintln(stderr, policy.Mistake{Where: f.Where, Path: f.Path, Msg: msg, Hint: f.Hint})
		}
	}
	if status != 0 {
		return &exitError{Status: status}
	}
	return nil
}

func newPolicyTest() *cobra.Command {
	var asJSON, verbose bool
	cmd := policyArgs(&cobra.Command{
		Use:     "test FILE|-...",
		Short:   "Run the tests that stand in policy files",
		Long:    "test runs the tests of each file on the engine that decides in production. The exit status is 3 if one fails.",
		Example: "  sidekey policy test policy.yaml\n  sidekey policy test -v policies/*.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			return testPolicies(cmd, args, asJSON, verbose)
		},
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all results as a JSON array")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the tests that pass, too")
	return cmd
}

// A testResult is the result of one test as JSON.
type testResult struct {
	Where   string `json:"where"`
	Request string `json:"request"`
	Want    string `json:"want"`
	Got     string `json:"got"`
	OK      bool   `json:"ok"`
}

func testPolicies(cmd *cobra.Command, files []string, asJSON, verbose bool) error {
	stdout := cmd.OutOrStdout()
	var results []policy.TestResult
	tested, failures := []testResult{}, 0
	for _, file := range files {
		pol, err := policyFrom(cmd, file)
		if err != nil {
			return mistake(err)
		}
		results = append(results, pol.RunTests()...)
	}
	for _, t := range results {
		tested = append(tested, testResult{t.Where, t.Request, t.Want, t.Got, t.OK})
		if !t.OK {
			failures++
		}
		switch {
		case asJSON:
		case !t.OK:
			fmt.Fprintf(stdout, "FAIL  %s  %s: want %s, got %s\n", t.Where, t.Request, t.Want, t.Got)
		case verbose:
			fmt.Fprintf(stdout, "ok    %s  %s: %s\n", t.Where, t.Request, t.Got)
		}
	}
	if asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(tested); err != nil {
			return failed(err)
		}
	} else {
		fmt.Fprintf(stdout, "%d tests, %d failed\n", len(results), failures)
	}
	if failures > 0 {
		return &exitError{Status: exitFound}
	}
	return nil
}

func newPolicyExplain() *cobra.Command {
	var file string
	var asJSON, websocket bool
	cmd := &cobra.Command{
		Use:   "explain --policy FILE METHOD URL",
		Short: "Say what the policy makes of one request, and why",
		Long: `explain decides one request with the engine that decides in production. On a denial it names the routes
that came nearest and what would have to differ. It always exits with 0 if it could decide.`,
		Example: `  sidekey policy explain --policy policy.yaml GET https://api.github.com/repos/acme/app/pulls
  sidekey policy explain --policy policy.yaml --json DELETE https://api.github.com/repos/acme/app`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return mistake(errors.New("explain takes a method and a URL, as in: GET https://api.github.com/user"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			pol, err := policyFrom(cmd, file)
			if err != nil {
				return mistake(err)
			}
			if !policy.ValidMethod(args[0]) {
				return mistake(fmt.Errorf("%q is not a method that can be proxied; write METHOD URL, the method in upper case, as in: GET https://api.github.com/user", args[0]))
			}
			target, err := policy.ParseURL(args[1])
			if err != nil {
				return mistake(err)
			}
			e := pol.Explain(policy.Request{Method: args[0], Target: target, WebSocket: websocket})
			return failed(printExplanation(cmd.OutOrStdout(), pol, args, e, asJSON))
		},
	}
	cmd.Flags().StringVar(&file, "policy", "policy.yaml", "policy file; - is standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&websocket, "websocket", false, "the request asks to become a WebSocket")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	return cmd
}

// explained is an explanation as JSON.
type explained struct {
	Request    string          `json:"request"`
	Decision   string          `json:"decision"`
	Reason     string          `json:"reason"`
	Mode       string          `json:"mode"`
	Route      string          `json:"route,omitempty"`
	Where      string          `json:"where,omitempty"`
	Credential string          `json:"credential,omitempty"`
	Why        string          `json:"why,omitempty"`
	Misses     []explainedMiss `json:"nearest_misses,omitempty"`
}

type explainedMiss struct {
	Route   string   `json:"route"`
	Where   string   `json:"where"`
	Differs []string `json:"differs"`
}

func printExplanation(w io.Writer, pol *policy.Policy, request []string, e policy.Explanation, asJSON bool) error {
	x := explained{Request: strings.Join(request, " "), Decision: "deny", Reason: string(e.Reason), Mode: pol.Mode().String()}
	if e.Allow {
		x.Decision = "allow"
		x.Route, x.Where, x.Credential, x.Why = e.Route.Name, e.Route.Where, e.Route.Credential, e.Route.Reason
	}
	for _, m := range e.Misses {
		x.Misses = append(x.Misses, explainedMiss{m.Route.Name, m.Route.Where, m.Differs})
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(x)
	}
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-11s %s\n", key, value)
		}
	}
	row("request", x.Request)
	row("decision", x.Decision)
	row("reason", x.Reason)
	if !e.Allow && pol.Mode() == policy.Report {
		row("mode", "report: the request is let through, without a credential, and recorded")
	}
	if e.Allow {
		row("route", x.Route+"  ("+x.Where+")")
		if x.Credential == "" {
			x.Credential = "none"
		}
		row("credential", x.Credential)
		row("why", x.Why)
	}
	for i, m := range x.Misses {
		if i == 0 {
			fmt.Fprintln(w, "nearest misses")
		}
		fmt.Fprintf(w, "  %s  (%s)\n", m.Route, m.Where)
		for _, d := range m.Differs {
			fmt.Fprintln(w, "    "+d)
		}
	}
	return nil
}

func newPolicySchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Example: `  sidekey policy schema > policy.schema.json
  # and in the policy file: # yaml-language-server: $schema=policy.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return failed(err)
		},
	}
}
