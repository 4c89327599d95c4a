package main

import "github.com/spf13/cobra"

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify audit logs, and trace uses of credentials to where they were issued",
		Example: `  sidekey audit verify /var/log/sidekey/audit.jsonl
  sidekey audit trace --vault-audit vault-audit.log /var/log/sidekey/audit.jsonl`,
		Args:                       subcommand,
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerify(), newAuditTrace())
	return cmd
}
