// Command h2spec runs h2spec, the conformance tests of HTTP/2, against the intercepted leg of a real
// sidekey serve and against a bare net/http server of the same Go.
//
//	h2spec SIDEKEY
//
// SIDEKEY is the binary. It lists the tests that the two do not agree on, and fails if Sidekey passes
// fewer of them.
//
// It is a module of its own so that h2spec never enters Sidekey's go.mod.
package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: h2spec SIDEKEY")
		os.Exit(2)
	}
	if err := compare(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

// compare runs h2spec twice and reports on w.
func compare(w io.Writer, binary string) error {
	dir, err := os.MkdirTemp("", "sidekey-h2spec-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	bare, _, err := startBare(ln)
	if err != nil {
		return err
	}
	defer bare.close()
	ours, err := startSidekey(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer ours.close()

	bareResults, err := run(ctx, bare.addr, filepath.Join(dir, "bare.xml"))
	if err != nil {
		return fmt.Errorf("bare net/http: %v", err)
	}
	results, err := run(ctx, ours.addr, filepath.Join(dir, "ours.xml"))
	if err != nil {
		return fmt.Errorf("sidekey: %v", err)
	}
	// The intents show that the frames went through a tunnel and the pipeline, and not around them.
	trail, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		return err
	}
	intents := bytes.Count(trail, []byte(`"event":"request.intent"`))
	fmt.Fprintf(w, "sidekey sent %d requests on to the upstream meanwhile\n", intents)
	if intents < len(results)/4 {
		return fmt.Errorf("%d requests went through sidekey, of %d tests", intents, len(results))
	}
	return report(w, bareResults, results)
}

// A result is what came of one test. The name of a test is its section and its title.
type result string

const (
	passed  result = "passed"
	skipped result = "skipped"
	failed  result = "failed"
)

// report says on w what differs, and fails if ours passes fewer tests.
func report(w io.Writer, bare, ours map[string]result) error {
	names := []string{}
	for name := range bare {
		names = append(names, name)
	}
	for name := range ours {
		if _, ok := bare[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	differ := 0
	for _, name := range names {
		if bare[name] == ours[name] && ours[name] != failed {
			continue
		}
		if bare[name] == ours[name] {
			fmt.Fprintf(w, "both fail:     %s\n", name)
			continue
		}
		differ++
		fmt.Fprintf(w, "they differ:   %s: net/http %s, sidekey %s\n", name, bare[name], ours[name])
	}
	n, m := count(bare, passed), count(ours, passed)
	fmt.Fprintf(w, "%s: net/http passes %d of %d tests, sidekey %d of %d; %d differ\n", runtime.Version(), n, len(bare), m, len(ours), differ)
	switch {
	case n < len(bare)/2:
		return fmt.Errorf("net/http passes %d of %d tests: the comparison itself is broken", n, len(bare))
	case m < n:
		return fmt.Errorf("sidekey passes %d tests, want at least %d", m, n)
	}
	return nil
}

func count(results map[string]result, kind result) int {
	n := 0
	for _, r := range results {
		if r == kind {
			n++
		}
	}
	return n
}

// run runs h2spec against addr and reads its report.
func run(ctx context.Context, addr, file string) (map[string]result, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", "h2spec", "--tls", "--insecure", "--strict",
		"--host", host, "--port", port, "--timeout", "3", "--junit-report", file)
	out, runErr := cmd.CombinedOutput() // fails if a test does
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("no report (%v): %v\n%s", err, runErr, out)
	}
	return parse(text)
}

// parse reads a JUnit report as h2spec writes it.
func parse(text []byte) (map[string]result, error) {
	var suites struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Title   string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		return nil, fmt.Errorf("read the report: %v", err)
	}
	results := map[string]result{}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			name := s.Package + " " + c.Title
			for n := 2; results[name] != ""; n++ {
				name = fmt.Sprintf("%s %s (%d)", s.Package, c.Title, n)
			}
			switch {
			case c.Failure != nil || c.Error != nil:
				results[name] = failed
			case c.Skipped != nil:
				results[name] = skipped
			default:
				results[name] = passed
			}
		}
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("the report has no tests")
	}
	return results, nil
}
