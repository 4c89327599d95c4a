package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/policy"
)

func newPolicyFmt() *cobra.Command {
	var write, list bool
	cmd := policyArgs(&cobra.Command{
		Use:   "fmt FILE|-...",
		Short: "Print policy files in one form, or rewrite them",
		Long: `fmt prints each file with two spaces of indentation and the keys of each mapping in the order of the
documentation. Comments stay with what they are about, and what the file says does not change. It
takes policies, files that they include, and files of tests. With -w files are rewritten, and those
that were are named; with -l files in another form are named only, and the exit status is 3 if there
is one.`,
		Example: `  sidekey policy fmt policy.yaml
  sidekey policy fmt -w policies/*.yaml
  sidekey policy fmt -l policies/*.yaml     # in CI`,
		RunE: func(cmd *cobra.Command, args []string) error {
			differ := false
			for _, file := range args {
				changed, err := formatPolicy(cmd, file, write, list)
				if err != nil {
					return err
				}
				differ = differ || changed
			}
			if list && differ {
				return &exitError{Status: exitFound}
			}
			return nil
		},
	})
	cmd.Flags().BoolVarP(&write, "write", "w", false, "rewrite the files")
	cmd.Flags().BoolVarP(&list, "list", "l", false, "name the files that are in another form, and change none")
	cmd.MarkFlagsMutuallyExclusive("write", "list")
	return cmd
}

// formatPolicy formats one file and reports whether it was in another form.
func formatPolicy(cmd *cobra.Command, file string, write, list bool) (changed bool, err error) {
	var src []byte
	name := file
	switch {
	case file == "-" && write:
		return false, mistake(errors.New("standard input cannot be rewritten\n\thint: leave out -w"))
	case file == "-":
		name = "stdin"
		src, err = readStdin(cmd)
	default:
		if err = checkFile(file); err == nil {
			src, err = os.ReadFile(file)
		}
	}
	if err != nil {
		return false, mistake(err)
	}
	formatted, err := policy.Format(name, src)
	if errors.Is(err, policy.ErrNotFormatted) {
		return false, failed(fmt.Errorf("%s: %w", name, err))
	}
	if err != nil {
		return false, mistake(err)
	}
	changed = !bytes.Equal(src, formatted)
	switch {
	case !write && !list:
		_, err = cmd.OutOrStdout().Write(formatted)
		return changed, failed(err)
	case !changed:
		return false, nil
	case write:
		if err := replaceFile(file, formatted); err != nil {
			return false, failed(err)
		}
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), name)
	return changed, failed(err)
}

// replaceFile gives a file another content, wholly or not at all. A link stays one.
func replaceFile(file string, content []byte) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".sidekey-fmt-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // which is gone if all went well
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
