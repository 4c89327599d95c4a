// Command sidekey is a sidecar that puts short-lived credentials on an agent's outbound requests,
// so that the agent never holds one.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "devel"

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// net/http logs by the standard logger what surplus bytes an upstream sent, and those can be a
	// credential that it sends back.
	log.SetOutput(io.Discard)
	// A second signal ends the process at once: after the first, the default action is back.
	context.AfterFunc(ctx, stop)
	return run(ctx, process{os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr})
}

// A process is what a command may use of the operating system's process.
type process struct {
	args    []string
	environ []string
	stdin   io.Reader
	stdout  io.Writer // results
	stderr  io.Writer // words for people
}

// run is main without the process. It returns the exit status: 0 done, 1 failed while running,
// 2 a mistake in flags, config or policy, 3 a check that found something; [runCommand] returns
// its child's.
func run(ctx context.Context, p process) int {
	root := newRoot(p)
	root.SetArgs(p.args)
	return exitStatus(root.ExecuteContext(ctx), p.stderr)
}
