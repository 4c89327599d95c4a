package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// I15: the process that holds credentials cannot be dumped, and leaves no core.
func TestHarden(t *testing.T) {
	if os.Getenv("SIDEKEY_TEST_HARDEN") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
		cmd.Env = append(os.Environ(), "SIDEKEY_TEST_HARDEN=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("hardened")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := harden(); err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("core limit: %s", line)
		}
	}
	// A process that cannot be dumped belongs to root in /proc, whoever runs it; as root, the
	// kernel's own flag is all there is to see.
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d, %v", dumpable, err)
	}
	t.Log("hardened")
}
