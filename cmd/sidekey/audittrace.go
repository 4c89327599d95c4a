package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A tracing is what the flags of trace say.
type tracing struct {
	vault, access []string
	format        string
	keys          map[string]string
	since         string
	filter        custody.Filter
	skew          time.Duration
	uses, json    bool
	part          bool
	html          string
}

func newAuditTrace() *cobra.Command {
	var x tracing
	cmd := &cobra.Command{
		Use:   "trace [--vault-audit FILE]... [--access-log FILE]... LOG...",
		Short: "Trace each use of a credential to where it was issued, through Vault's audit log",
		Long: `trace joins audit logs of sidecars with Vault's audit log and, if there are any, the access logs of
upstreams: who asked for a session, what was issued to it, and what each issuance was used for. It checks both
ways. What a sidecar says it got from Vault must be in Vault's log, and what Vault's log has under a token of a
session must be in that session's trail: if it is not, the token is used elsewhere. Whatever does not fit is a
finding, and the exit status is then 3.

A LOG stands for itself and the files that were rotated out of it (LOG.000001 and so on). Any file may be
packed with gzip (.gz); one may be -, standard input. Vault's log is JSON, of HashiCorp's Vault or OpenBao: give
the files of all audit devices, since each entry needs to be on one of them only, and the rotated ones too.

Access logs are read as nginx's combined format with the request id in quotes at the end
("$http_x_request_id"), or as JSON; --access-key says where a field stands if it is not found. Uses are found
in them by the request id, which upstreams are sent for routes with correlate: true.`,
		Example: `  sidekey audit trace --vault-audit vault-audit.log /var/log/sidekey/audit.jsonl
  sidekey audit trace --vault-audit a.log --vault-audit b.log.1.gz --since 24h --role pr-reviewer audit.jsonl
  sidekey audit trace --vault-audit vault.log --lease database/creds/reader/AbC --uses audit.jsonl
  sidekey audit trace --vault-audit vault.log --access-log access.log --html custody.html audit.jsonl
  sidekey audit trace --access-log app.json --access-format json --access-key request_id=ctx.rid audit.jsonl`,
		Args: auditLogs,
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&x.vault, "vault-audit", nil, "`FILE` of Vault's audit log; may be given more than once")
	f.StringArrayVar(&x.access, "access-log", nil, "`FILE` of an upstream's access log; may be given more than once")
	f.StringVar(&x.format, "access-format", custody.AccessNginx, "format of the access logs: nginx or json")
	f.StringToStringVar(&x.keys, "access-key", nil, "`FIELD=KEY`: where JSON has the time, method, path, request, status, request_id, user_agent or remote")
	f.StringVar(&x.filter.Session, "session", "", "show only the session with this `ID`, or all that ran under this name")
	f.StringVar(&x.filter.Role, "role", "", "show only sessions of this `ROLE`")
	f.StringVar(&x.filter.Credential, "credential", "", "show only issuances of this credential (`NAME` in the policy)")
	f.StringVar(&x.filter.Lease, "lease", "", "show only the issuance with this lease `ID`")
	f.StringVar(&x.since, "since", "", "show only what happened since `TIME`, as in 2026-12-01T09:30:00Z or 24h")
	f.DurationVar(&x.skew, "skew", 5*time.Second, "how far the clocks may be apart")
	f.BoolVar(&x.uses, "uses", false, "show each use, not only how many there were")
	f.BoolVar(&x.part, "part", false, "the beginning of a log was deleted; trace what is there")
	f.BoolVar(&x.json, "json", false, "print the whole report as JSON")
	f.StringVar(&x.html, "html", "", "write the report as a page to `FILE`, too")
	cmd.MarkFlagFilename("vault-audit")
	cmd.MarkFlagFilename("access-log")
	cmd.MarkFlagFilename("html", "html")
	return cmd
}

func (x *tracing) run(cmd *cobra.Command, args []string) error {
	if err := x.check(args); err != nil {
		return mistake(err)
	}
	p := newProgress(cmd.ErrOrStderr())
	cfg := custody.Config{
		AccessFormat: x.format, AccessKeys: x.keys, Now: time.Now(), Skew: x.skew, Filter: x.filter, Partial: x.part,
	}
	done, err := x.open(cmd, &cfg, args, p)
	defer done()
	if err != nil {
		return failed(err)
	}
	r, err := custody.Trace(cfg)
	p.end()
	if err != nil {
		return failed(err)
	}
	if err := x.write(cmd, r); err != nil {
		return failed(err)
	}
	if len(r.Findings) > 0 {
		return &exitError{Status: exitFound}
	}
	return nil
}

// check says what is wrong with the flags.
func (x *tracing) check(logs []string) error {
	stdin := 0
	for _, list := range [][]string{logs, x.vault, x.access} {
		for _, file := range list {
			if file == "-" {
				stdin++
			}
		}
	}
	switch {
	case stdin > 1:
		return errors.New("only one file can be standard input")
	case x.format != custody.AccessNginx && x.format != custody.AccessJSON:
		return fmt.Errorf("--access-format %q is not nginx or json", x.format)
	case len(x.keys) > 0 && x.format != custody.AccessJSON:
		return errors.New("--access-key is for --access-format json")
	case x.skew <= 0:
		return fmt.Errorf("--skew %v is not above 0", x.skew)
	}
	if err := custody.CheckAccessKeys(x.keys); err != nil {
		return fmt.Errorf("--access-key: %v", err)
	}
	if x.since == "" {
		return nil
	}
	if ago, err := time.ParseDuration(x.since); err == nil && ago > 0 {
		x.filter.Since = time.Now().Add(-ago)
		return nil
	}
	at, err := time.Parse(time.RFC3339, x.since)
	if err != nil {
		return fmt.Errorf("--since %q is not a time as in 2026-12-01T09:30:00Z, nor how long ago, as in 24h", x.since)
	}
	x.filter.Since = at
	return nil
}

// open opens all files. The caller calls done, also with an error.
func (x *tracing) open(cmd *cobra.Command, cfg *custody.Config, logs []string, p *progress) (done func(), err error) {
	var open []func()
	done = func() {
		for _, f := range open {
			f()
		}
	}
	for _, path := range trails(logs) {
		files, closed, err := openTrail(cmd, path)
		if err != nil {
			return done, err
		}
		open = append(open, closed)
		for i := range files {
			files[i].Reader = p.reader(files[i].Reader)
		}
		cfg.Trails = append(cfg.Trails, files)
	}
	for _, list := range []struct {
		paths []string
		files *[]audit.File
	}{{x.vault, &cfg.VaultLogs}, {x.access, &cfg.AccessLogs}} {
		for _, path := range list.paths {
			in, err := openLog(cmd, path)
			if err != nil {
				return done, err
			}
			open = append(open, func() { in.Close() })
			if path == "-" {
				path = "stdin"
			}
			*list.files = append(*list.files, audit.File{Name: path, Reader: p.reader(in)})
		}
	}
	return done, nil
}

// write writes the report.
func (x *tracing) write(cmd *cobra.Command, r *custody.Report) error {
	if x.html != "" {
		if err := writePage(x.html, r); err != nil {
			return err
		}
	}
	if x.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	t := newTeller(cmd.OutOrStdout(), os.Environ())
	return r.WriteText(cmd.OutOrStdout(), custody.TextOptions{Uses: x.uses, Color: t.color})
}

// writePage writes the page to file.
func writePage(file string, r *custody.Report) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(custody.WriteHTML(f, r), f.Close())
}

// A progress tells on a terminal how much was read, if that takes long.
type progress struct {
	w     io.Writer // nil if nobody watches
	began time.Time
	told  time.Time
	bytes int64
}

// progressAfter is how long reading takes before anybody is told of it.
const progressAfter = 2 * time.Second

func newProgress(w io.Writer) *progress {
	if !onTerminal(w) {
		w = nil
	}
	return &progress{w: w, began: time.Now()}
}

// reader returns in, counted.
func (p *progress) reader(in io.Reader) io.Reader {
	if p.w == nil {
		return in
	}
	return io.TeeReader(in, p)
}

// Write counts b.
func (p *progress) Write(b []byte) (int, error) {
	p.bytes += int64(len(b))
	if now := time.Now(); now.Sub(p.began) > progressAfter && now.Sub(p.told) > progressAfter/10 {
		p.told = now
		fmt.Fprintf(p.w, "\rread %d MB", p.bytes>>20)
	}
	return len(b), nil
}

// end clears the line.
func (p *progress) end() {
	if !p.told.IsZero() {
		fmt.Fprint(p.w, "\r"+strings.Repeat(" ", 24)+"\r")
	}
}
