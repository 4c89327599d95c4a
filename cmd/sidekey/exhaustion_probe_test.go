package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// startProbes has another process probe url until the result is called, which returns the times of
// the probes, sorted, and how many failed. In this process a probe would wait behind the attack.
func startProbes(t *testing.T, url string) func() (times []time.Duration, failed int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestExhaustionProbe$", "-test.v")
	cmd.Env = append(os.Environ(), "SIDEKEY_EXHAUSTION_PROBE="+url)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (times []time.Duration, failed int) {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the probes: %v\n%s", err, out.String())
		}
		for line := range strings.Lines(out.String()) {
			text, ok := strings.CutPrefix(line, "probe ")
			if !ok {
				continue
			}
			d, err := time.ParseDuration(strings.TrimSpace(text))
			if err != nil {
				failed++
				continue
			}
			times = append(times, d)
		}
		slices.Sort(times)
		return times, failed
	}
}

// TestExhaustionProbe is the other process of startProbes. It probes as a kubelet does, each time on
// a connection of its own, until its standard input ends.
func TestExhaustionProbe(t *testing.T) {
	url := os.Getenv("SIDEKEY_EXHAUSTION_PROBE")
	if url == "" {
		t.Skip("this is a process that TestExhaustion starts")
	}
	ended := make(chan struct{})
	go func() { defer close(ended); io.Copy(io.Discard, os.Stdin) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			fmt.Fprintln(out, "probe", probeOnce(client, url))
		}
	}
}

// probeOnce returns how long an answer took, or "failed".
func probeOnce(client *http.Client, url string) string {
	begin := time.Now()
	resp, err := client.Get(url)
	if err != nil {
		return "failed"
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return "failed"
	}
	return time.Since(begin).String()
}
