package audit_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/audit"
)

// rotated opens a log whose segments are small, at path.
func rotated(t *testing.T, path string, keep int, id string) *audit.Log {
	t.Helper()
	sink, err := audit.OpenSink(path, keep)
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.New(audit.Config{Sink: sink, SegmentBytes: 2000, Session: audit.Session{ID: id}, Problem: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	return l
}

// segments returns what the files of the trail at path hold.
func segments(t *testing.T, path string) (files []audit.File, names []string) {
	t.Helper()
	paths, err := audit.Segments(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		files = append(files, audit.File{Name: filepath.Base(p), Reader: strings.NewReader(read(t, p))})
		names = append(names, filepath.Base(p))
	}
	return files, names
}

// readAll reads a trail to its end and returns the first thing that is wrong with it.
func readAll(rd *audit.Reader) (n int, err error) {
	for {
		if _, err := rd.Next(); err != nil {
			if err.Error() == "EOF" {
				return n, nil
			}
			return n, err
		}
		n++
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := rotated(t, path, 0, "a")
	for range 30 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Detail: strings.Repeat("x", 200)})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, names := segments(t, path)
	if len(names) < 5 || names[0] != "audit.jsonl.000001" || names[len(names)-1] != "audit.jsonl" {
		t.Fatalf("files %q", names)
	}
	rd := audit.NewReader(files...)
	n, err := readAll(rd)
	s := rd.Summary().Sessions
	if err != nil || len(s) != 1 || s[0].Records != n || s[0].Segments < len(names)-1 || s[0].Unsigned != 0 {
		t.Errorf("%d records, %v, %+v", n, err, s)
	}
	for _, name := range names[:len(names)-1] {
		text := read(t, filepath.Join(filepath.Dir(path), name))
		if last := text[strings.LastIndex(text[:len(text)-1], "\n")+1:]; !strings.Contains(last, `"event":"segment.signed"`) {
			t.Errorf("%s does not end in a signature: %s", name, last)
		}
		if size := len(text); size > 2000+1200 {
			t.Errorf("%s has %d bytes", name, size)
		}
	}
	// The next session goes on in the same place.
	l = rotated(t, path, 0, "b")
	for range 10 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Detail: strings.Repeat("x", 200)})
	}
	l.Close()
	files, more := segments(t, path)
	if len(more) <= len(names) {
		t.Errorf("files %q after %q", more, names)
	}
	if _, err := readAll(audit.NewReader(files...)); err != nil {
		t.Error(err)
	}
}

// A trail of bounded size begins in the middle, which must be said to be found right.
func TestRotationKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := rotated(t, path, 2, "a")
	ref := mustAppend(t, l, audit.Record{Event: audit.RequestIntent})
	mustAppend(t, l, audit.Record{Event: audit.CredentialIssued, Issuance: "i", ExpiresAt: noon.AddDate(50, 0, 0)})
	for range 30 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Detail: strings.Repeat("x", 200)})
	}
	mustAppend(t, l, audit.Record{Event: audit.RequestIntent, Issuance: "i"})
	mustAppend(t, l, audit.Record{Event: audit.RequestOutcome, Intent: ref.Seq})
	l.Close()
	files, names := segments(t, path)
	if len(names) != 3 {
		t.Errorf("files %q, want 3", names)
	}
	rd := audit.NewReader(files...)
	rd.Partial = true
	if _, err := readAll(rd); err != nil || rd.Summary().Sessions[0].Unsigned != 0 {
		t.Errorf("as a part: %v, %+v", err, rd.Summary())
	}
	files, _ = segments(t, path)
	if _, err := readAll(audit.NewReader(files...)); err == nil || !strings.Contains(err.Error(), names[0]+":1 ") {
		t.Errorf("as a whole: %v", err)
	}
	files, _ = segments(t, path)
	rd = audit.NewReader(files[0], files[2]) // one in the middle is no beginning
	rd.Partial = true
	if _, err := readAll(rd); err == nil || !strings.Contains(err.Error(), names[2]+":1 ") {
		t.Errorf("without the middle: %v", err)
	}
}

// A process that dies between the two names of a file leaves nothing behind that is read twice.
func TestRotationDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := rotated(t, path, 0, "a")
	l.Close()
	if err := os.Link(path, path+".000001"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("left behind"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, names := segments(t, path); !cmp.Equal(names, []string{"audit.jsonl"}) {
		t.Errorf("files %q", names)
	}
	l = rotated(t, path, 0, "b")
	for range 20 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Detail: strings.Repeat("x", 200)})
	}
	l.Close()
	files, _ := segments(t, path)
	rd := audit.NewReader(files...)
	if _, err := readAll(rd); err != nil || len(rd.Summary().Sessions) != 2 {
		t.Errorf("%v, %+v", err, rd.Summary())
	}
}

// A file that cannot be rotated goes on being written.
func TestRotationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	sink, err := audit.OpenSink(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	var problems []error
	l, err := audit.New(audit.Config{Sink: sink, SegmentBytes: 1000, Session: audit.Session{ID: "a"}, Problem: func(err error) { problems = append(problems, err) }})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	if err := os.MkdirAll(path+".new/x", 0o700); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		mustAppend(t, l, audit.Record{Event: audit.RequestDenied, Detail: strings.Repeat("x", 200)})
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if len(problems) == 0 {
		t.Error("no one was told")
	}
	mustVerify(t, read(t, path))
}

// Whoever has the files but not the key can write a trail anew, but not as the session that it was.
func TestSignatures(t *testing.T) {
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	whole := trail(t, "a")
	lines := strings.SplitAfter(whole, "\n")
	sig := lines[len(lines)-2]
	var e audit.Entry
	if err := json.Unmarshal([]byte(sig), &e); err != nil || e.Event != audit.SegmentSigned || len(e.Signature) != 128 {
		t.Fatalf("%v: %s", err, sig)
	}
	forged := hex.EncodeToString(ed25519.Sign(other, fmt.Appendf(nil, "sidekey segment v1\na\n%d\n%s\n", e.Seq-1, e.Prev)))
	flipped := strings.Map(func(r rune) rune {
		if r == '0' {
			return '1'
		}
		return r
	}, e.Signature)
	otherKey := hex.EncodeToString(other.Public().(ed25519.PublicKey))
	swap := func(old, new string) string { return rehash(t, strings.Replace(sig, old, new, 1)) }
	for _, tt := range []struct{ name, last, what string }{
		{"by another's key, which it says is the session's", swap(e.Signature, forged), "the signature does not match"},
		{"by another's key", rehash(t, strings.NewReplacer(e.Signature, forged, e.SigningKey, otherKey).Replace(sig)), "is signed with another key"},
		{"flipped", swap(e.Signature, flipped), "the signature does not match"},
		{"short", swap(e.Signature, "00"), "the signature does not match"},
		{"no hex", swap(e.Signature, strings.Repeat("z", 128)), "a signature or its key is malformed"},
		{"no key", swap(e.SigningKey, ""), "not in the form"},
		{"a short key", swap(e.SigningKey, "00"), "a signature or its key is malformed"},
	} {
		var broken *audit.BrokenError
		text := strings.Join(lines[:len(lines)-2], "") + tt.last
		if _, err := audit.Verify(strings.NewReader(text)); !errors.As(err, &broken) || broken.Line != len(lines)-1 || !strings.HasPrefix(broken.What, tt.what) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.what)
		}
	}
	if s := mustVerify(t, strings.Join(lines[:len(lines)-2], "")).Sessions[0]; s.Unsigned != len(lines)-2 || s.Segments != 0 {
		t.Errorf("without the signature: %+v", s)
	}
	if _, err := open(t, &memory{}, "s").Append(audit.Record{Event: audit.SegmentSigned}); err == nil {
		t.Error("Append takes a signature from its caller")
	}
}

// rehash gives a line that was changed the hash that it ought to have.
func rehash(t *testing.T, line string) string {
	t.Helper()
	line = strings.TrimSuffix(line, "\n")
	at := strings.Index(line, `"hash":"`) + len(`"hash":"`)
	zeroed := line[:at] + strings.Repeat("0", 64) + line[at+64:]
	return fmt.Sprintf("%s%x%s\n", line[:at], sha256.Sum256([]byte(zeroed)), line[at+64:])
}
