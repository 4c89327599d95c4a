package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func newPolicyTest() *cobra.Command {
	var asJSON, verbose, watching bool
	var logs []string
	cmd := policyArgs(&cobra.Command{
		Use:   "test [FILE|-...]",
		Short: "Run the tests of policies, or what an audit log has against one",
		Long: `test runs the tests of each file on the engine that decides in production: those that stand in a
policy, and those in files beside it. A file called NAME_test.yaml, with the keys tests and, if it
is not about NAME.yaml, policy, is such a file; named itself, only its own tests run. Without any
file, policy.yaml and all files of tests in this directory are tested. The exit status is 3 if a
test fails.

With --from-audit, each request in an audit log is put to the one policy that is named, and what
would become of it now is compared with what became of it then. The exit status is 3 if one that was
allowed would be denied, or may be: of an allowed request, the log has the pattern of the route and
not the path, unless the route says log: path. It holds nothing that conditions look at; what hangs on them is counted, and listed
with -v.`,
		Example: `  sidekey policy test policy.yaml
  sidekey policy test -v policies/*.yaml
  sidekey policy test pr-reviewer_test.yaml
  sidekey policy test --from-audit audit.jsonl new.yaml
  sidekey policy test --watch policy.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			test := func() error { return testPolicies(cmd, args, asJSON, verbose) }
			watched := args
			if len(logs) > 0 {
				if len(args) != 1 {
					return mistake(errors.New("--from-audit takes one policy file"))
				}
				test = func() error { return replayPolicy(cmd, args[0], logs, asJSON, verbose) }
				watched = append(watched, logs...)
			} else if len(args) == 0 {
				var err error
				if args, err = testsHere(); err != nil {
					return err
				}
				watched = args
			}
			if watching {
				return watchFiles(cmd, watched, test)
			}
			return test()
		},
	})
	cmd.Args = cobra.ArbitraryArgs
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all results as a JSON array")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the tests that pass, too")
	cmd.Flags().BoolVar(&watching, "watch", false, "test again whenever a file changes")
	cmd.Flags().StringArrayVar(&logs, "from-audit", nil, "audit log whose requests are decided anew; - is standard input")
	cmd.MarkFlagFilename("from-audit", "jsonl", "json", "log")
	return cmd
}

// testsHere returns what is tested if no file is named.
func testsHere() ([]string, error) {
	var files []string
	if _, err := os.Stat("policy.yaml"); err == nil {
		files = append(files, "policy.yaml")
	}
	for _, file := range testFilesIn(".") {
		if tested, err := testedBy(file); err == nil && tested != "policy.yaml" {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return nil, mistake(errors.New("name at least one policy file"))
	}
	return files, nil
}

// testFilesIn returns the files of tests in a directory.
func testFilesIn(dir string) []string {
	var files []string
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		matches, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, m := range matches {
			if policy.IsTestFile(m) {
				files = append(files, m)
			}
		}
	}
	return files
}

// testedBy returns the policy that a file of tests is about.
func testedBy(file string) (string, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(policy.TestedBy(file, src))), nil
}

// runTests runs the tests of a file: of a policy, with those in files beside it.
func runTests(cmd *cobra.Command, file string) ([]policy.TestResult, error) {
	if policy.IsTestFile(file) {
		return runTestFile(file)
	}
	pol, err := policyFrom(cmd, file)
	if err != nil {
		return nil, err
	}
	results := pol.RunTests()
	if file == "-" {
		return results, nil
	}
	for _, beside := range testFilesIn(filepath.Dir(file)) {
		if tested, err := testedBy(beside); err != nil || tested != filepath.Clean(file) {
			continue
		}
		more, err := runTestFile(beside)
		if err != nil {
			return nil, err
		}
		results = append(results, more...)
	}
	return results, nil
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
	done := map[string]bool{} // a file of tests may be named beside its policy
	for _, file := range files {
		more, err := runTests(cmd, file)
		if err != nil {
			return mistake(err)
		}
		for _, t := range more {
			if !done[t.Where] || !policy.IsTestFile(file) {
				results = append(results, t)
			}
			done[t.Where] = true
		}
	}
	t := newTeller(stdout, os.Environ())
	for _, r := range results {
		tested = append(tested, testResult{r.Where, r.Request, r.Want, r.Got, r.OK})
		if !r.OK {
			failures++
		}
		switch {
		case asJSON:
		case !r.OK:
			fmt.Fprintf(stdout, "%s  %s  %s: want %s, got %s\n", t.paint("31", "FAIL"), r.Where, r.Request, r.Want, r.Got)
		case verbose:
			fmt.Fprintf(stdout, "%s    %s  %s: %s\n", t.paint("32", "ok"), r.Where, r.Request, r.Got)
		}
	}
	if asJSON {
		if err := printJSON(stdout, tested); err != nil {
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
