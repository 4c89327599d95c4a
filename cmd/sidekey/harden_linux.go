package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
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
	wipeEnviron()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process non-dumpable: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %v", err)
	}
	return nil
}

// wipeEnviron overwrites the environment that the kernel shows as /proc/PID/environ; os.Clearenv
// does not reach it. Strings that were read before are copies. It is best effort: where it does not
// work, only root can read the file of a process that is not dumpable.
func wipeEnviron() {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return
	}
	// proc(5): the second field is in parentheses and may hold anything; env_start is the 50th.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const envStart, envEnd = 50 - 3, 51 - 3
	if len(fields) <= envEnd {
		return
	}
	start, err1 := strconv.ParseInt(fields[envStart], 10, 64)
	end, err2 := strconv.ParseInt(fields[envEnd], 10, 64)
	if err1 != nil || err2 != nil || start <= 0 || end <= start || end-start > 4<<20 {
		return
	}
	if mem, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0); err == nil {
		defer mem.Close()
		mem.WriteAt(make([]byte, end-start), start)
	}
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
