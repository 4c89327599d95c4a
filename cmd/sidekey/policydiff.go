package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func newPolicyDiff() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say what access one policy gives that another does not",
		Long: `diff compares what two policies allow, whatever their files look like: the requests that NEW allows
and OLD denies, the other way round, and those that would carry another credential, or with other
options. Each change is shown with a request as an example.

Access counts as gained where a credential or a condition is another one: nobody can tell which of
two lets more through. Only conditions on query, headers, content_type, grpc and graphql are
compared by what they say; one in CEL (when) is the same if its text is.

The exit status is 3 if access is gained, and 0 if nothing changes or access is only lost. One of
the files can be -, for standard input.`,
		Example: `  sidekey policy diff old.yaml new.yaml
  git show main:policy.yaml | sidekey policy diff - policy.yaml
  sidekey policy diff --json old.yaml new.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 2:
				return mistake(errors.New("diff takes two policy files, the old one first, as in: sidekey policy diff old.yaml new.yaml"))
			case args[0] == "-" && args[1] == "-":
				return mistake(errors.New("only one of the two policies can be standard input"))
			}
			return nil
		},
		ValidArgsFunction: completePolicies(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var policies [2]*policy.Policy
			for i, file := range args {
				var err error
				if policies[i], err = policyFrom(cmd, file); err != nil {
					return mistake(err)
				}
			}
			return diffPolicies(cmd, policies[0], policies[1], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as a JSON array")
	return cmd
}

func diffPolicies(cmd *cobra.Command, old, next *policy.Policy, asJSON bool) error {
	changes, err := policy.Diff(old, next)
	if err != nil {
		return failed(err)
	}
	if asJSON {
		list := []jsonChange{}
		for _, c := range changes {
			list = append(list, newJSONChange(c))
		}
		err = printJSON(cmd.OutOrStdout(), list)
	} else {
		err = printChanges(newTeller(cmd.OutOrStdout(), os.Environ()), changes)
	}
	if err != nil {
		return failed(err)
	}
	for _, c := range changes {
		if c.Gains() {
			return &exitError{Status: exitFound}
		}
	}
	return nil
}

// A jsonChange is a change as JSON.
type jsonChange struct {
	Change    string   `json:"change"`
	What      string   `json:"what"`
	Scheme    string   `json:"scheme,omitempty"`
	Host      string   `json:"host,omitempty"`
	Port      uint16   `json:"port,omitempty"`
	Methods   []string `json:"methods,omitempty"`
	Path      string   `json:"path,omitempty"`
	Was       string   `json:"was_path,omitempty"`
	Except    []string `json:"except,omitempty"`
	WebSocket bool     `json:"websocket,omitempty"`
	Encoded   []string `json:"encoded,omitempty"`
	Before    []string `json:"before,omitempty"`
	After     []string `json:"after,omitempty"`
	Old       string   `json:"old_route,omitempty"`
	New       string   `json:"new_route,omitempty"`
	OldWhere  string   `json:"old_where,omitempty"`
	NewWhere  string   `json:"new_where,omitempty"`
	Example   string   `json:"example,omitempty"`

	Headers  map[string][]string `json:"example_headers,omitempty"`
	Assuming []conditionJSON     `json:"assuming,omitempty"`
}

type conditionJSON struct {
	Route     string `json:"route,omitempty"`
	Condition string `json:"condition"`
	Value     string `json:"value"`
}

func newJSONChange(c policy.Change) jsonChange {
	j := jsonChange{
		Change: string(c.Kind), What: c.What, Scheme: c.Scheme, Host: c.Host, Port: c.Port, Methods: c.Methods, Path: c.Path,
		Was: c.Was, Except: c.Except, WebSocket: c.WebSocket, Encoded: c.Encoded, Before: c.Before, After: c.After,
	}
	if c.Old != nil {
		j.Old, j.OldWhere = c.Old.Name, c.Old.Where
	}
	if c.New != nil {
		j.New, j.NewWhere = c.New.Name, c.New.Where
	}
	if c.Witness.Request.Method != "" {
		j.Example, j.Headers = c.Witness.String(), c.Witness.Request.Header
	}
	for _, a := range c.Witness.Assume {
		j.Assuming = append(j.Assuming, conditionJSON{Condition: a.Condition, Value: a.Value})
	}
	return j
}

// changeLooks are the sign and the colour of each kind of change.
var changeLooks = map[policy.ChangeKind]struct{ sign, color string }{
	policy.Gained:  {"+", "32"},
	policy.Lost:    {"-", "31"},
	policy.Changed: {"~", "33"},
}

// printChanges prints changes for people, those of one host below its name.
func printChanges(t *teller, changes []policy.Change) error {
	var b strings.Builder
	if len(changes) == 0 {
		b.WriteString("no change of access\n")
	}
	width := 0
	for _, c := range changes {
		width = max(width, len(strings.Join(c.Methods, ", ")))
	}
	width = min(width, 40)
	count := map[policy.ChangeKind]int{}
	host := ""
	for _, c := range changes {
		count[c.Kind]++
		if h := changeHost(c); h != host {
			host = h
			fmt.Fprintf(&b, "%s\n", t.paint("1", host))
		}
		look := changeLooks[c.Kind]
		what, details := changeWords(c)
		line := fmt.Sprintf("%s %-7s  ", look.sign, c.Kind)
		if len(c.Methods) > 0 {
			line += fmt.Sprintf("%-*s  %s  ", width, strings.Join(c.Methods, ", "), c.Path)
		}
		fmt.Fprintf(&b, "  %s\n", strings.TrimRight(t.paint(look.color, line)+what, " "))
		for _, d := range details {
			fmt.Fprintf(&b, "             %s\n", d)
		}
	}
	if len(changes) > 0 {
		fmt.Fprintf(&b, "%d gained, %d changed, %d lost\n", count[policy.Gained], count[policy.Changed], count[policy.Lost])
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

// changeHost is the heading that c stands below.
func changeHost(c policy.Change) string {
	if c.Host == "" {
		return "the whole policy"
	}
	host := strings.TrimSuffix(policy.Target{Scheme: c.Scheme, Authority: policy.Authority{Host: c.Host, Port: c.Port}}.String(), "/")
	return host
}

// changeWords says what c is about, and everything else that there is to say, one thing a line.
func changeWords(c policy.Change) (what string, details []string) {
	add := func(format string, args ...any) { details = append(details, fmt.Sprintf(format, args...)) }
	switch c.What {
	case policy.ChangeMode:
		return fmt.Sprintf("mode: %s, was %s (report lets denied requests through, without a credential)", c.After[0], c.Before[0]), nil
	case policy.ChangeBudget:
		return "budget: " + orNone(c.After) + ", was " + orNone(c.Before), nil
	case policy.ChangeTunnel:
		what = "connections are tunnelled uninspected"
		if c.Kind == policy.Lost {
			what = "connections were tunnelled uninspected"
		}
	case policy.ChangeCredential:
		what = "credential " + credentialIn(c.After) + ", was " + credentialIn(c.Before)
	case policy.ChangeOption:
		what = orNone(c.After) + ", was " + orNone(c.Before)
	default:
		what = accessWords(c)
	}
	if c.Was != "" {
		add("where it was %s", c.Was)
	}
	if len(c.Except) > 0 {
		still := map[policy.ChangeKind]string{policy.Gained: "allowed before", policy.Lost: "allowed still"}[c.Kind]
		add("but for %s, %s", someOf(c.Except), still)
	}
	if c.What == policy.ChangeAccess {
		for _, cond := range c.Before {
			add("was only if %s", cond)
		}
		for _, cond := range c.After {
			add("now only if %s", cond)
		}
	}
	add("for example %s", c.Witness)
	for _, name := range slices.Sorted(maps.Keys(c.Witness.Request.Header)) {
		add("  with %s: %s", name, strings.Join(c.Witness.Request.Header[name], ", "))
	}
	for _, a := range c.Witness.Assume {
		add("  if %s is %s", a.Condition, a.Value)
	}
	return what, details
}

// accessWords says which requests a change of access is about, beyond method and path.
func accessWords(c policy.Change) string {
	var words []string
	encoded := strings.Join(c.Encoded, ", ")
	switch {
	case c.What == policy.ChangeWebSocket:
		words = append(words, "as a WebSocket")
	case len(c.Encoded) > 0 && !c.Plain:
		words = append(words, "only with "+encoded+" in the path")
	case len(c.Encoded) > 0:
		words = append(words, "also with "+encoded+" in the path")
	}
	if c.WebSocket && c.What == policy.ChangeAccess {
		words = append(words, "also as a WebSocket")
	}
	r := c.New
	if r == nil {
		r = c.Old
	}
	by := "by route " + r.Name
	if r.Credential != "" {
		by += ", with credential " + r.Credential
	}
	return strings.Join(append(words, by), ", ")
}

// credentialIn puts a credential's name before what it is.
func credentialIn(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return words[0] + " (" + strings.Join(words[1:], ", ") + ")"
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// someOf joins the first of list.
func someOf(list []string) string {
	const most = 6
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most-1], ", "), len(list)-most+1)
	}
	return strings.Join(list, ", ")
}
