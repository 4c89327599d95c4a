package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/vault/vaulttest"
)

const (
	killLanes  = 2                      // processes at a time
	killAgents = 8                      // of each process
	killRoutes = 8                      // of each agent
	killWindow = 100 * time.Millisecond // more where the first answer takes longer, as under the race detector
	killsAFile = 50                     // processes that write to one trail, one after another
)

// By method and route a request can be told in the trail; an agent uses each pair once before it
// begins anew.
var killMethods = []string{"GET", "PUT", "POST", "DELETE", "PATCH"}

const killConfig = `role: tester
policy: policy.yaml
listen: 127.0.0.1:%s
ops: 127.0.0.1:%s
ca: {dir: ca}
vault: {address: %q, auth: {method: token, token_file: vault-token}}
upstream: {allow_cidrs: [127.0.0.1/32], resolve: {api.test: 127.0.0.1}, ca_file: %q}
`

// TestKill kills processes of the real binary, at random instants, while agents send through them.
// What the upstream received must stand in the trail before, however little time there was. There are
// SIDEKEY_KILLS of them; `make test-kill` takes 1000.
func TestKill(t *testing.T) {
	kills := 10
	if s := os.Getenv("SIDEKEY_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var sum killFigures
	begin := time.Now()
	t.Run("lanes", func(t *testing.T) {
		for lane := range killLanes {
			t.Run(strconv.Itoa(lane), func(t *testing.T) {
				t.Parallel()
				l := newKillLane(t, lane)
				for n := range kills / killLanes {
					l.round(t, n)
					if (n+1)%killsAFile == 0 {
						l.check(t)
					}
				}
				l.check(t)
				mu.Lock()
				defer mu.Unlock()
				sum.add(l.figures)
			})
		}
	})
	fmt.Printf("%v in %v\n", &sum, time.Since(begin).Round(time.Second))
	if sum.received == 0 || sum.answered == 0 || kills >= 100 && sum.indeterminate == 0 {
		t.Error("too little happened for this to prove anything")
	}
}

// killFigures are what the rounds came to.
type killFigures struct {
	kills, sent, answered, received, intents, outcomes, indeterminate, torn int
	refused                                                                 map[string]int
}

func (f *killFigures) add(g killFigures) {
	f.kills += g.kills
	f.sent += g.sent
	f.answered += g.answered
	f.received += g.received
	f.intents += g.intents
	f.outcomes += g.outcomes
	f.indeterminate += g.indeterminate
	f.torn += g.torn
	if f.refused == nil {
		f.refused = map[string]int{}
	}
	for what, n := range g.refused {
		f.refused[what] += n
	}
}

func (f *killFigures) String() string {
	return fmt.Sprintf("kills %d: requests %d, answered %d, received by the upstream %d, intents %d, outcomes %d, indeterminate %d, torn tails %d, refused %v",
		f.kills, f.sent, f.answered, f.received, f.intents, f.outcomes, f.indeterminate, f.torn, f.refused)
}

// A killLane is what one process after another stands on.
type killLane struct {
	name    string
	dir     string
	binary  string
	proxy   string
	started string // URL
	trail   string // the file
	vault   *vaulttest.Server
	up      *notingUpstream
	begins  time.Duration // how long the last process took to begin
	window  time.Duration // after that, within which one is killed; 0 is not known yet

	mu       sync.Mutex
	answered map[string]int // by "ROUND METHOD ROUTE"
	figures  killFigures
	torn     int   // of this file
	tornAt   int64 // the size of the file when its last torn tail was seen
}

func newKillLane(t *testing.T, lane int) *killLane {
	t.Helper()
	l := &killLane{
		name: fmt.Sprint("lane", lane), dir: t.TempDir(), binary: realSidekey(t), up: newNotingUpstream(t), vault: vaulttest.Start(t),
		begins: killWindow, answered: map[string]int{}, figures: killFigures{refused: map[string]int{}},
	}
	l.vault.AddDynamic("github/token/tester", time.Hour, func(int) map[string]string { return map[string]string{"token": newCanary()} })
	l.trail = filepath.Join(l.dir, "audit.jsonl")
	proxyPort, err := freePort()
	opsPort, opsErr := freePort()
	if err := errors.Join(err, opsErr, os.Mkdir(filepath.Join(l.dir, "ca"), 0o700)); err != nil {
		t.Fatal(err)
	}
	l.proxy, l.started = "http://127.0.0.1:"+proxyPort, "http://127.0.0.1:"+opsPort+"/startedz"
	var routes strings.Builder
	for n := range killAgents * killRoutes {
		fmt.Fprintf(&routes, "  - {name: r%d, host: \"api.test:%s\", access: read-write, paths: [/r%[1]d/**], credential: api}\n", n, l.up.port)
	}
	for name, text := range map[string]string{
		"config.yaml": fmt.Sprintf(killConfig, proxyPort, opsPort, l.vault.URL(), l.up.caFile) + "audit: {path: audit.jsonl}\n",
		"vault-token": l.vault.AddToken(time.Hour),
		"policy.yaml": "version: 1\nrole: tester\ncredentials:\n  api: {from: {vault: {path: github/token/tester, field: token}}, inject: {bearer: {}}}\nroutes:\n" + routes.String(),
	} {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// round runs a process and kills it: one in five while it begins, the others while agents send.
func (l *killLane) round(t *testing.T, n int) {
	t.Helper()
	id := fmt.Sprintf("%s-%d", l.name, n)
	var stderr lockedBuffer
	cmd := exec.Command(l.binary, "serve", "--config", "config.yaml")
	cmd.Dir, cmd.Stderr = l.dir, &stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "SIDEKEY_SESSION_ID=" + id}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ready, load := make(chan struct{}), sync.WaitGroup{}
	load.Go(func() { l.load(ctx, id, ready) })
	life := rand.N(l.begins)
	if n%5 != 0 || l.window == 0 {
		select {
		case <-ready:
		case <-ctx.Done():
		}
		l.begins = time.Since(begin)
		if l.window == 0 {
			l.window = max(killWindow, 3*l.firstAnswer(ctx))
		}
		life = rand.N(l.window)
	}
	waitFor(ctx, life)
	cmd.Process.Kill()
	cmd.Wait()
	late := ctx.Err() != nil
	cancel()
	load.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); late || !status.Signaled() {
		t.Fatalf("serve did not begin, or ended by itself: %v\n%s", cmd.ProcessState, stderr.String())
	}
	l.figures.kills++
	l.lookForTear(t)
}

// firstAnswer waits until an agent has been answered, and returns how long that took.
func (l *killLane) firstAnswer(ctx context.Context) time.Duration {
	begin := time.Now()
	for faultWait(ctx, time.Millisecond) {
		l.mu.Lock()
		n := len(l.answered)
		l.mu.Unlock()
		if n > 0 {
			break
		}
	}
	return time.Since(begin)
}

// lookForTear counts the part of a record in which the process that was killed may have left the file.
func (l *killLane) lookForTear(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(l.trail)
	if errors.Is(err, os.ErrNotExist) {
		return // it was killed before it had a trail
	}
	if err != nil {
		t.Fatal(err)
	}
	rest := text[bytes.LastIndexByte(text, '\n')+1:]
	if len(rest) > 0 && !json.Valid(rest) && int64(len(text)) != l.tornAt {
		l.torn++
		l.tornAt = int64(len(text))
	}
}

// load sends through the process, as soon as it serves, until it is gone.
func (l *killLane) load(ctx context.Context, id string, ready chan<- struct{}) {
	probe := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for {
		resp, err := probe.Get(l.started)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if !faultWait(ctx, 3*time.Millisecond) {
			return
		}
	}
	close(ready)
	var agents sync.WaitGroup
	for agent := range killAgents {
		agents.Go(func() { l.agent(ctx, id, agent) })
	}
	agents.Wait()
}

// agent makes one request after another, each with a method and a route that are its own.
func (l *killLane) agent(ctx context.Context, id string, agent int) {
	c := agentClient{proxy: l.proxy, caFile: filepath.Join(l.dir, "ca", "ca.crt"), h2: agent%2 == 0, h1: agent%2 == 1}
	client, done, err := c.http()
	if err != nil {
		return
	}
	defer done()
	for n := 0; ; n++ {
		method := killMethods[n%len(killMethods)]
		route := fmt.Sprintf("r%d", agent*killRoutes+n/len(killMethods)%killRoutes)
		req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("https://api.test:%s/%s/%s/%d", l.up.port, route, id, n), http.NoBody)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.figures.sent++
		l.mu.Unlock()
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return
		}
		l.mu.Lock()
		if resp.StatusCode == http.StatusOK {
			l.answered[id+" "+method+" "+route]++
		} else {
			l.figures.refused[refusalOf(resp)]++
		}
		l.mu.Unlock()
	}
}

// A killTrail is what the trail says, by "ROUND METHOD ROUTE" and by round.
type killTrail struct {
	intents, answers map[string]int
	open             map[string]int // by round
}

// readKillTrail reads a trail, which must be intact, and its summary.
func readKillTrail(r io.Reader) (*killTrail, audit.Summary, error) {
	kt := &killTrail{intents: map[string]int{}, answers: map[string]int{}, open: map[string]int{}}
	rd := audit.NewReader(audit.File{Reader: r})
	for {
		e, err := rd.Next()
		if err == io.EOF {
			return kt, rd.Summary(), nil
		}
		if err != nil {
			return nil, audit.Summary{}, err
		}
		round, _, _ := strings.Cut(e.Session.ID, ".")
		key := round + " " + e.Method + " " + e.Route
		switch e.Event {
		case audit.RequestIntent:
			kt.intents[key]++
			kt.open[round]++
		case audit.RequestOutcome:
			kt.open[round]--
			if e.Status == http.StatusOK {
				kt.answers[key]++
			}
		}
	}
}

// check compares what the upstream has received with the trail of the processes that are dead, and
// begins a new one.
func (l *killLane) check(t *testing.T) {
	t.Helper()
	f, err := os.Open(l.trail)
	if errors.Is(err, os.ErrNotExist) {
		return // just checked
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := l.up.quiet(); err != nil {
		t.Fatal(err)
	}
	trail, sum, err := readKillTrail(f)
	if err != nil {
		t.Fatal(err)
	}
	received := map[string]int{}
	for line, n := range l.up.received() { // "GET /ROUTE/ROUND/N"
		method, path, _ := strings.Cut(line, " /")
		part := strings.Split(path, "/")
		received[part[1]+" "+method+" "+part[0]] += n
	}
	atMost(t, received, trail.intents, "the upstream received %[1]s %[2]d times, and the trail has %[3]d intents")
	atMost(t, l.answered, received, "the agent was answered %[1]s %[2]d times, and the upstream received it %[3]d times")
	atMost(t, trail.answers, received, "the trail has %[2]d answers to %[1]s, and the upstream received it %[3]d times")
	l.checkSummary(t, trail, sum)
	l.figures.received += total(received)
	l.figures.answered += total(l.answered)
	l.up.forget()
	clear(l.answered)
	l.torn, l.tornAt = 0, 0
	if err := os.Remove(l.trail); err != nil {
		t.Fatal(err)
	}
}

// checkSummary holds that the summary calls the rest indeterminate, and no more than that.
func (l *killLane) checkSummary(t *testing.T, trail *killTrail, sum audit.Summary) {
	t.Helper()
	for _, s := range sum.Sessions {
		round, _, _ := strings.Cut(s.ID, ".")
		if s.Indeterminate != trail.open[round] || s.Indeterminate != s.Intents-s.Outcomes {
			t.Errorf("%s: %d indeterminate, %d intents less %d outcomes, want %d", round, s.Indeterminate, s.Intents, s.Outcomes, trail.open[round])
		}
		if s.Indeterminate > killAgents {
			t.Errorf("%s: %d requests are indeterminate, and there were %d agents with one each", round, s.Indeterminate, killAgents)
		}
		if s.Ended {
			t.Errorf("%s was killed, and has ended", round)
		}
		l.figures.intents += s.Intents
		l.figures.outcomes += s.Outcomes
		l.figures.indeterminate += s.Indeterminate
	}
	if got, want := sum.TornTail, l.torn > 0; got != want {
		t.Errorf("a torn tail: %t, want %t", got, want)
	}
	l.figures.torn += l.torn
}

// atMost fails where few has more of something than many has.
func atMost(t *testing.T, few, many map[string]int, format string) {
	t.Helper()
	for key, n := range few {
		if n > many[key] {
			t.Errorf(format, key, n, many[key])
		}
	}
}

func total(counts map[string]int) (n int) {
	for times := range maps.Values(counts) {
		n += times
	}
	return n
}
