package main

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// harden keeps the process's memory from other processes of its user (I15): no debugger, no
// /proc/PID/mem, no core file, and no goroutine stacks on a crash, which could quote what is in
// memory. It is called by the commands that will hold a credential, before they have one.
func harden() error {
	debug.SetTraceback("none")
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process non-dumpable: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %v", err)
	}
	return nil
}
