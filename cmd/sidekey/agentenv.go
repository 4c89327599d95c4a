package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// A variable is one of an agent's environment.
type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// agentEnv is what makes the usual clients use the proxy at proxyURL and trust the CA in caDir.
// There is no one variable: each stack reads its own, and some add a CA (ca.crt) where others
// replace theirs (bundle.crt, which has the system's roots too).
func agentEnv(proxyURL, caDir string) []variable {
	const direct = "127.0.0.1,localhost,::1"
	ca, bundle := filepath.Join(caDir, "ca.crt"), filepath.Join(caDir, "bundle.crt")
	return []variable{
		{"HTTP_PROXY", proxyURL}, {"http_proxy", proxyURL},
		{"HTTPS_PROXY", proxyURL}, {"https_proxy", proxyURL},
		{"ALL_PROXY", proxyURL}, {"all_proxy", proxyURL},
		{"NO_PROXY", direct}, {"no_proxy", direct},
		{"NODE_USE_ENV_PROXY", "1"}, // Node ignores the proxy variables without it
		{"NODE_EXTRA_CA_CERTS", ca},
		{"SSL_CERT_FILE", bundle},
		{"REQUESTS_CA_BUNDLE", bundle},
		{"CURL_CA_BUNDLE", bundle},
		{"GIT_SSL_CAINFO", bundle},
		{"AWS_CA_BUNDLE", bundle},
		{"PIP_CERT", bundle},
		{"CARGO_HTTP_CAINFO", bundle},
		{"DENO_CERT", ca},
		{"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", bundle},
		{"UV_NATIVE_TLS", "1"},
	}
}

var envFormats = map[string]func([]variable) (string, error){
	"sh": func(vs []variable) (string, error) {
		return lines(vs, func(v variable) string { return "export " + v.Name + "=" + shellQuote(v.Value) }), nil
	},
	"dotenv": func(vs []variable) (string, error) {
		return lines(vs, func(v variable) string { return v.Name + "=" + v.Value }), nil
	},
	"json": func(vs []variable) (string, error) {
		m := map[string]string{}
		for _, v := range vs {
			m[v.Name] = v.Value
		}
		b, err := json.MarshalIndent(m, "", "  ")
		return string(b) + "\n", err
	},
	"kube": func(vs []variable) (string, error) {
		return "env:\n" + lines(vs, func(v variable) string { return fmt.Sprintf("- {name: %s, value: %q}", v.Name, v.Value) }), nil
	},
}

func lines(vs []variable, f func(variable) string) string {
	var b strings.Builder
	for _, v := range vs {
		b.WriteString(f(v) + "\n")
	}
	return b.String()
}

// shellQuote quotes s for a POSIX shell where that is needed.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (r == '/' || r == ':' || r == '.' || r == ',' || r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func newEnv() *cobra.Command {
	var format, listen, caDir string
	formats := []string{"sh", "dotenv", "json", "kube"}
	cmd := &cobra.Command{
		Use:   "env [--format sh|dotenv|json|kube]",
		Short: "Print the environment that sends an agent through the sidecar",
		Long: `env prints the variables that make the usual clients (curl, git, Python, Node, Go, AWS, pip,
cargo, deno, gRPC) use the sidecar as their proxy and trust its CA. None of them is a secret.`,
		Example: `  eval "$(sidekey env --ca-dir /run/sidekey-ca)"
  sidekey env --format kube >> deployment.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			render, ok := envFormats[format]
			if !ok {
				return mistake(fmt.Errorf("unknown format %q; use one of %s", format, strings.Join(formats, ", ")))
			}
			text, err := render(agentEnv("http://"+listen, caDir))
			if err != nil {
				return failed(err)
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "sh", "sh, dotenv, json or kube")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:3128", "address that the sidecar listens on")
	cmd.Flags().StringVar(&caDir, "ca-dir", "/run/sidekey-ca", "directory that holds ca.crt and bundle.crt, as the agent sees it")
	cmd.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return slices.Clone(formats), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}
