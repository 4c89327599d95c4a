package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyWatch: check --watch checks again when a file changes, whichever way, and ends well.
func TestPolicyWatch(t *testing.T) {
	const good = "version: 1\nrole: a\nroutes:\n  - {name: a, host: a.example, access: read-only, paths: [/]}\n"
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.yaml", good)
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, process{args: []string{"policy", "check", "--watch", file}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: w})
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Fatalf("got %q, want %q", lines.Text(), want)
		}
	}
	next("  ok; watching")
	write("policy.yaml", strings.Replace(good, "access", "acess", 1))
	next("unknown key")
	next("did you mean")
	next("exit status 2; watching")
	write("next.yaml", good)
	next("unknown key") // another file in the directory may be included
	next("did you mean")
	next("exit status 2; watching")
	if err := os.Rename(filepath.Join(dir, "next.yaml"), file); err != nil {
		t.Fatal(err)
	}
	next("  ok; watching")
	stop()
	if lines.Scan() {
		t.Errorf("after the end: %q", lines.Text())
	}
	if got := <-status; got != 0 {
		t.Errorf("exit status %d", got)
	}
}
