package main

import (
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
)

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
	names, err := trailFiles(path)
	if err != nil {
		return nil, func() {}, err
	}
	var open []io.Closer
	done = func() {
		for _, c := range open {
			c.Close()
		}
	}
	for _, name := range names {
		in, err := openLog(cmd, name)
		if err != nil {
			done()
			return nil, func() {}, err
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
