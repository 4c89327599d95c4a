package audit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/audit"
)

// attributions returns what the records of a trail carry, one after another.
func attributions(t *testing.T, trail string) (levels []string) {
	t.Helper()
	for line := range strings.Lines(trail) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		levels = append(levels, e.Session.Attribution)
	}
	return levels
}

func TestSetAttribution(t *testing.T) {
	sink := &memory{}
	l := open(t, sink, "s")
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	raise := func(level string) {
		t.Helper()
		if _, err := l.SetAttribution(level, audit.Record{Detail: "by login 1"}); err != nil {
			t.Fatal(err)
		}
	}
	raise(audit.Kubernetes)
	mustAppend(t, l, audit.Record{Event: audit.RequestIntent})
	raise(audit.VaultVerified)
	mustAppend(t, l, audit.Record{Event: audit.SessionEnded})
	for _, level := range []string{audit.VaultVerified, audit.Asserted, "", "sworn"} {
		if _, err := l.SetAttribution(level, audit.Record{}); err == nil {
			t.Errorf("SetAttribution(%q) of a verified session: no error", level)
		}
	}
	want := []string{"asserted", "kubernetes", "kubernetes", "vault-verified", "vault-verified", "vault-verified"} // the last signs
	if diff := cmp.Diff(attributions(t, sink.String()), want); diff != "" {
		t.Errorf("attributions (-got +want):\n%s", diff)
	}
	if s := mustVerify(t, sink.String()).Sessions; len(s) != 1 || s[0].Records != 6 || !s[0].Ended {
		t.Errorf("Verify: %+v", s)
	}
	if _, err := l.Append(audit.Record{Event: audit.SessionVerified}); err == nil || errors.Is(err, audit.ErrSink) {
		t.Errorf("Append of a %s: %v, want it refused", audit.SessionVerified, err)
	}
}

// A record that the sink did not take raises nothing.
func TestSetAttributionFails(t *testing.T) {
	sink := &memory{}
	l := open(t, sink, "s")
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	sink.write = func([]byte) (int, error) { return 0, io.ErrClosedPipe }
	if _, err := l.SetAttribution(audit.VaultVerified, audit.Record{}); !errors.Is(err, audit.ErrSink) {
		t.Fatalf("SetAttribution with a broken sink: %v", err)
	}
	sink.write = nil
	mustAppend(t, l, audit.Record{Event: audit.RequestIntent})
	if _, err := l.SetAttribution(audit.VaultVerified, audit.Record{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"asserted", "asserted", "vault-verified"}
	if diff := cmp.Diff(attributions(t, sink.String()), want); diff != "" {
		t.Errorf("attributions (-got +want):\n%s", diff)
	}
	mustVerify(t, sink.String())
}

// However records and the change come together, the trail verifies and changes once.
func TestSetAttributionConcurrent(t *testing.T) {
	sink := &memory{}
	l := open(t, sink, "s")
	mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := l.Append(audit.Record{Event: audit.RequestDenied}); err != nil {
					t.Error(err)
				}
			}
		})
		if i%4 == 0 {
			wg.Go(func() { l.SetAttribution(audit.VaultVerified, audit.Record{}) }) // one of the two is refused
		}
	}
	wg.Wait()
	if n := strings.Count(sink.String(), `"event":"session.verified"`); n != 1 {
		t.Errorf("the session was verified %d times", n)
	}
	mustVerify(t, sink.String())
}

// A change of attribution is one that SetAttribution makes, or a forgery.
func TestVerifyAttribution(t *testing.T) {
	verified := func(t *testing.T) string {
		sink := &memory{}
		l := open(t, sink, "s")
		mustAppend(t, l, audit.Record{Event: audit.SessionStarted})
		if _, err := l.SetAttribution(audit.VaultVerified, audit.Record{}); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, audit.Record{Event: audit.RequestIntent})
		return sink.String()
	}
	good := verified(t)
	mustVerify(t, good)
	nth := func(n int, old, new string) string {
		lines := strings.SplitAfter(good, "\n")
		lines[n-1] = strings.Replace(lines[n-1], old, new, 1)
		return strings.Join(lines, "")
	}
	for _, tt := range []struct {
		name, text string
		line       int
		what       string
	}{
		{"at another event", nth(2, "session.verified", "request.denied"), 2, "the session's particulars changed"},
		{"to another role", nth(2, `"role":"reviewer"`, `"role":"admin"`), 2, "the session's particulars changed"},
		{"to nothing new", nth(2, "vault-verified", "asserted"), 2, "the session's particulars changed"},
		{"to an unknown level", nth(2, "vault-verified", "sworn"), 2, "the session's particulars changed"},
		{"to another level", nth(2, "vault-verified", "kubernetes"), 2, "the hash does not match"},
		{"back", nth(3, "vault-verified", "asserted"), 3, "the session's particulars changed"},
		{"before its record", nth(1, "asserted", "vault-verified"), 1, "the hash does not match"},
		{"without the record before", strings.SplitAfterN(good, "\n", 2)[1], 1, "the records before it are missing"},
		{"at the beginning", nth(1, "session.started", "session.verified"), 1, "the session's particulars changed"},
	} {
		broken := &audit.BrokenError{}
		_, err := audit.Verify(strings.NewReader(tt.text))
		if !errors.As(err, &broken) || broken.Line != tt.line || !strings.HasPrefix(broken.What, tt.what) {
			t.Errorf("%s: %v, want %q at line %d", tt.name, err, tt.what, tt.line)
		}
	}
}

func TestLongListIsCut(t *testing.T) {
	long := make([]string, 300)
	for i := range long {
		long[i] = fmt.Sprintf("lease-%d\xff", i)
	}
	e, line := one(t, audit.Record{Event: audit.SessionEnded, Unrevoked: long})
	if n := len(e.Unrevoked); n != 257 || e.Unrevoked[255] != "lease-255%FF" || e.Unrevoked[256] != "[+44 entries]" {
		t.Errorf("%d entries, the last %q", n, e.Unrevoked[n-1])
	}
	if long[0] != "lease-0\xff" {
		t.Error("Append changed the caller's list")
	}
	mustVerify(t, line)
}
