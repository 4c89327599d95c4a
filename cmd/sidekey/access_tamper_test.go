package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/sidekey/sidekey/audit/custody"
)

// An accessTampering changes nginx's log, and has to be found.
type accessTampering struct {
	name   string
	change func(lines [][]byte) (changed [][]byte, names string) // names is a regular expression that the finding must match
	code   custody.Code
}

// accessTamperings are those that can be done to both formats. What identifies a line is at its place
// or in its id, whatever the format.
func accessTamperings() []accessTampering {
	edit := func(pattern, to string, at ...string) func([][]byte) ([][]byte, string) {
		return func(l [][]byte) ([][]byte, string) {
			i := index(l, 3, at...)
			changed := regexp.MustCompile(pattern).ReplaceAll(l[i], []byte(to))
			if bytes.Equal(changed, l[i]) {
				panic("nothing to edit: " + pattern) // the test's mistake
			}
			l[i] = changed
			return l, placed(i)
		}
	}
	return []accessTampering{
		{"a line deleted", func(l [][]byte) ([][]byte, string) {
			i := index(l, 3, "/items/2")
			id := loggedID(l[i])
			return slices.Delete(l, i, i+1), id
		}, custody.AccessMissing},
		{"a status edited", edit(`([" ])404([" ])`, "${1}200${2}", "/items/missing"), custody.AccessMismatch},
		{"a method edited", edit(`POST`, "GET", "/items/3"), custody.AccessMismatch},
		{"a path edited", edit(`/files/none`, "/files/some", "/files/none"), custody.AccessMismatch},
		{"a time edited", edit(`^(.*?)20\d\d([:-])`, "${1}2019${2}", "/items/1"), custody.AccessMismatch},
		{"a line that no trail has", func(l [][]byte) ([][]byte, string) {
			const id = "01990000-0000-7000-8000-000000000000"
			i := index(l, 3, "/items/1")
			forged := bytes.ReplaceAll(l[i], []byte(loggedID(l[i])), []byte(id))
			return slices.Insert(l, i+1, forged), placed(i+1) + ".*" + id
		}, custody.AccessUnrecorded},
		{"a line twice", func(l [][]byte) ([][]byte, string) {
			i := index(l, 3, "/items/1")
			return slices.Insert(l, i+1, l[i]), placed(i+1) + ".*" + loggedID(l[i])
		}, custody.AccessUnrecorded},
	}
}

// placed matches where the line with index i is.
func placed(i int) string { return fmt.Sprintf(`access\.log:%d\b`, i+1) }

// loggedID returns the id behind our product in a line; "" if there is none.
func loggedID(line []byte) string {
	_, rest, ok := bytes.Cut(line, []byte(" sidekey/"))
	if !ok {
		return ""
	}
	return string(rest[:bytes.IndexByte(rest, '"')])
}

// tamper changes a copy of nginx's log as tt does, and checks that trace finds that, and nothing else.
func (st *accessStage) tamper(t *testing.T, format string, tt accessTampering) {
	log := filepath.Join(t.TempDir(), "access.log")
	names := ""
	copyLog(t, st.accessLog(format), log, func(lines [][]byte) (changed [][]byte) {
		changed, names = tt.change(lines)
		return changed
	})
	r := st.trace(t, format, log)
	wantFinding(t, r, []custody.Code{tt.code}, names)
	if len(r.Findings) != 1 {
		t.Errorf("%d findings, want 1", len(r.Findings))
		for _, f := range r.Findings[:min(5, len(r.Findings))] {
			t.Errorf("\t%+v", f)
		}
	}
}
