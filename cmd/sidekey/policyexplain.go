package main

import (
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

// An explainer is what the flags of explain say.
type explainer struct {
	file        string
	json        bool
	websocket   bool
	headers     []string
	body        string
	session     string
	requestedBy string
	now         string
}

func newPolicyExplain() *cobra.Command {
	var x explainer
	cmd := &cobra.Command{
		Use:   "explain --policy FILE METHOD URL",
		Short: "Say what the policy makes of one request, and why",
		Long: `explain decides one request with the engine that decides in production: the decision, the route, the
name of the credential and each condition that was looked at with its value. On a denial it names
the routes that came nearest and what would have to differ. It always exits with 0 if it could
decide.

What conditions look at is given with -H, --body (JSON, unless -H gives a Content-Type),
--session-id, --requested-by and --now. Nothing is sent.`,
		Example: `  sidekey policy explain --policy policy.yaml GET https://api.github.com/repos/acme/app/pulls
  sidekey policy explain --policy policy.yaml --json DELETE https://api.github.com/repos/acme/app
  sidekey policy explain -H 'X-Run: nightly' --body comment.json POST https://api.github.com/repos/acme/app/issues/7/comments
  echo '{"body": "ok"}' | sidekey policy explain --body - POST https://api.github.com/repos/acme/app/issues/7/comments`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return mistake(errors.New("explain takes a method and a URL, as in: GET https://api.github.com/user"))
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&x.file, "policy", "policy.yaml", "policy file; - is standard input")
	f.BoolVar(&x.json, "json", false, "print JSON")
	f.BoolVar(&x.websocket, "websocket", false, "the request asks to become a WebSocket")
	f.StringArrayVarP(&x.headers, "header", "H", nil, "a header field, as in 'Name: value'; may be repeated")
	f.StringVar(&x.body, "body", "", "file with the body; - is standard input")
	f.StringVar(&x.session, "session-id", "", "the session's id")
	f.StringVar(&x.requestedBy, "requested-by", "", "who asked for the session")
	f.StringVar(&x.now, "now", "", "the time, as in 2026-12-01T09:30:00Z (default now)")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	cmd.MarkFlagFilename("body")
	return cmd
}

func (x *explainer) run(cmd *cobra.Command, args []string) error {
	if x.file == "-" && x.body == "-" {
		return mistake(errors.New("only one of the policy and the body can be standard input"))
	}
	pol, err := policyFrom(cmd, x.file)
	if err != nil {
		return mistake(err)
	}
	if !policy.ValidMethod(args[0]) {
		return mistake(fmt.Errorf("%q is not a method that can be proxied; write METHOD URL, the method in upper case, as in: GET https://api.github.com/user", args[0]))
	}
	target, err := policy.ParseURL(args[1])
	if err != nil {
		return mistake(err)
	}
	r := policy.Request{Method: args[0], Target: target, WebSocket: x.websocket}
	if err := x.complete(cmd, pol, &r); err != nil {
		return mistake(err)
	}
	return failed(printExplanation(cmd.OutOrStdout(), pol, args, pol.Explain(r), x.json))
}

// complete adds to r what only conditions look at.
func (x *explainer) complete(cmd *cobra.Command, pol *policy.Policy, r *policy.Request) error {
	r.Session = policy.Session{ID: x.session, Role: pol.Role(), RequestedBy: x.requestedBy}
	r.Now = time.Now()
	if x.now != "" {
		var err error
		if r.Now, err = time.Parse(time.RFC3339, x.now); err != nil {
			return fmt.Errorf("--now %q is not a time as in 2026-12-01T09:30:00Z", x.now)
		}
	}
	r.Header = map[string][]string{}
	for _, h := range x.headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\r\n") {
			// Not quoted: what was meant to be a header may be a secret.
			return errors.New("-H takes a header field, as in: -H 'Accept: application/json'")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		r.Header[name] = append(r.Header[name], strings.TrimSpace(value))
	}
	if x.body == "" {
		return nil
	}
	body, err := readBody(cmd, x.body)
	if err != nil {
		return err
	}
	r.Body = body
	if r.Header["Content-Type"] == nil {
		r.Header["Content-Type"] = []string{"application/json"}
	}
	return nil
}

// A fileBody is the content of a file as a request's body.
type fileBody []byte

// Bytes returns the content.
func (b fileBody) Bytes() ([]byte, error) { return b, nil }

// maxExplainedBody bounds a body, in bytes. It is above what any condition reads by default.
const maxExplainedBody = 64 << 20

func readBody(cmd *cobra.Command, file string) (fileBody, error) {
	in, err := openInput(cmd, file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	name := file
	if file == "-" {
		name = "standard input"
	}
	body, err := io.ReadAll(io.LimitReader(in, maxExplainedBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the body: %v", err)
	}
	if len(body) > maxExplainedBody {
		return nil, fmt.Errorf("the body in %s is larger than %d bytes", name, maxExplainedBody)
	}
	return body, nil
}

// explained is an explanation as JSON.
type explained struct {
	Request    string          `json:"request"`
	Decision   string          `json:"decision"`
	Reason     string          `json:"reason"`
	Detail     string          `json:"detail,omitempty"`
	Reported   string          `json:"reported,omitempty"`
	Mode       string          `json:"mode"`
	Route      string          `json:"route,omitempty"`
	Where      string          `json:"where,omitempty"`
	Path       string          `json:"path,omitempty"`
	Credential string          `json:"credential,omitempty"`
	Why        string          `json:"why,omitempty"`
	Conditions []conditionJSON `json:"conditions,omitempty"`
	Misses     []explainedMiss `json:"nearest_misses,omitempty"`
}

type explainedMiss struct {
	Route   string   `json:"route"`
	Where   string   `json:"where"`
	Differs []string `json:"differs"`
}

func printExplanation(w io.Writer, pol *policy.Policy, request []string, e policy.Explanation, asJSON bool) error {
	x := explained{
		Request: strings.Join(request, " "), Decision: "deny", Reason: string(e.Reason), Detail: e.Detail,
		Reported: string(e.Reported), Mode: pol.Mode().String(),
	}
	if e.Allow {
		x.Decision = "allow"
		x.Route, x.Where, x.Path, x.Credential, x.Why = e.Route.Name, e.Route.Where, e.Path, e.Route.Credential, e.Route.Reason
	}
	for _, c := range e.Conditions {
		x.Conditions = append(x.Conditions, conditionJSON{c.Route.Name, c.Condition, c.Value})
	}
	for _, m := range e.Misses {
		x.Misses = append(x.Misses, explainedMiss{m.Route.Name, m.Route.Where, m.Differs})
	}
	if asJSON {
		return printJSON(w, x)
	}
	return x.print(newTeller(w, os.Environ()))
}

// print prints x for people.
func (x *explained) print(t *teller) error {
	var b strings.Builder
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-11s %s\n", key, value)
		}
	}
	allow := x.Decision == "allow"
	color := "31"
	if allow {
		color = "32"
	}
	row("request", x.Request)
	row("decision", t.paint(color, x.Decision))
	row("reason", x.Reason)
	if x.Reported != "" {
		row("reported", x.Reported+": the route is in mode report; otherwise the request would be denied")
	}
	row("detail", x.Detail)
	if !allow && x.Mode == policy.Report.String() {
		row("mode", "report: the request is let through, without a credential, and recorded")
	}
	if allow {
		row("route", x.Route+"  ("+x.Where+")")
		row("path", x.Path)
		credential := x.Credential
		if credential == "" {
			credential = "none"
		}
		row("credential", credential)
		row("why", x.Why)
	}
	if len(x.Conditions) > 0 {
		b.WriteString("conditions\n")
		for _, c := range x.Conditions {
			fmt.Fprintf(&b, "  %-5s  %s  (%s)\n", c.Value, c.Condition, c.Route)
		}
	}
	for i, m := range x.Misses {
		if i == 0 {
			b.WriteString("nearest misses\n")
		}
		fmt.Fprintf(&b, "  %s  (%s)\n", m.Route, m.Where)
		for _, d := range m.Differs {
			b.WriteString("    " + d + "\n")
		}
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}
