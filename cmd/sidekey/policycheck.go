package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func newPolicyCheck() *cobra.Command {
	var asJSON, asSARIF, watching bool
	cmd := policyArgs(&cobra.Command{
		Use:   "check FILE|-...",
		Short: "List every mistake in policy files, and run their tests",
		Long: `check parses each file as strictly as the sidecar does and runs the tests that stand in it; a file
called NAME_test.yaml holds tests only. It prints nothing if all is well. A warning is printed and
does no more. A file called - is standard input. The exit status is 2 if a file
has mistakes and 3 if a test fails.`,
		Example: `  sidekey policy check policies/*.yaml
  sidekey policy check --json policy.yaml
  sidekey policy check --sarif policies/*.yaml > policy.sarif     # for code review
  sidekey policy check --watch policy.yaml
  git show HEAD:policy.yaml | sidekey policy check -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			check := func() error { return checkPolicies(cmd, args, asJSON, asSARIF) }
			if watching {
				return watchFiles(cmd, args, check)
			}
			return check()
		},
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the mistakes as a JSON array on standard output")
	cmd.Flags().BoolVar(&asSARIF, "sarif", false, "print the mistakes as SARIF 2.1.0 on standard output")
	cmd.Flags().BoolVar(&watching, "watch", false, "check again whenever a file changes")
	cmd.MarkFlagsMutuallyExclusive("json", "sarif")
	return cmd
}

const (
	levelError   = "error"
	levelWarning = "warning"
)

// A finding is a mistake, a warning, or a failed test, as JSON.
type finding struct {
	Where string `json:"where"`
	Path  string `json:"path,omitempty"`
	Msg   string `json:"message"`
	Hint  string `json:"hint,omitempty"`
	Level string `json:"level"` // "error" or "warning"

	test bool
}

func checkPolicies(cmd *cobra.Command, files []string, asJSON, asSARIF bool) error {
	found := []finding{}
	status := 0
	for _, file := range files {
		more, s := checkPolicy(cmd, file)
		found = append(found, more...)
		if status != exitMistake && s != 0 {
			status = s
		}
	}
	var err error
	switch {
	case asSARIF:
		err = printJSON(cmd.OutOrStdout(), newSARIF(found))
	case asJSON:
		err = printJSON(cmd.OutOrStdout(), found)
	default:
		for _, f := range found {
			msg := f.Msg
			if f.Level != levelError {
				msg = f.Level + ": " + msg
			}
			fmt.Fprintln(cmd.ErrOrStderr(), policy.Mistake{Where: f.Where, Path: f.Path, Msg: msg, Hint: f.Hint})
		}
	}
	if err != nil {
		return failed(err)
	}
	if status != 0 {
		return &exitError{Status: status}
	}
	return nil
}

// checkPolicy returns all that there is to say about one file, and the exit status for it.
func checkPolicy(cmd *cobra.Command, file string) (found []finding, status int) {
	var results []policy.TestResult
	var err error
	if policy.IsTestFile(file) {
		results, err = runTestFile(file)
	} else {
		var pol *policy.Policy
		if pol, err = policyFrom(cmd, file); err == nil {
			for _, w := range pol.Warnings() {
				found = append(found, finding{w.Where, w.Path, w.Msg, w.Hint, levelWarning, false})
			}
			results = pol.RunTests()
		}
	}
	if ms, ok := errors.AsType[policy.Mistakes](err); ok {
		for _, m := range ms {
			found = append(found, finding{m.Where, m.Path, m.Msg, m.Hint, levelError, false})
		}
		return found, exitMistake
	}
	if err != nil {
		return append(found, finding{Where: file, Msg: err.Error(), Level: levelError}), exitMistake
	}
	for _, t := range results {
		if !t.OK {
			status = exitFound
			found = append(found, finding{t.Where, "tests", t.Request + ": want " + t.Want + ", got " + t.Got, "", levelError, true})
		}
	}
	return found, status
}

// runTestFile runs the tests of a file on the policy that it is about.
func runTestFile(file string) ([]policy.TestResult, error) {
	if err := checkFile(file); err != nil {
		return nil, err
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(filepath.Dir(file), filepath.FromSlash(policy.TestedBy(file, src)))
	if err := checkFile(name); err != nil {
		return nil, fmt.Errorf("the policy that %s tests: %w", file, err)
	}
	pol, err := readPolicy(name)
	if err != nil {
		return nil, err
	}
	return pol.RunTestFile(file, src)
}
