package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

var errUnknown = errors.New("what reached the sink is unknown")

// A Sink takes the lines of a trail. A [Log] never calls it concurrently.
type Sink interface {
	// Write takes p, whole lines, or says in n how much of it is now part of the trail.
	Write(p []byte) (n int, err error)

	// Sync returns when everything written is on stable storage.
	Sync() error

	// Close is called once, last.
	Close() error
}

// A rewinder is a [Sink] from which a line that was written in part can be taken back, as
// *os.File can on a regular file.
type rewinder interface {
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
}

// OpenSink opens the sink that a config names: "-" is standard output, which Close leaves open;
// "unix:PATH" is a Unix stream socket, to which it connects once: when that connection fails, all
// that is appended fails from then on; anything else is a path for [OpenFile]. Syncing a sink that has no stable storage (a pipe, a
// terminal) does nothing. When the reader of standard output is gone, SIGPIPE ends the process
// unless the caller ignores that signal, and only then does Append fail.
//
// A regular file is rotated at the end of each segment: it becomes path.000001, the next one path.000002 and
// so on. No more than keep of these are kept, or all if keep is 0.
func OpenSink(path string, keep int) (Sink, error) {
	if path == "-" {
		return stream{os.Stdout, true}, nil
	}
	if socket, ok := strings.CutPrefix(path, "unix:"); ok {
		return openSocket(socket)
	}
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return stream{f, false}, nil
	}
	return &rotating{File: f, path: path, keep: keep}, nil
}

// A stream is a file from which nothing can be taken back: standard output may be shared, even
// where it is a regular file.
type stream struct {
	f        *os.File
	keepOpen bool
}

func (s stream) Write(p []byte) (int, error) { return s.f.Write(p) }

func (s stream) Sync() error {
	err := s.f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

func (s stream) Close() error {
	if s.keepOpen {
		return nil
	}
	return s.f.Close()
}

// OpenFile opens the trail at path for appending and makes it, with mode 0600, if there is none.
// It must be a regular file, a FIFO that somebody reads, or a character device; a symbolic link
// is refused. A regular file is locked (flock) for as long as it is open, so that a second process
// cannot write into the chain. If it ends in a part of a line, because a process died while
// writing, OpenFile ends that line; [Verify] reports it as a torn tail.
func OpenFile(path string) (*os.File, error) {
	// O_NONBLOCK makes opening a FIFO without a reader an error instead of waiting for one.
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE |
		syscall.O_CLOEXEC | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("open the audit trail: %s is a symbolic link", path)
	}
	if errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("open the audit trail: nobody reads %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the audit trail: %v", err)
	}
	if err := prepare(f, path); err != nil {
		f.Close()
		return nil, fmt.Errorf("open the audit trail: %v", err)
	}
	return f, nil
}

// prepare checks what f is and, if it is a regular file, locks it and ends its last line.
func prepare(f *os.File, path string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	switch mode := fi.Mode(); {
	case mode.Type() == os.ModeNamedPipe, mode.Type() == os.ModeDevice|os.ModeCharDevice:
		return nil
	case !mode.IsRegular():
		return fmt.Errorf("%s is not a file, a FIFO or a character device", path)
	}
	if err := lock(f); err != nil {
		return fmt.Errorf("lock %s: %v", path, err)
	}
	torn, err := endsTorn(f, path)
	if err != nil || !torn {
		return err
	}
	_, err = f.Write([]byte("\n"))
	return err
}

// lock takes the file's lock without waiting for it. It avoids f.Fd, which would make f blocking.
func lock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	err = conn.Control(func(fd uintptr) {
		lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if errors.Is(lockErr, syscall.EWOULDBLOCK) {
		return errors.New("another process writes to it")
	}
	return errors.Join(err, lockErr)
}

// endsTorn reports whether the file's last byte is not a newline. f itself cannot be read, since
// a FIFO opened for reading and writing would look as if it had a reader.
func endsTorn(f *os.File, path string) (bool, error) {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return false, err
	}
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if same, err := r.Stat(); err != nil || !os.SameFile(fi, same) {
		return false, errors.New("the file was replaced while it was opened")
	}
	var last [1]byte
	if _, err := r.ReadAt(last[:], fi.Size()-1); err != nil && err != io.EOF {
		return false, err
	}
	return last[0] != '\n', nil
}
