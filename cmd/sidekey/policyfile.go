package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/sidekey/sidekey/policy"
)

// maxPolicyFile is more than the policy's parser takes of one file.
const maxPolicyFile = 1<<20 + 1

// readPolicy reads and parses a policy file and the files that it includes.
func readPolicy(path string) (*policy.Policy, error) {
	pol, _, err := loadPolicy(path)
	return pol, err
}

// loadPolicy is readPolicy, and also returns the bytes of all files that it read, by their paths; nil for
// those that could not be read. All are of one state of a mounted ConfigMap, whose files are links
// into a directory that is swapped as a whole (..data).
func loadPolicy(path string) (pol *policy.Policy, files map[string][]byte, err error) {
	files = map[string][]byte{}
	dir := filepath.Dir(path)
	from := dir
	if swapped, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
		from = swapped
	}
	pol, err = policy.ParseFiles(path, func(name string) ([]byte, error) {
		src, err := readAtMost(filepath.Join(from, filepath.FromSlash(name)), maxPolicyFile)
		files[filepath.Join(dir, filepath.FromSlash(name))] = src
		return src, err
	})
	return pol, files, err
}

// readAtMost returns the first n bytes of a file.
func readAtMost(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}
