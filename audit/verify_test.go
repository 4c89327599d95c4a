package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/audit"
)

// full returns a record of every event, in an order that makes sense.
func full() []audit.Record {
	later := time.Now().Add(time.Hour)
	return []audit.Record{
		{Event: audit.SessionStarted, Version: "1.0.0", CA: "ab12"},
		{Event: audit.PolicyLoaded},
		{Event: audit.VaultCalled, Method: "GET", Status: 200, Source: &audit.Source{Kind: "vault", Path: "github/token/x", RequestID: "1"}},
		{Event: audit.CredentialIssued, Credential: "github", Issuance: "i1", ExpiresAt: later, Source: &audit.Source{Kind: "vault", Path: "github/token/x"}},
		{Event: audit.RequestIntent, Method: "GET", Host: "api.test", Port: 443, Path: "/v1/**", Route: "r", Issuance: "i1"}, // seq 5
		{Event: audit.RequestDenied, Method: "GET", Host: "evil.test", Path: "/", Reason: "host_not_allowed"},
		{Event: audit.RequestIntent, Host: "plain.test"}, // seq 7
		{Event: audit.RequestOutcome, Intent: 5, Status: 200, DurationMS: 1.25, BytesOut: 1 << 40},
		{Event: audit.CredentialReissued, Credential: "github", Issuance: "i2", ExpiresAt: later},
		{Event: audit.RequestIntent, Issuance: "i2"}, // seq 10
		{Event: audit.CredentialRevoked, Issuance: "i1"},
		{Event: audit.ConnectionRefused, Reason: "tls"},
		{Event: audit.PolicyRefused},
		{Event: audit.RequestOutcome, Intent: 10, Error: "timeout"},
		{Event: audit.SecretReflected, Intent: 10},
		{Event: audit.KillEngaged, Reason: "admin_socket", By: "uid 1000, pid 77"},
		{Event: audit.KillReleased, Reason: "admin_socket", By: "uid 0, pid 78"},
		{Event: audit.SessionEnded, Reason: "stopped", Unrevoked: []string{"github/token/x/1", "i2"}},
	}
}

func trail(t testing.TB, id string, records ...audit.Record) string {
	t.Helper()
	sink := &memory{}
	l := open(t, sink, id)
	if len(records) == 0 {
		records = full()
	}
	for _, r := range records {
		mustAppend(t, l, r)
	}
	return sink.String()
}

func TestVerifySummary(t *testing.T) {
	a, b := trail(t, "a"), trail(t, "b", full()[:6]...)
	want := []audit.SessionSummary{
		{ID: "a", Role: "reviewer", Records: 19, Intents: 3, Outcomes: 2, Indeterminate: 1, Denied: 1, Ended: true, Segments: 1},
		{ID: "b", Role: "reviewer", Records: 6, Intents: 1, Indeterminate: 1, Denied: 1, Unsigned: 6},
	}
	want[0].Head, want[1].Head = lastHash(t, a), lastHash(t, b)
	for name, text := range map[string]string{"whole": a + b, "torn": a + b + a[:100]} {
		sum := mustVerify(t, text)
		for i := range sum.Sessions {
			want[i].SigningKey = sum.Sessions[i].SigningKey // made anew for each
		}
		if diff := cmp.Diff(sum.Sessions, want); diff != "" || sum.TornTail != (name == "torn") {
			t.Errorf("%s: torn %t, sessions (-got +want):\n%s", name, sum.TornTail, diff)
		}
	}
}

func lastHash(t *testing.T, trail string) string {
	t.Helper()
	_, rest, ok := strings.Cut(trail[strings.LastIndex(trail[:len(trail)-1], "\n")+1:], `"hash":"`)
	if !ok {
		t.Fatal("no hash")
	}
	return rest[:64]
}

func TestVerifyEmpty(t *testing.T) {
	if sum := mustVerify(t, ""); len(sum.Sessions) != 0 || sum.TornTail {
		t.Errorf("Verify of nothing: %+v", sum)
	}
}

func TestVerifyReadError(t *testing.T) {
	gone := errors.New("gone")
	_, err := audit.Verify(iotest.ErrReader(gone))
	if broken := (*audit.BrokenError)(nil); !errors.Is(err, gone) || errors.As(err, &broken) {
		t.Errorf("Verify: %v, want the reader's error", err)
	}
}

func TestVerifyOneByteAtATime(t *testing.T) {
	text := trail(t, "a")
	got, err := audit.Verify(iotest.OneByteReader(strings.NewReader(text)))
	if want := mustVerify(t, text); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Verify: %+v, %v; want %+v", got, err, want)
	}
}

// What is forged here has true hashes: only its meaning is wrong.
func TestVerifyCausality(t *testing.T) {
	now := time.Now()
	issued := audit.Record{Event: audit.CredentialIssued, Issuance: "i", ExpiresAt: now.Add(time.Hour)}
	expired := audit.Record{Event: audit.CredentialIssued, Issuance: "i", ExpiresAt: now.Add(-time.Hour)}
	renewed := audit.Record{Event: audit.CredentialReissued, Issuance: "i", ExpiresAt: now.Add(time.Hour)}
	revoked := audit.Record{Event: audit.CredentialRevoked, Issuance: "i"}
	intent := audit.Record{Event: audit.RequestIntent, Issuance: "i"}
	outcome := func(of uint64) audit.Record { return audit.Record{Event: audit.RequestOutcome, Intent: of} }
	ended := audit.Record{Event: audit.SessionEnded}
	type records []audit.Record
	for _, tt := range []struct {
		records records
		seq     uint64 // of the first broken one, 0 for none
	}{
		{records{issued, intent, outcome(2)}, 0},
		{records{issued, intent, revoked, outcome(2)}, 0}, // revoked while it was on its way
		{records{expired, renewed, intent}, 0},
		{records{intent}, 1},
		{records{issued, revoked, intent}, 3},
		{records{expired, intent}, 2},
		{records{issued, issued}, 2},
		{records{outcome(1)}, 1},
		{records{issued, outcome(1)}, 2},
		{records{issued, outcome(3), intent}, 2}, // before its intent
		{records{issued, intent, outcome(2), outcome(2)}, 4},
		{records{ended, ended}, 0},
		{records{issued, ended, {Event: audit.RequestDenied}, {Event: audit.RequestIntent}, outcome(4), {Event: audit.KillEngaged}, ended}, 0},
		{records{issued, intent, ended, outcome(2), revoked}, 0},
		{records{ended, issued}, 2},
		{records{ended, renewed}, 2},
		{records{ended, {Event: audit.SessionStarted}}, 2},
		{records{issued, ended, intent}, 3},
	} {
		_, err := audit.Verify(strings.NewReader(trail(t, "s", tt.records...)))
		broken := &audit.BrokenError{}
		errors.As(err, &broken)
		if broken.Seq != tt.seq || broken.Line != int(tt.seq) || (err == nil) != (tt.seq == 0) {
			t.Errorf("%v: %v, want it broken at seq %d", tt.records, err, tt.seq)
		}
	}
}

// A session that lives long forgets the issuances that expired, and no others.
func TestVerifyManyIssuances(t *testing.T) {
	sink := &memory{}
	now := noon
	l, err := audit.New(audit.Config{Sink: sink, Session: audit.Session{ID: "s"}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, audit.Record{Event: audit.CredentialIssued, Issuance: "long", ExpiresAt: noon.AddDate(1, 0, 0)})
	for i := range 2000 {
		id := fmt.Sprint(i)
		mustAppend(t, l, audit.Record{Event: audit.CredentialIssued, Issuance: id, ExpiresAt: now.Add(time.Hour)})
		mustAppend(t, l, audit.Record{Event: audit.RequestIntent, Issuance: id})
		mustAppend(t, l, audit.Record{Event: audit.RequestIntent, Issuance: "long"})
		now = now.Add(30 * time.Minute)
	}
	if s := mustVerify(t, sink.String()).Sessions[0]; s.Intents != 4000 {
		t.Errorf("%d intents, want 4000", s.Intents)
	}
	mustAppend(t, l, audit.Record{Event: audit.RequestIntent, Issuance: "0"})
	if _, err := audit.Verify(strings.NewReader(sink.String())); err == nil {
		t.Error("the use of a forgotten issuance passes")
	}
}

func TestVerifySessions(t *testing.T) {
	a, b := trail(t, "a"), trail(t, "b")
	as, bs := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	join := func(parts ...string) string { return strings.Join(parts, "") }
	for _, tt := range []struct {
		name, text, what string
		line             int
	}{
		{"twice the same", join(a, a), "out of sequence", 20},
		{"apart", join(a, b, a), "a session appears again", 39},
		{"interleaved", join(as[0], bs[0], as[1], bs[1]), "the records before it are missing", 3},
		{"taken over", join(as[0], bs[1]), "the records before it are missing", 2},
		{"begins in the middle", join(as[1:]...), "the records before it are missing", 1},
		{"another role", join(as[0], strings.Replace(as[1], "reviewer", "admin", 1)), "the session's particulars changed", 2},
		{"another pod", join(as[0], strings.Replace(as[1], "reviewer-0", "x", 1)), "the pod changed", 2},
		{"another chain's", join(as[0], strings.SplitAfter(trail(t, "a"), "\n")[1]), "prev is not", 2},
		{"another outcome", strings.Replace(a, `"status":200,"bytes`, `"status":201,"bytes`, 1), "the hash does not match", 8},
		{"another event", strings.Replace(a, "session.started", "session.opened", 1), "not in the form", 1},
		{"a member twice", strings.Replace(a, `"intent":5,`, `"intent":5,"intent":5,`, 1), "not in the form", 8},
		{"a member unknown", strings.Replace(a, `"intent":5,`, `"intent":5,"intend":4,`, 1), "not in the form", 8},
		{"a member in capitals", strings.Replace(a, `"intent":5,`, `"INTENT":5,`, 1), "not in the form", 8},
		{"a space", strings.Replace(a, `"intent":5,`, `"intent": 5,`, 1), "not in the form", 8},
		{"an escape", strings.Replace(a, `"seq"`, `"\u0073eq"`, 1), "not in the form", 1},
		{"cut, then on", join(as[0], as[1][:50], "\n", as[1]), "follows a line that was cut", 3},
		{"cut, then the same", join(as[0], as[1][:50], "\n", a), "follows a line that was cut", 3},
		{"rubbish before another", join(as[0], "rubbish\n", b), "not a record", 2},
		{"an empty line", join(as[0], "\n", as[1]), "not a record", 2},
		{"CRLF", strings.ReplaceAll(a, "\n", "\r\n"), "not in the form", 1},
		{"a second object", strings.Replace(a, "}\n", "}{}\n", 1), "not a record", 1},
		{"a long line", strings.Repeat("a", 2<<20) + "\n", "longer than", 1},
		{"a long torn line", strings.Repeat("a", 2<<20), "longer than", 1},
		{"an array", "[]\n", "not a record", 1},
		{"null", "null\n", "the records before it are missing", 1},
	} {
		broken := &audit.BrokenError{}
		_, err := audit.Verify(strings.NewReader(tt.text))
		if !errors.As(err, &broken) || broken.Line != tt.line || !strings.HasPrefix(broken.What, tt.what) {
			t.Errorf("%s: %v, want %q at line %d", tt.name, err, tt.what, tt.line)
		}
	}
}

// Any change to a trail either breaks it at or before the changed line's successor, or shows as
// a shorter trail with another head.
func TestTampering(t *testing.T) {
	whole := trail(t, "a") + trail(t, "b", full()[:8]...)
	want := mustVerify(t, whole)
	lines := strings.SplitAfter(whole, "\n")
	lines = lines[:len(lines)-1]
	rapid.Check(t, func(t *rapid.T) {
		ls := bytes.Split([]byte(whole), []byte("\n"))
		ls = ls[:len(ls)-1]
		i := rapid.IntRange(0, len(ls)-1).Draw(t, "line")
		switch rapid.SampledFrom([]string{"flip", "delete", "insert", "swap", "cut", "cut middle", "drop byte"}).Draw(t, "how") {
		case "flip":
			at := rapid.IntRange(0, len(ls[i])-1).Draw(t, "at")
			ls[i][at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		case "delete":
			ls = append(ls[:i:i], ls[i+1:]...)
		case "insert":
			j := rapid.IntRange(0, len(ls)-1).Draw(t, "which")
			ls = append(ls[:i:i], append([][]byte{ls[j]}, ls[i:]...)...)
		case "swap":
			j := (i + rapid.IntRange(1, len(ls)-1).Draw(t, "with")) % len(ls)
			ls[i], ls[j] = ls[j], ls[i]
		case "cut":
			ls = ls[:i]
		case "cut middle":
			ls[i] = ls[i][:rapid.IntRange(0, len(ls[i])-1).Draw(t, "at")]
		case "drop byte":
			at := rapid.IntRange(0, len(ls[i])-1).Draw(t, "at")
			ls[i] = append(ls[i][:at:at], ls[i][at+1:]...)
		}
		text := append(bytes.Join(ls, []byte("\n")), '\n')
		got, err := audit.Verify(bytes.NewReader(text))
		if err == nil && cmp.Equal(got, want) {
			t.Fatalf("not found:\n%s", text)
		}
		if err != nil {
			return
		}
		// What is not called broken must be a shorter trail.
		if records(got) >= len(lines) {
			t.Fatalf("taken for intact:\n%s", text)
		}
	})
}

func records(s audit.Summary) (n int) {
	for _, s := range s.Sessions {
		n += s.Records
	}
	return n
}

// Every single byte counts.
func TestEveryByteCounts(t *testing.T) {
	whole := []byte(trail(t, "a", full()[:4]...))
	for i := range whole {
		if i == len(whole)-1 {
			break // without its newline the last line is torn, and not a record
		}
		for _, b := range []byte{whole[i] ^ 1, whole[i] ^ 0x20, 0, ' ', '\n', 0xff} {
			changed := bytes.Clone(whole)
			if changed[i] = b; bytes.Equal(changed, whole) {
				continue
			}
			if got, err := audit.Verify(bytes.NewReader(changed)); err == nil && records(got) == 4 {
				t.Fatalf("byte %d as %q: not found", i, b)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	whole := trail(f, "a")
	f.Add([]byte(whole))
	f.Add([]byte(whole + trail(f, "b", full()[:3]...)))
	f.Add([]byte(whole[:len(whole)-9]))
	f.Add([]byte("{\n{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sum, err := audit.Verify(bytes.NewReader(text))
		lines := bytes.Count(text, []byte("\n"))
		if n := records(sum); n > lines {
			t.Errorf("%d records in %d lines", n, lines)
		}
		broken := (*audit.BrokenError)(nil)
		if err != nil && (!errors.As(err, &broken) || broken.Line > lines+1) {
			t.Errorf("error %v, want a BrokenError in one of %d lines", err, lines)
		}
	})
}
