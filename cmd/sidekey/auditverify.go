package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
)

// A verifiedLog is what `audit verify --json` says of one log.
type verifiedLog struct {
	Log      string            `json:"log"`
	Intact   bool              `json:"intact"`
	Broken   *brokenAt         `json:"broken,omitempty"`
	TornTail bool              `json:"torn_tail"`
	Sessions []verifiedSession `json:"sessions"`
}

// A brokenAt is the first record that does not fit.
type brokenAt struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Seq  uint64 `json:"seq"`
	What string `json:"what"`
}

// A verifiedSession is what the records of one session, as far as they are intact, come to.
type verifiedSession struct {
	ID            string `json:"id"`
	Role          string `json:"role"`
	Records       int    `json:"records"`
	Intents       int    `json:"intents"`
	Outcomes      int    `json:"outcomes"`
	Indeterminate int    `json:"indeterminate"`
	Denied        int    `json:"denied"`
	Segments      int    `json:"segments"`
	Unsigned      int    `json:"unsigned"`
	Ended         bool   `json:"ended"`
	Head          string `json:"head"`
	SigningKey    string `json:"signing_key"`
}

type verifyOptions struct {
	json, part bool
	keys       []string
}

func newAuditVerify() *cobra.Command {
	var opts verifyOptions
	cmd := &cobra.Command{
		Use:   "verify LOG...",
		Short: "Check that nothing in an audit log was changed, left out, put in or moved",
		Long: `verify reads audit logs and checks each record: its form, its hash, its place in its session's chain,
the signatures; that nothing was used before it was issued, nor after it had expired or was revoked; and that
each outcome belongs to an intent. An intent without an outcome is indeterminate: the request may or
may not have reached its upstream. The exit status is 3 if a log is broken, and then the first record that does
not fit is named.

A LOG stands for itself and the files that were rotated out of it (LOG.000001 and so on); one whose name ends in
.gz is unpacked; - is standard input.

What verify cannot find alone is that the last records were cut off, or that a log was written anew
from its first record, with a key of its own. Vault's audit log shows both: see sidekey audit trace.`,
		Example: `  sidekey audit verify /var/log/sidekey/audit.jsonl
  sidekey audit verify --part /var/log/sidekey/audit.jsonl      # old files of it were deleted (audit.keep)
  kubectl logs agent -c sidekey | grep '^{"seq"' | sidekey audit verify -`,
		Args: auditLogs,
		RunE: func(cmd *cobra.Command, args []string) error { return verifyLogs(cmd, args, opts) },
	}
	cmd.Flags().BoolVar(&opts.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&opts.part, "part", false, "the beginning of a log was deleted; check what is there")
	cmd.Flags().StringSliceVar(&opts.keys, "key", nil, "sessions must be signed by `KEY` (hex, as in session.started); may be given more than once")
	return cmd
}

// auditLogs asks for at least one log.
func auditLogs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return mistake(errors.New("name at least one audit log\n\thint: it is what the config has under audit.path"))
	}
	return nil
}

func verifyLogs(cmd *cobra.Command, args []string, opts verifyOptions) error {
	logs := make([]verifiedLog, 0, len(args))
	broken := false
	for _, path := range trails(args) {
		log, err := verifyLog(cmd, path, opts)
		if err != nil {
			return failed(err)
		}
		broken = broken || !log.Intact
		logs = append(logs, log)
	}
	if opts.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		if err := enc.Encode(logs); err != nil {
			return failed(err)
		}
	} else {
		for _, log := range logs {
			log.print(cmd.OutOrStdout())
		}
	}
	if broken {
		return &exitError{Status: exitFound}
	}
	return nil
}

// verifyLog verifies one log. The error is of reading it.
func verifyLog(cmd *cobra.Command, path string, opts verifyOptions) (verifiedLog, error) {
	log := verifiedLog{Log: path, Intact: true, Sessions: []verifiedSession{}}
	files, done, err := openTrail(cmd, path)
	if err != nil {
		return log, err
	}
	defer done()
	p := newProgress(cmd.ErrOrStderr())
	for i := range files {
		files[i].Reader = p.reader(files[i].Reader)
	}
	in := audit.NewReader(files...)
	in.Partial = opts.part
	sum, err := in.Verify()
	p.end()
	var at *audit.BrokenError
	switch {
	case errors.As(err, &at):
		log.Intact, log.Broken = false, &brokenAt{at.File, at.Line, at.Seq, at.What}
	case err != nil:
		return log, err
	}
	log.TornTail = sum.TornTail
	for _, s := range sum.Sessions {
		log.Sessions = append(log.Sessions, verifiedSession{
			s.ID, s.Role, s.Records, s.Intents, s.Outcomes, s.Indeterminate, s.Denied, s.Segments, s.Unsigned, s.Ended, s.Head, s.SigningKey,
		})
		if log.Intact && len(opts.keys) > 0 && !hasKey(opts.keys, s.SigningKey) {
			log.Intact, log.Broken = false, &brokenAt{What: "session " + s.ID + " is not signed by a key that --key names"}
		}
	}
	return log, nil
}

func hasKey(keys []string, key string) bool {
	for _, k := range keys {
		if key != "" && strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}

func (log *verifiedLog) print(w io.Writer) {
	switch b := log.Broken; {
	case b == nil:
		fmt.Fprintf(w, "%s: intact\n", log.Log)
	case b.Line == 0:
		fmt.Fprintf(w, "%s: BROKEN: %s\n", log.Log, b.What)
	default:
		fmt.Fprintf(w, "%s: BROKEN at %s:%d (seq %d): %s\n", log.Log, b.File, b.Line, b.Seq, b.What)
		if b.Line == 1 && b.Seq > 1 {
			fmt.Fprintln(w, "  hint: name the file that was rotated; if older ones were deleted, --part checks what is there")
		}
	}
	for _, s := range log.Sessions {
		fmt.Fprintf(w, "  session %s, role %s: %s\n", s.ID, s.Role, countOf(s.Records, "record"))
		fmt.Fprintf(w, "    %s, %s, %d indeterminate; %d denied\n", countOf(s.Intents, "intent"), countOf(s.Outcomes, "outcome"), s.Indeterminate, s.Denied)
		fmt.Fprintf(w, "    %s; %s\n", s.signed(), s.end())
	}
	if len(log.Sessions) == 0 && log.Broken == nil {
		fmt.Fprintln(w, "  it is empty")
	}
	if log.TornTail {
		fmt.Fprintln(w, "  a session's last line is incomplete: its process died while it wrote, or is writing")
	}
}

func (s *verifiedSession) signed() string {
	switch {
	case s.Segments == 0:
		return "not signed"
	case s.Unsigned == 0:
		return "signed to the end, " + countOf(s.Segments, "segment")
	}
	return countOf(s.Segments, "segment") + " signed, the last " + countOf(s.Unsigned, "record") + " not"
}

func (s *verifiedSession) end() string {
	if s.Ended {
		return "the session has ended"
	}
	return "no end: the process runs, died, or records are missing"
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
