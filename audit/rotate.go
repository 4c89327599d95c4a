package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A rotator is a [Sink] whose next Write can go to a new file.
type rotator interface {
	// Rotate sets aside what was written. After an error nothing has changed.
	Rotate() error
}

// segmentDigits is how many digits the number of a file has that was set aside, so that names sort.
const segmentDigits = 6

// A rotating sink is a regular file at path. What is set aside is path.000001, path.000002 and so on,
// the oldest first.
type rotating struct {
	*os.File
	path string
	keep int // files set aside; 0 keeps all
}

// Rotate implements rotator. At every moment there is a file at path, and it is locked; a process
// that dies in between leaves a file that has two names, which [Segments] knows.
func (f *rotating) Rotate() error {
	aside, err := Segments(f.path)
	if err != nil {
		return err
	}
	number := 1
	if aside = aside[:len(aside)-1]; len(aside) > 0 {
		last, _ := segmentNumber(f.path, aside[len(aside)-1])
		number = last + 1
	}
	fresh, err := f.fresh()
	if err != nil {
		return err
	}
	target := fmt.Sprintf("%s.%0*d", f.path, segmentDigits, number)
	if err := os.Link(f.path, target); err != nil && !sameFile(f.path, target) {
		fresh.Close()
		return errors.Join(err, os.Remove(fresh.Name()))
	}
	if err := os.Rename(fresh.Name(), f.path); err != nil {
		fresh.Close()
		return errors.Join(err, os.Remove(fresh.Name()), os.Remove(target))
	}
	old := f.File
	f.File = fresh
	// The trail is whole whatever becomes of what follows. Whoever wants records on the disk has synced
	// each; to do it here would keep the next ones waiting.
	old.Close()
	syncDir(filepath.Dir(f.path))
	aside = append(aside, target)
	for f.keep > 0 && len(aside) > f.keep {
		os.Remove(aside[0])
		aside = aside[1:]
	}
	return nil
}

// fresh makes and locks the file that is to be the next at path.
func (f *rotating) fresh() (*os.File, error) {
	name := f.path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(file); err != nil {
		file.Close()
		return nil, errors.Join(err, os.Remove(name))
	}
	return file, nil
}

// sameFile reports whether a and b name one file, as after a process died while it rotated.
func sameFile(a, b string) bool {
	ai, err := os.Lstat(a)
	bi, err2 := os.Lstat(b)
	return err == nil && err2 == nil && os.SameFile(ai, bi)
}

// syncDir makes the names in dir last as the files do.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}

// Segments returns the files of the trail at path in the order in which they were written: those that
// were set aside, and last path itself, whether or not it is there.
func Segments(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	active, _ := os.Stat(path)
	type numbered struct {
		name   string
		number int
	}
	var found []numbered
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(path), e.Name())
		number, ok := segmentNumber(path, name)
		if !ok {
			continue
		}
		if info, err := e.Info(); err == nil && active != nil && os.SameFile(info, active) {
			continue // a process died while it rotated
		}
		found = append(found, numbered{name, number})
	}
	slices.SortFunc(found, func(a, b numbered) int { return a.number - b.number })
	names := make([]string, 0, len(found)+1)
	for _, f := range found {
		names = append(names, f.name)
	}
	return append(names, path), nil
}

// segmentNumber returns the number of the file name, if it was set aside from path.
func segmentNumber(path, name string) (int, bool) {
	rest, ok := strings.CutPrefix(filepath.Base(name), filepath.Base(path)+".")
	if !ok || len(rest) < segmentDigits || strings.Trim(rest, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil
}
