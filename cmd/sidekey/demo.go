package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newDemo(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Tell the whole story in one process, with nothing to install",
		Long: `demo starts a stand-in Vault, a TLS upstream and a sidecar in this process, and runs a real client as the
agent (curl, or this binary where there is none). It shows each step as the agent, the upstream and the
audit trail see it, checks that it held, and exits with 1 if one did not. Everything is on loopback.`,
		Example: "  sidekey demo",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), p) },
	}
}

func demo(ctx context.Context, p process) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp("", "sidekey-demo-")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	stage, err := newStage(ctx, p, dir)
	if err != nil {
		return failed(fmt.Errorf("set up the demo: %v", err))
	}
	defer stage.close()

	began := time.Now()
	t := newTeller(p.stdout, environment(p.environ))
	t.intro(stage)
	steps := []step{
		{"An allowed call carries a credential that the agent never had", stage.allowedCall},
		{"A method that the policy does not allow is refused, and the agent can read why", stage.deniedMethod},
		{"A host that no route names is refused, and nothing is dialled", stage.deniedHost},
		{"The credential expires in mid-session and is replaced unnoticed", stage.expiry},
		{"The session ends: everything is revoked", stage.end},
		{"The audit trail is whole", stage.verify},
	}
	for i, s := range steps {
		t.title(i+1, s.title)
		v, err := s.play(ctx)
		t.views(v)
		if err != nil {
			t.broke(err)
			return &exitError{exitFailed, fmt.Errorf("demo: step %d did not hold: %v", i+1, err)}
		}
		t.held()
	}
	fmt.Fprintf(t.w, "%s\n", t.bold(fmt.Sprintf("All %d steps held, in %.1f s.", len(steps), time.Since(began).Seconds())))
	fmt.Fprintf(t.w, "Next: sidekey run --policy policy.yaml -- YOUR-AGENT, or README.md for the sidecar in a pod.\n")
	return nil
}

// A step plays one scene and says what was to be seen, or what did not hold.
type step struct {
	title string
	play  func(context.Context) ([]view, error)
}

// A view is what one party saw.
type view struct {
	who   string
	lines []string
}

const demoPath = "/repos/acme/app/pulls"

func (s *stage) allowedCall(ctx context.Context) ([]view, error) { return s.allowed(ctx, 1) }

// allowed makes a call that carries the nth issuance or a later one: they are replaced ahead of time.
func (s *stage) allowed(ctx context.Context, n int) ([]view, error) {
	agent, err := s.agent(ctx, "GET", s.url(demoPath))
	if err != nil {
		return nil, err
	}
	got := s.upstream.take()
	views := []view{agent.view(), {"upstream", got}, {"audit", s.newRecords()}}
	switch {
	case agent.status != "200":
		return views, fmt.Errorf("the agent got %s", agent.status)
	case issuanceIn(got) < n:
		return views, fmt.Errorf("the upstream did not get issuance number %d or a later one", n)
	case strings.Contains(agent.all, demoTokenPrefix):
		return views, errors.New("the agent saw the credential")
	}
	return views, nil
}

func (s *stage) deniedMethod(ctx context.Context) ([]view, error) {
	return s.denied(ctx, "DELETE", s.url("/repos/acme/app"), "method_not_allowed")
}

func (s *stage) deniedHost(ctx context.Context) ([]view, error) {
	return s.denied(ctx, "GET", "https://attacker.example/collect", "host_not_allowed")
}

func (s *stage) denied(ctx context.Context, method, url, reason string) ([]view, error) {
	agent, err := s.agent(ctx, method, url)
	if err != nil {
		return nil, err
	}
	got := s.upstream.take()
	records := s.newRecords()
	if len(got) == 0 {
		got = []string{"(nothing arrived)"}
	} else {
		return nil, errors.New("the upstream got a request")
	}
	views := []view{agent.view(), {"upstream", got}, {"audit", records}}
	if agent.status != "403" || !strings.Contains(agent.all, `"`+reason+`"`) {
		return views, fmt.Errorf("the agent got %s and not 403 %s", agent.status, reason)
	}
	return views, nil
}

func (s *stage) expiry(ctx context.Context) ([]view, error) {
	select {
	case <-time.After(time.Until(s.firstIssued.Add(demoTTL + 50*time.Millisecond))):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.allowed(ctx, 2)
}

func (s *stage) end(context.Context) ([]view, error) {
	if err := s.stop(); err != nil {
		return nil, err
	}
	live, revoked := s.vault.Leases()
	tokens := s.vault.LiveTokens()
	views := []view{
		{"vault", []string{
			fmt.Sprintf("leases: %d live, %d revoked or expired", len(live), len(revoked)),
			fmt.Sprintf("tokens of the session: %d", tokens-s.tokensBefore),
		}},
		{"audit", s.newRecords()},
	}
	if len(live) != 0 || tokens != s.tokensBefore {
		return views, errors.New("something is still valid in Vault")
	}
	return views, nil
}

func (s *stage) verify(context.Context) ([]view, error) {
	text, err := os.ReadFile(s.auditPath)
	if err != nil {
		return nil, err
	}
	lines, err := verifyTrail(text)
	views := []view{{"audit", lines}}
	if err == nil && strings.Contains(string(text), demoTokenPrefix) {
		err = errors.New("the trail holds a credential")
	}
	if err == nil && leftBehind(s.dir, demoTokenPrefix) {
		err = errors.New("a file holds a credential")
	}
	return views, err
}

// leftBehind reports whether any file below dir holds needle.
func leftBehind(dir, needle string) bool {
	found := false
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			found = found || err == nil && strings.Contains(string(b), needle)
		}
		return nil
	})
	return found
}

// issuanceIn returns the number of the issuance that the upstream got; 0 for none.
func issuanceIn(lines []string) int {
	for _, l := range lines {
		if number, ok := strings.CutPrefix(l, "Authorization: Bearer "+demoTokenPrefix); ok {
			n, _ := strconv.Atoi(number)
			return n
		}
	}
	return 0
}

// A teller prints the story.
type teller struct {
	w     io.Writer
	color bool
}

func newTeller(w io.Writer, env environment) *teller {
	_, off := env.lookup("NO_COLOR")
	return &teller{w, !off && env.get("TERM") != "dumb" && onTerminal(w)}
}

func (t *teller) paint(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *teller) bold(s string) string { return t.paint("1", s) }

func (t *teller) intro(s *stage) {
	fmt.Fprintf(t.w, "%s\n\n", t.bold("Sidekey demo: an agent without a key"))
	for _, row := range [][2]string{
		{"vault", "a stand-in (vault/vaulttest) in this process, speaking Vault's HTTP API on " + s.vault.URL()},
		{"upstream", "a TLS server in this process, https://" + s.host()},
		{"sidecar", "the real one, at " + s.sidecar.url() + ", logged in by AppRole"},
		{"agent", s.agentName + ", a child process with HTTPS_PROXY and no key in its environment"},
	} {
		fmt.Fprintf(t.w, "  %s %s\n", t.paint("36", fmt.Sprintf("%-9s", row[0])), row[1])
	}
	fmt.Fprintln(t.w)
}

func (t *teller) title(n int, title string) {
	fmt.Fprintf(t.w, "%s\n", t.bold(fmt.Sprintf("%d. %s", n, title)))
}

func (t *teller) views(views []view) {
	for _, v := range views {
		for i, line := range v.lines {
			who := ""
			if i == 0 {
				who = v.who
			}
			fmt.Fprintf(t.w, "  %s %s\n", t.paint("36", fmt.Sprintf("%-9s", who)), line)
		}
	}
}

func (t *teller) held() { fmt.Fprintf(t.w, "  %s\n\n", t.paint("32", "held")) }
func (t *teller) broke(err error) {
	fmt.Fprintf(t.w, "  %s\n\n", t.paint("31", "DID NOT HOLD: "+err.Error()))
}
