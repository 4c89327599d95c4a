package filesource_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/credential/filesource"
)

var _ credential.Source = (*filesource.Source)(nil)

func TestIssue(t *testing.T) {
	for _, tt := range []struct {
		content, want string
		err           error
	}{
		{"canary-1", "canary-1", nil},
		{"canary-1\n", "canary-1", nil},
		{"canary-1\r\n", "canary-1", nil},
		{"canary-1\n\n", "canary-1\n", nil},
		{" canary-1", " canary-1", nil},
		{strings.Repeat("x", 64<<10), strings.Repeat("x", 64<<10), nil},
		{strings.Repeat("x", 64<<10+1), "", credential.ErrRefused},
		{"", "", credential.ErrRefused},
		{"\n", "", credential.ErrRefused},
	} {
		path := filepath.Join(t.TempDir(), "token")
		write(t, path, tt.content)
		iss, err := source(t, path).Issue(t.Context(), "")
		if !errors.Is(err, tt.err) || tt.err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: error %v, want %v with the path", tt.content, err, tt.err)
		}
		if err == nil && string(iss.Value.Expose()) != tt.want {
			t.Errorf("%.20q: the value is not %.20q", tt.content, tt.want)
		}
	}
}

func TestIssueReadsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	src := source(t, path)
	for _, value := range []string{"first", "second"} {
		write(t, path, value)
		iss, err := src.Issue(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(iss.Value.Expose()); got != value {
			t.Errorf("value %q, want %q", got, value)
		}
		if want := start.Add(5 * time.Minute); !iss.ExpiresAt.Equal(want) || !iss.IssuedAt.Equal(start) {
			t.Errorf("issued %v, expires %v, want %v, %v", iss.IssuedAt, iss.ExpiresAt, start, want)
		}
		if iss.Origin != (credential.Origin{Kind: "file", Path: path}) {
			t.Errorf("origin %+v", iss.Origin)
		}
	}
}

func TestIssueRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, filepath.Join(dir, "absent")} {
		if _, err := source(t, path).Issue(t.Context(), ""); !errors.Is(err, credential.ErrRefused) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want ErrRefused with the path", path, err)
		}
	}
}

func TestNewChecks(t *testing.T) {
	for _, cfg := range []filesource.Config{{}, {Path: "x", MaxAge: -1}} {
		if _, err := filesource.New(cfg); err == nil {
			t.Errorf("New(%+v): no error", cfg)
		}
	}
}

func TestNothingPrintsTheValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "canary-7f2a")
	src := source(t, path)
	iss, err := src.Issue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v %#v %v %+v %#v", iss, iss, iss, src, src, src); strings.Contains(s, "canary") {
		t.Errorf("printed: %s", s)
	}
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func source(t *testing.T, path string) *filesource.Source {
	t.Helper()
	src, err := filesource.New(filesource.Config{Path: path, Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
