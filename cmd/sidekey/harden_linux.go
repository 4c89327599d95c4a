package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// harden keeps the process's memory from other processes of its user (I15): no debugger, no
// /proc/PID/mem, no core file, and no goroutine stacks on a crash, which could quote what is in
// memory. It is called by the commands that will hold a credential, before they have one.
func harden() error {
	if err := checkToolchain(); err != nil {
		return err
	}
	debug.SetTraceback("none")
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process non-dumpable: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %v", err)
	}
	return nil
}

// neighbours counts the processes of this process's user that it can see and that are neither it
// nor its parent: in a pod, a shared PID namespace with a shared user, in which they can signal
// this process and look at whatever /proc shows of it.
func neighbours() int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Getuid() {
				n++
			}
		}
	}
	return n
}
