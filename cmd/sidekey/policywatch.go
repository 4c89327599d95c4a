package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// rereadInterval is how often watched files are read. Their content counts: an editor that writes a
// file anew, and a ConfigMap whose link is swapped, tell a watcher of files little.
const rereadInterval = 500 * time.Millisecond

// maxWatchDepth bounds how far below a policy the files are looked for that it includes.
const maxWatchDepth = 3

// watchFiles calls run, and again whenever one of files, or another YAML or Markdown file at or below
// the place of one, changes. It ends with the command's context.
func watchFiles(cmd *cobra.Command, files []string, run func() error) error {
	for _, file := range files {
		if file == "-" {
			return mistake(fmt.Errorf("standard input cannot be watched\n\thint: name a file"))
		}
	}
	stderr := cmd.ErrOrStderr()
	tick := time.NewTicker(rereadInterval)
	defer tick.Stop()
	for {
		before := fingerprint(files)
		status := exitStatus(run(), stderr)
		word := "ok"
		if status != 0 {
			word = fmt.Sprintf("exit status %d", status)
		}
		fmt.Fprintf(stderr, "%s  %s; watching for changes\n", time.Now().Format(time.TimeOnly), word)
		for now := before; now == before; now = fingerprint(files) {
			select {
			case <-cmd.Context().Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// fingerprint stands for the names and contents of all that is watched.
func fingerprint(files []string) [sha256.Size]byte {
	sum := sha256.New()
	add := func(name string) {
		content, err := os.ReadFile(name)
		fmt.Fprintf(sum, "%s\x00%d\x00%v\x00", name, len(content), err != nil)
		sum.Write(content)
	}
	seen := map[string]bool{}
	for _, file := range files {
		add(file)
		dir := filepath.Dir(file)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		// What cannot be read cannot be watched; run says so.
		_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(dir, name)
			switch {
			case err != nil:
				return nil
			case e.IsDir() && (strings.Count(rel, string(filepath.Separator)) >= maxWatchDepth || rel != "." && strings.HasPrefix(e.Name(), ".")):
				return fs.SkipDir
			case e.IsDir():
				return nil
			}
			if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" || ext == ".md" {
				add(name)
			}
			return nil
		})
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
