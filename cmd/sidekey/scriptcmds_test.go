package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sidekey/sidekey/vault/vaulttest"
)

// patience bounds every wait of a story. Nothing that works takes a tenth of it.
const patience = 30 * time.Second

// A story is what one script holds beside its files.
type story struct {
	canary  string // the credential that must show up nowhere but upstream
	vault   *vaulttest.Server
	up      *upstream
	pending map[string]<-chan string // what background fetches print
	rss     int64                    // bytes, at `rss mark`
}

type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// setupScript prepares the environment of one story:
//
//	$PROXY_PORT $PROXY   where serve is to listen, and its URL
//	$OPS_PORT $OPS       the same for probes and metrics
//	$CA_DIR              an empty directory
//	$CANARY              the credential
//	$BEARER              what /echo says of "Authorization: Bearer $CANARY"
//	$BASIC               the same for Basic, with the user bot
//	$BEARER_1 ...        the same for the bearers of the first issuances of github/token/tester
//	$BEARER_3_ON         a pattern of the third and the later ones
func setupScript(env *testscript.Env) error {
	b := make([]byte, 16)
	rand.Read(b)
	st := &story{canary: "canary-" + hex.EncodeToString(b), pending: map[string]<-chan string{}}
	env.Values[storyKey{}] = st

	env.Setenv("CANARY", st.canary)
	env.Setenv("BEARER", digest("Bearer "+st.canary))
	env.Setenv("BASIC", digest("Basic "+base64.StdEncoding.EncodeToString([]byte("bot:"+st.canary))))
	var later []string // the third and those after it, for whoever may look late
	for n := 1; n <= 30; n++ {
		d := digest(fmt.Sprintf("Bearer %s-%d", st.canary, n))
		env.Setenv("BEARER_"+strconv.Itoa(n), d)
		if n >= 3 {
			later = append(later, d)
		}
	}
	env.Setenv("BEARER_3_ON", strings.Join(later, "|"))
	for _, name := range []string{"PROXY", "OPS"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(name+"_PORT", port)
		env.Setenv(name, "http://127.0.0.1:"+port)
	}
	env.Setenv("HOME", filepath.Join(env.WorkDir, ".home"))
	dir := filepath.Join(env.WorkDir, "ca")
	env.Setenv("CA_DIR", dir)
	return errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(env.WorkDir, ".home"), 0o755))
}

// scriptCommands are the commands that stories use beside testscript's own.
func scriptCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	cmds := map[string]func(ts *testscript.TestScript, args []string){
		"upstream":   cmdUpstream,
		"control":    cmdControl,
		"vault":      cmdVault,
		"ready":      cmdReady,
		"expand":     cmdExpand,
		"exits":      cmdExits,
		"signal":     cmdSignal,
		"rss":        cmdRSS,
		"clean":      cmdClean,
		"session":    cmdSession,
		"trail":      cmdTrail,
		"fetch-wait": cmdFetchWait,
		"sse-read":   cmdSSERead,
		"trickle":    cmdTrickle,
	}
	all := map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"fetch":     cmdFetch,
		"ws-echo":   cmdWSEcho,
		"grpc-call": cmdGRPCCall,
	}
	for name, cmd := range cmds {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("%s: ! has no meaning here", name)
			}
			cmd(ts, args)
		}
	}
	return all
}

// digest is how /echo shows a credential.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// nextPort is above the ports that services use and below those that the kernel hands out, so that
// nobody takes a port between its choice and the start of serve.
var nextPort atomic.Uint32

func freePort() (string, error) {
	nextPort.CompareAndSwap(0, uint32(12000+os.Getpid()%400*40))
	for range 1000 {
		port := strconv.Itoa(int(12000 + (nextPort.Add(1)-12000)%20000))
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			return port, ln.Close()
		}
	}
	return "", errors.New("no free port")
}

// poll calls done until it is true.
func poll(done func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if done() {
			return true
		}
	}
	return false
}

// cmdReady waits until URL answers 200 or, with -gone, until it does not any more.
func cmdReady(ts *testscript.TestScript, args []string) {
	gone := len(args) == 2 && args[0] == "-gone"
	url := args[len(args)-1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	last := ""
	ok := poll(func() bool {
		resp, err := client.Get(url)
		if err != nil {
			last = err.Error()
			return gone
		}
		resp.Body.Close()
		last = resp.Status
		return gone == (resp.StatusCode != http.StatusOK)
	})
	if !ok {
		ts.Fatalf("ready: %s: %s", strings.Join(args, " "), last)
	}
}

// cmdExpand replaces $NAME and ${NAME} in files.
func cmdExpand(ts *testscript.TestScript, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), func(name string) string {
			value := ts.Getenv(name)
			if value == "" {
				ts.Fatalf("expand: %s: $%s is not set", file, name)
			}
			return value
		})
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o644))
	}
}

// cmdExits runs a command that must end with a status: exits 2 sidekey serve.
func cmdExits(ts *testscript.TestScript, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// cmdSignal sends a signal to the processes in the background; testscript's kill knows no TERM.
func cmdSignal(ts *testscript.TestScript, args []string) {
	sig, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}[args[0]]
	if !ok {
		ts.Fatalf("signal: unknown: %q", args)
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(sig))
	}
}

// cmdRSS watches the memory of the process in the background: `rss mark`, and later `rss growth N`
// fails if its peak lies more than N MiB above the peak at the mark.
func cmdRSS(ts *testscript.TestScript, args []string) {
	st := storyOf(ts)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", ts.BackgroundCmds()[0].Process.Pid))
	ts.Check(err)
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(line, &kib)
	ts.Check(err)
	switch {
	case len(args) == 1 && args[0] == "mark":
		st.rss = kib << 10
	case len(args) == 2 && args[0] == "growth" && st.rss > 0:
		limit, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		grown := (kib<<10 - st.rss) >> 20
		ts.Logf("peak memory grew by %d MiB to %d MiB", grown, kib>>10)
		if grown > limit {
			ts.Fatalf("peak memory grew by %d MiB, want at most %d", grown, limit)
		}
	default:
		ts.Fatalf("rss: unknown: %q", args)
	}
}
