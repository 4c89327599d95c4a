package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func newPolicyLearn() *cobra.Command {
	var base, role string
	var denied bool
	cmd := &cobra.Command{
		Use:   "learn LOG|-...",
		Short: "Draft the least policy that allows what an audit log saw",
		Long: `learn prints a policy with a route for each kind of request that the log has as sent, each with a
comment on what was seen. Methods are kept as they are. Segments of a path that look like ids
(numbers, UUIDs, hex, long random texts) become {id}.

Read what it prints before you use it, and know what a log holds. Of a request that was allowed it
has the pattern of the route and not the path; all of that pattern is allowed again, and conditions
are not in the log at all. Only of a request that a policy in mode report let through, that was
denied, or whose route says log: path, does it have the path itself. It never has queries, headers
or bodies. So the best draft comes of a session under a policy in mode report that has few routes or
none that fit.

With --policy, the policy that the log was written under, routes that allowed requests keep their
conditions, options and credentials, narrowed to what was used of them. Without it, write down
yourself where each credential comes from.

Records are taken as they stand: whether the log is intact is not checked here.`,
		Example: `  sidekey policy learn --policy policy.yaml audit.jsonl > learned.yaml
  sidekey policy learn --denied audit.jsonl
  sidekey policy learn audit.jsonl | sidekey policy check -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return mistake(errors.New("name at least one audit log"))
			}
			return nil
		},
		ValidArgsFunction: completeLogs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if base == "-" && slices.Contains(args, "-") {
				return mistake(errors.New("only one of the policy and the log can be standard input"))
			}
			cfg := policy.LearnConfig{Role: role}
			if base != "" {
				var err error
				if cfg.Base, err = policyFrom(cmd, base); err != nil {
					return mistake(err)
				}
			}
			return learnPolicy(cmd, cfg, args, denied)
		},
	}
	cmd.Flags().StringVar(&base, "policy", "", "the policy that the log was written under")
	cmd.Flags().BoolVar(&denied, "denied", false, "allow what was denied, too")
	cmd.Flags().StringVar(&role, "role", "", "learn from this role's requests; needed if the log has several")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	return cmd
}

// completeLogs completes the names of audit logs.
func completeLogs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"jsonl", "json", "log"}, cobra.ShellCompDirectiveFilterFileExt
}

func learnPolicy(cmd *cobra.Command, cfg policy.LearnConfig, files []string, denied bool) error {
	traffic, err := readTraffic(cmd, files)
	if err != nil {
		return mistake(err)
	}
	if cfg.Role, err = traffic.only(cfg.Role); err != nil {
		return mistake(err)
	}
	cfg.Sources = traffic.sources
	var seen []policy.Seen
	leftOut, patterns, pathless, otherPolicy := 0, 0, 0, 0
	for _, r := range traffic.requests {
		if r.Denied != "" && !r.LetThrough && !denied {
			leftOut++
			continue
		}
		if r.Pattern {
			patterns++
			if r.Sent == "" {
				pathless++
			}
			if cfg.Base != nil && r.sha != cfg.Base.SHA256() {
				otherPolicy++
			}
		}
		seen = append(seen, r.Seen)
	}
	learned, err := policy.Learn(cfg, seen)
	stderr := cmd.ErrOrStderr()
	if learned != nil {
		for _, why := range slices.Sorted(maps.Keys(learned.Skipped)) {
			fmt.Fprintf(stderr, "left out %d: %s\n", learned.Skipped[why], why)
		}
	}
	if leftOut > 0 {
		fmt.Fprintf(stderr, "left out %d that were denied (--denied learns from them, too)\n", leftOut)
	}
	if err != nil {
		return failed(err)
	}
	if pathless > 0 {
		fmt.Fprintf(stderr, "of %d requests the log has the pattern of the route, not the path: all of it is allowed\n", pathless)
	}
	if patterns > 0 && cfg.Base == nil {
		fmt.Fprintln(stderr, "conditions, options and credentials are not in the log: give the policy it was written under with --policy")
	}
	if otherPolicy > 0 {
		fmt.Fprintf(stderr, "%d requests were decided by another version of the policy than the one given\n", otherPolicy)
	}
	_, err = cmd.OutOrStdout().Write(learned.Source)
	return failed(err)
}
