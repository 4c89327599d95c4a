package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  sidekey version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			platform := runtime.GOOS + "/" + runtime.GOARCH
			if asJSON {
				return failed(json.NewEncoder(out).Encode(map[string]string{"version": version, "go": runtime.Version(), "platform": platform}))
			}
			fmt.Fprintf(out, "sidekey %s %s %s\n", version, runtime.Version(), platform)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
