package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, test and explain policy files",
		Example: `  sidekey policy check policy.yaml
  sidekey policy diff old.yaml new.yaml
  sidekey policy explain --policy policy.yaml GET https://api.github.com/user`,
		Args:                       subcommand,
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newPolicyCheck(), newPolicyTest(), newPolicyExplain(), newPolicyDiff(), newPolicyLearn(), newPolicyFmt(), newPolicySchema(),
	)
	return cmd
}

// policyArgs asks for at least one file and completes YAML files.
func policyArgs(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return mistake(errors.New("name at least one policy file"))
		}
		return nil
	}
	cmd.ValidArgsFunction = completePolicies(math.MaxInt)
	return cmd
}

// completePolicies completes the names of YAML files, of the first most arguments.
func completePolicies(most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}
}

// policyFrom reads and parses the policy file that an argument names, with what it includes; - is
// standard input.
func policyFrom(cmd *cobra.Command, file string) (*policy.Policy, error) {
	if file != "-" {
		if err := checkFile(file); err != nil {
			return nil, err
		}
		return readPolicy(file)
	}
	src, err := readStdin(cmd)
	if err != nil {
		return nil, err
	}
	return policy.Parse("stdin", src)
}

// readStdin returns standard input, up to one byte more than a policy may have.
func readStdin(cmd *cobra.Command) ([]byte, error) {
	src, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), strictyaml.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %v", err)
	}
	return src, nil
}

// openInput opens the file that an argument names; - is standard input. The caller closes it.
func openInput(cmd *cobra.Command, file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	if err := checkFile(file); err != nil {
		return nil, err
	}
	return os.Open(file)
}

// checkFile says what is wrong with the name of a file to read, and which one may be meant.
func checkFile(file string) error {
	info, err := os.Stat(file)
	if err == nil && info.IsDir() {
		hint := ""
		if inside, _ := filepath.Glob(filepath.Join(file, "*.y*ml")); len(inside) > 0 {
			hint = "\n\thint: name the files in it, such as " + inside[0]
		}
		return fmt.Errorf("%s is a directory%s", file, hint)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // whatever else is wrong, reading says it
	}
	dir, name := filepath.Split(file)
	entries, _ := os.ReadDir(cmp.Or(dir, "."))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	hint := ""
	if near := strictyaml.Nearest(name, names); near != "" {
		hint = "\n\thint: did you mean " + dir + near + "?"
	}
	return fmt.Errorf("open %s: no such file or directory%s", file, hint)
}

// printJSON prints v, indented.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func newPolicySchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Example: `  sidekey policy schema > policy.schema.json
  # and in the policy file: # yaml-language-server: $schema=policy.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return failed(err)
		},
	}
}
