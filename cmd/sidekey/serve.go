package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/internal/config"
)

func newServe(p process) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the sidecar",
		Long: `serve runs the sidecar until SIGTERM or SIGINT. It then refuses new tunnels, lets requests in flight
finish within the grace period, revokes what it holds, and exits. A policy that changes is taken while
it runs; SIGHUP has its files looked at now.

Settings come from the file, then from SIDEKEY_* variables (vault.auth.token_file is
SIDEKEY_VAULT_AUTH_TOKEN_FILE), then from flags. Everything that is wrong is listed, with its place,
before the first listener opens.`,
		Example: `  sidekey serve --config /etc/sidekey/config.yaml
  sidekey serve --config config.yaml --listen 127.0.0.1:8080 --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file, _ = environment(p.environ).lookup("SIDEKEY_CONFIG")
			}
			cfg, err := config.Load(file, p.environ, cmd.Flags())
			if err != nil {
				return mistake(err)
			}
			log, err := newLogger(p.stderr, cfg.LogLevel)
			if err != nil {
				return mistake(err)
			}
			if cfg.Audit.Path == "-" {
				// A log collector that goes away must refuse requests, not kill the process.
				signal.Ignore(syscall.SIGPIPE)
			}
			s, err := prepare(cfg, p, log)
			if err != nil {
				return err
			}
			os.Clearenv() // nothing that was handed to this process is handed on
			sc, err := newSidecar(s, log)
			if err != nil {
				return err
			}
			return failed(sc.run(cmd.Context()))
		},
	}
	config.Flags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "configuration file (also SIDEKEY_CONFIG)")
	cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}
