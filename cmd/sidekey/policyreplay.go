package main

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

// A replayed is a request of a log and what would become of it, as JSON. Requests that are alike are
// one.
type replayed struct {
	Where   string `json:"where"` // of the first
	Count   int    `json:"count"`
	Request string `json:"request"` // with a pattern for a path, where the log has no other
	Was     string `json:"was"`
	Would   string `json:"would"`
	Change  string `json:"change"` // denied, may_be_denied, allowed, conditions or none
	Example string `json:"example,omitempty"`
}

// The changes of a replayed request.
const (
	nowDenied    = "denied"
	mayDenied    = "may_be_denied"
	nowAllowed   = "allowed"
	onConditions = "conditions"
	unchanged    = "none"
)

// replayPolicy puts the requests of logs to the policy in file.
func replayPolicy(cmd *cobra.Command, file string, logs []string, asJSON, verbose bool) error {
	pol, err := policyFrom(cmd, file)
	if err != nil {
		return mistake(err)
	}
	traffic, err := readTraffic(cmd, logs)
	if err != nil {
		return mistake(err)
	}
	list := []replayed{}
	index := map[string]int{}
	count := map[string]int{}
	others := 0
	for _, r := range traffic.requests {
		if r.role != pol.Role() {
			others++
			continue
		}
		one := replayOne(pol, r)
		count[one.Change]++
		key := one.Request + "\x00" + one.Was + "\x00" + one.Would
		if i, ok := index[key]; ok {
			list[i].Count++
			continue
		}
		index[key] = len(list)
		list = append(list, one)
	}
	total := len(traffic.requests) - others
	if others > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out %d of other roles than %s\n", others, pol.Role())
	}
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), list)
	} else {
		printReplayed(cmd, list, verbose)
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d requests: %d would be denied, %d may be, %d would be allowed, %d hang on conditions, %d unchanged\n",
			total, count[nowDenied], count[mayDenied], count[nowAllowed], count[onConditions], count[unchanged])
	}
	if err != nil {
		return failed(err)
	}
	if count[nowDenied]+count[mayDenied] > 0 {
		return &exitError{Status: exitFound}
	}
	return nil
}

// replayOne puts one request to pol.
func replayOne(pol *policy.Policy, r pastRequest) replayed {
	got := pol.Replay(r.Seen)
	url := policy.Target{Scheme: cmp.Or(r.Scheme, "https"), Authority: policy.Authority{Host: r.Host, Port: r.Port}, Path: cmp.Or(r.Sent, r.Path)}.String()
	if r.Path == "" {
		url = policy.Authority{Host: r.Host, Port: r.Port}.String() // of a CONNECT
	}
	one := replayed{Where: r.where, Count: 1, Request: r.Method + " " + url, Was: "allow"}
	if r.Route != "" {
		one.Was = "allow by " + r.Route
	}
	if r.Denied != "" {
		one.Was = "deny: " + string(r.Denied)
		if r.LetThrough {
			one.Was += " (let through)"
		}
	}
	one.Would = "allow"
	if got.Route != nil {
		one.Would = "allow by " + got.Route.Name
	}
	allowed := r.Denied == ""
	switch got.Verdict {
	case policy.WouldAllow:
		one.Change = unchanged
		if !allowed {
			one.Change = nowAllowed
		}
	case policy.WouldDeny:
		one.Would, one.Change = "deny: "+string(got.Reason), unchanged
		if allowed {
			one.Change = nowDenied
		}
	case policy.MayDeny:
		one.Would, one.Change = "in part deny: "+string(got.Reason), nowAllowed
		if allowed {
			one.Change = mayDenied
			one.Example = got.Example.Method + " " + got.Example.Target.String()
		}
	case policy.MayAllow:
		one.Would, one.Change = one.Would+", if its conditions hold", onConditions
	}
	return one
}

// printReplayed prints what changes, for people.
func printReplayed(cmd *cobra.Command, list []replayed, verbose bool) {
	out := cmd.OutOrStdout()
	t := newTeller(out, os.Environ())
	looks := map[string]struct{ word, color string }{
		nowDenied: {"denied", "31"}, mayDenied: {"may be denied", "31"}, nowAllowed: {"allowed", "33"},
		onConditions: {"unknown", "0"}, unchanged: {"same", "32"},
	}
	for _, r := range list {
		if !verbose && (r.Change == unchanged || r.Change == onConditions) {
			continue
		}
		times := ""
		if r.Count > 1 {
			times = fmt.Sprintf(" (%d times)", r.Count)
		}
		look := looks[r.Change]
		fmt.Fprintf(out, "%s  %s  %s%s: was %s, now %s\n", t.paint(look.color, fmt.Sprintf("%-13s", look.word)), r.Where, r.Request, times, r.Was, r.Would)
		if r.Example != "" {
			fmt.Fprintf(out, "               for example %s\n", r.Example)
		}
	}
}
