// Package filesource obtains credentials from a file that something else keeps up to date.
package filesource

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// maxSize is the largest file that is read, in bytes.
const maxSize = 64 << 10

// Config says which file to read. Path is required.
type Config struct {
	// Path is the file. It may be a symbolic link to a regular file.
	Path string

	// MaxAge is how long one reading is used. Zero means 5 minutes.
	MaxAge time.Duration

	// Now is the clock that expiries are computed by. Nil means time.Now.
	Now func() time.Time
}

// A Source reads its file whole for every issuance, so that a file that is replaced is seen.
// It implements [credential.Source].
type Source struct{ cfg Config }

// New returns a source. It does not touch the file.
func New(cfg Config) (*Source, error) {
	if cfg.Path == "" {
		return nil, errors.New("file source: the path is missing")
	}
	if cfg.MaxAge < 0 {
		return nil, fmt.Errorf("file source: the maximum age %v is negative", cfg.MaxAge)
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 5*time.Minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Source{cfg}, nil
}

// Issue implements [credential.Source]. The value is what the file holds without one trailing
// newline. The error wraps ErrRefused if the file is missing, not readable, not a regular
// file, empty or over 64 KiB, and ErrUnavailable if reading failed otherwise.
func (s *Source) Issue(_ context.Context, _ string) (*credential.Issuance, error) {
	asked := s.cfg.Now()
	value, err := read(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	return &credential.Issuance{
		Value:     credential.NewSecret(value),
		IssuedAt:  asked,
		ExpiresAt: asked.Add(s.cfg.MaxAge),
		Origin:    credential.Origin{Kind: "file", Path: s.cfg.Path},
	}, nil
}

func read(path string) ([]byte, error) {
	// Opening a FIFO would block until someone writes to it, whatever the context says.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("file source: %v: %w", err, kind(err))
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("file source: read %s: not a regular file: %w", path, credential.ErrRefused)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("file source: %v: %w", err, kind(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("file source: %v: %w", err, kind(err))
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("file source: read %s: over 64 KiB: %w", path, credential.ErrRefused)
	}
	if line, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		b = bytes.TrimSuffix(line, []byte("\r"))
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("file source: read %s: empty: %w", path, credential.ErrRefused)
	}
	return b, nil
}

func kind(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return credential.ErrRefused
	}
	return credential.ErrUnavailable
}
