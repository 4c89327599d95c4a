package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// adminFlags are the flags of the commands that use the admin socket.
type adminFlags struct {
	path   string
	asJSON bool
}

func (f *adminFlags) define(cmd *cobra.Command, p process) {
	path := cmp.Or(environment(p.environ).get("SIDEKEY_ADMIN"), defaultAdmin)
	cmd.Flags().StringVar(&f.path, "admin", path, "`PATH` of the sidecar's admin socket (also SIDEKEY_ADMIN)")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.Args = cobra.NoArgs
}

func newStatus(p process) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "status [--admin PATH]",
		Short: "Show how the session of a running sidecar is doing",
		Long: `status asks a sidecar, over its admin socket, for its session, its login to Vault, its credentials and the
kill switch. Nothing that it shows is a secret. The exit status is 1 if no sidecar answers; it says nothing
of how the session is doing.

The socket is for the sidecar's own user and for root.`,
		Example: `  sidekey status
  sidekey status --admin /run/sidekey/admin.sock --json
  kubectl exec POD -c sidekey -- /sidekey status`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := adminClient{f.path}.do(cmd.Context(), http.MethodGet, adminStatus, "")
			if err != nil {
				return failed(err)
			}
			return failed(printStatus(cmd.OutOrStdout(), st, time.Now(), f.asJSON))
		},
	}
	f.define(cmd, p)
	return cmd
}

func newSession(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "End a running session, or stop its use of credentials for a while",
		Example: `  sidekey session kill --reason "incident 42"
  sidekey session resume
  sidekey session end`,
		Args:                       subcommand,
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newSessionAction(p, adminEnd, &cobra.Command{
			Use:   "end [--admin PATH] [--reason TEXT]",
			Short: "Revoke everything that the session holds, for good",
			Long: `end revokes the session's credentials and its Vault tokens. The sidecar stays, and answers requests that
need a credential with 503 session_ended; only a new process begins a new session. The exit status is 1 if
something could not be revoked.`,
			Example: `  sidekey session end --reason "the agent is done"`,
		}),
		newSessionAction(p, adminKill, &cobra.Command{
			Use:   "kill [--admin PATH] [--reason TEXT]",
			Short: "Engage the kill switch: no credential is used until resume",
			Long: `kill stops all use of credentials at once. Requests in flight that carry one are cut off, new ones get 503
killed; requests without a credential go on. Nothing is revoked: see sidekey session end. A process that is
started anew does not know of it. A file named kill in the policy directory does the same for as long as it is
there, for every process that reads that directory.`,
			Example: `  sidekey session kill --reason "incident 42"`,
		}),
		newSessionAction(p, adminResume, &cobra.Command{
			Use:   "resume [--admin PATH] [--reason TEXT]",
			Short: "Release the kill switch",
			Long: `resume undoes sidekey session kill. It fails while a file named kill in the policy directory holds the
switch engaged: remove that first.`,
			Example: `  sidekey session resume --reason "incident 42 is over"`,
		}),
	)
	return cmd
}

// newSessionAction makes cmd do what is at path of the admin socket.
func newSessionAction(p process, path string, cmd *cobra.Command) *cobra.Command {
	var f adminFlags
	var reason string
	f.define(cmd, p)
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` for the audit trail")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		st, err := adminClient{f.path}.do(cmd.Context(), http.MethodPost, path, reason)
		if err != nil {
			return failed(err)
		}
		if f.asJSON {
			err = printStatus(cmd.OutOrStdout(), st, time.Now(), true)
		} else {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), printable(said(path, st)))
		}
		if n := len(st.Session.Unrevoked); err == nil && path == adminEnd && n > 0 {
			return failed(fmt.Errorf("%d could not be revoked, and are valid until they expire: %s", n, printable(strings.Join(st.Session.Unrevoked, ", "))))
		}
		return failed(err)
	}
	return cmd
}

// said is the answer to an action for people.
func said(path string, st sessionStatus) string {
	switch {
	case path == adminEnd:
		return "session " + st.Session.ID + " has ended"
	case st.Killed:
		return "the kill switch of session " + st.Session.ID + " is engaged: no credential is used"
	}
	return "the kill switch of session " + st.Session.ID + " is released"
}

func printStatus(w io.Writer, st sessionStatus, now time.Time, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	var b strings.Builder
	row := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", key, fmt.Sprintf(format, args...))
	}
	s := st.Session
	row("session", "%s", s.ID)
	row("role", "%s", s.Role)
	row("requester", "%s (%s)", cmp.Or(s.RequestedBy, "unknown"), s.Attribution)
	row("state", "%s", stateOf(st, now))
	row("requests", "%d in flight", st.InFlight)
	row("kill switch", "%s", switchOf(st))
	row("policy", "%s, generation %d, sha256 %.12s, %s", st.Policy.Mode, st.Policy.Generation, st.Policy.SHA256, st.Policy.File)
	if r := st.Policy.Refused; r != nil {
		for _, m := range r.Mistakes {
			row("", "what its file holds since %s is not taken: %s", r.At.Format(time.TimeOnly), m)
		}
	}
	if st.Vault != nil {
		row("vault", "%s", vaultOf(*st.Vault, now))
		if st.Vault.Error != "" {
			row("", "last login failed: %s", firstLine(st.Vault.Error))
		}
	}
	writeCredentials(&b, st.Credentials, now)
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func stateOf(st sessionStatus, now time.Time) string {
	s := st.Session
	switch {
	case !s.EndedAt.IsZero():
		return fmt.Sprintf("ended %s (%s), %d not revoked", ago(s.EndedAt, now), s.EndedReason, len(s.Unrevoked))
	case !st.Started:
		return "starting"
	case !st.Ready:
		return "draining"
	}
	return fmt.Sprintf("running for %s, ends %s at the latest", span(now.Sub(s.StartedAt)), in(s.EndsAt, now))
}

func switchOf(st sessionStatus) string {
	if !st.Killed {
		return "off"
	}
	var by []string
	for how, who := range st.KilledBy {
		by = append(by, strings.ReplaceAll(how, "_", " ")+", "+who)
	}
	slices.Sort(by)
	return "ENGAGED: no credential is used (" + strings.Join(by, "; ") + ")"
}

func vaultOf(v statusVault, now time.Time) string {
	state := "not logged in"
	if v.LoggedIn {
		state = "logged in, token expires " + in(v.ExpiresAt, now)
	}
	return fmt.Sprintf("%s: %s; %d logins, %d tokens, %d leases", v.Address, state, v.Logins, v.Tokens, v.Leases)
}

func writeCredentials(w io.Writer, list []statusCredential, now time.Time) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CREDENTIAL\tSOURCE\tSTATE\tEXPIRES\tLAST USED\tIN USE\tERROR")
	for _, c := range list {
		state, expires, used := "not held", "-", "never"
		if c.Held {
			state, expires = "held", in(c.ExpiresAt, now)
		}
		if !c.LastUsed.IsZero() {
			used = ago(c.LastUsed, now)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", c.Name, c.Source, state, expires, used, c.InUse, cmp.Or(firstLine(c.Error), "-"))
	}
	t.Flush()
}

// in says when a point in time to come is; that of what has no end is zero.
func in(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return "in " + span(t.Sub(now))
}

func ago(t, now time.Time) string { return span(now.Sub(t)) + " ago" }

// span shortens a time span for people: 7h12m, 3m20s, 4s.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	default:
		return d.Truncate(time.Second).String()
	}
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return strings.ReplaceAll(first, "\t", " ")
}
