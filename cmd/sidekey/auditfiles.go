package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
)

// trails leaves out those of args that another one stands for, as when audit.jsonl* names them all.
func trails(args []string) []string {
	rotated := map[string]bool{}
	for _, path := range args {
		files, err := trailFiles(path)
		for _, file := range files {
			if err == nil && file != path {
				rotated[filepath.Clean(file)] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(args), func(path string) bool { return rotated[filepath.Clean(path)] })
}

// trailFiles returns the files of the trail that an argument names, the oldest first: those that were
// rotated out of it, and itself. It must be there, or one that was rotated out of it.
func trailFiles(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	files, err := audit.Segments(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		if files = files[:len(files)-1]; !errors.Is(err, fs.ErrNotExist) || len(files) == 0 {
			return nil, err
		}
	}
	return files, nil
}

// openTrail opens the trail that an argument names; see [trailFiles]. The caller calls done.
func openTrail(cmd *cobra.Command, path string) (files []audit.File, done func(), err error) {
	const tries = 5 // a trail that is being written may be rotated meanwhile
	for range tries {
		names, err := trailFiles(path)
		if err != nil {
			return nil, func() {}, err
		}
		files, done, err = openFiles(cmd, names)
		if again, err2 := trailFiles(path); err == nil && err2 == nil && slices.Equal(names, again) {
			return files, done, nil
		}
		done()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, func() {}, err
		}
	}
	return nil, func() {}, fmt.Errorf("the files of %s are rotated too often to be read", path)
}

// openFiles opens all files, or none.
func openFiles(cmd *cobra.Command, names []string) (files []audit.File, done func(), err error) {
	var open []io.Closer
	done = func() {
		for _, c := range open {
			c.Close()
		}
	}
	for _, name := range names {
		in, err := openLog(cmd, name)
		if err != nil {
			return nil, done, err
		}
		open = append(open, in)
		if name == "-" {
			name = "stdin"
		}
		files = append(files, audit.File{Name: name, Reader: in})
	}
	return files, done, nil
}

// openLog opens a log that an argument names; - is standard input, and one that ends in .gz is
// unpacked.
func openLog(cmd *cobra.Command, name string) (io.ReadCloser, error) {
	in, err := openInput(cmd, name)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return in, err
	}
	unpacked, err := gzip.NewReader(in)
	if err != nil {
		in.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{unpacked, in}, nil
}
