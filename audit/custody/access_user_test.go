package custody_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit/custody"
)

// nginxEscaped is s as nginx writes a value that somebody else chose, see ngx_http_log_escape.
func nginxEscaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '\\' || c > '~' {
			fmt.Fprintf(&b, `\x%02X`, c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// backslashed is s as Apache does.
func backslashed(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }

// someTime has the form of a line's time, and is none of those of [answered].
const someTime = "01/Jan/2001:00:00:00 +0000"

// userNames are names that look like what follows them. id is of a request that somebody else made.
func userNames(id string) []string {
	line := fmt.Sprintf(`GET /forged HTTP/1.1" 500 5 "-" "curl sidekey/%s" "%s"`, id, id)
	return []string{
		"ada", "", " ", "a b", "a [b", "a [", " [", "[", "] [", "a] ", `a] "`, `"`, `\`, `\"`, "[]", " [] ", " [ [ [", "a\n[b", "\xff [\u2028",
		"x [" + someTime, "x [" + someTime + "]", "[" + someTime + "] [" + someTime + "] ", someTime + "] ",
		"x [" + someTime + `] "`, "x [" + someTime + `] "` + line, `x [" [` + someTime + `] "` + line + "\n", "x [" + someTime + `] \"` + line,
	}
}

// readAs traces the ten uses with an access log in which the user of each line is called name.
func readAs(t testing.TB, w *world, ids []string, name string) *custody.Report {
	e := w.evidence()
	e.access = ""
	for i, id := range ids {
		e.access += strings.Replace(nginx(i, id), " - ada [", " - "+name+" [", 1) + "\n"
	}
	return trace(t, e.config(w.now.Add(24*time.Hour)))
}

// TestAccessUser: whatever the user's name looks like, a line is read as any other.
func TestAccessUser(t *testing.T) {
	w, ids := answered(t)
	want := readAs(t, w, ids, "-")
	if want.Totals.AccessJoined != 10 {
		t.Fatalf("%d lines are joined", want.Totals.AccessJoined)
	}
	names := []string{`""`} // Apache's name of nobody
	for _, name := range userNames(ids[7]) {
		names = append(names, nginxEscaped(name), backslashed(strings.ReplaceAll(name, "\n", "")))
	}
	for _, name := range names {
		if got := readAs(t, w, ids, name); !reflect.DeepEqual(got, want) {
			t.Errorf("user %q: %d joined, notes %v, of use 4 %+v; findings:%s", name, got.Totals.AccessJoined, got.Notes, got.Sessions[0].Issuances[0].Uses[4].Access, describe(got.Findings))
		}
	}
}

// TestAccessUnreadable: what is not of the format is not read, though there is the time of a line in it.
func TestAccessUnreadable(t *testing.T) {
	w, ids := answered(t)
	now := "23/Nov/2026:08:00:50 +0000"
	for _, tt := range []struct{ name, old, new string }{
		{"another time behind a name's", "[" + now + "] ", "[" + now + "] [2026-11-23T08:00:50Z] "},
		{"nothing behind a name's", "[" + now + "] ", "[" + now + "] - "},
		{"no space", "[" + now + "] ", "[" + now + "]"},
		{"no bracket", "[" + now + "] ", "[x " + now + "] "},
		{"a time in the User-Agent", `[` + now + `] "GET /4?page=2 HTTP/2.0" 200 512 "-" "curl/8.1 \"x\" `, `[] "GET /4?page=2 HTTP/2.0" 200 512 "-" "x [` + now + `] " "200 `},
		{"a host before the request", `[` + now + `] "GET /4?page=2 HTTP/2.0" 200 512 "-" "curl/8.1 \"x\" `, `[` + now + `] api.test "GET /4 HTTP/2.0" 200 512 "-" "x [` + now + `] " "200 `},
	} {
		e := w.evidence()
		line := strings.Replace(nginx(4, ids[4]), tt.old, tt.new, 1)
		if !strings.Contains(line, tt.new) {
			t.Fatalf("%s: not in %s", tt.name, line)
		}
		e.access = line + "\n"
		r := trace(t, e.config(w.now.Add(24*time.Hour)))
		if r.AccessLogs[0].Records != 0 || len(r.Notes) == 0 || !strings.Contains(r.Notes[0].What, "cannot be read, the first at access.log:1") {
			t.Errorf("%s: %d lines are read; notes %v", tt.name, r.AccessLogs[0].Records, r.Notes)
		}
	}
}

// FuzzAccessUser: no name of a user changes what nginx's line says of a request.
func FuzzAccessUser(f *testing.F) {
	w, ids := answered(f)
	ids = ids[:1]
	for _, name := range userNames(ids[0]) {
		f.Add(name)
	}
	want := readAs(f, w, ids, "-")
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 10_000 {
			return
		}
		if got := readAs(t, w, ids, nginxEscaped(name)); !reflect.DeepEqual(got, want) {
			t.Errorf("user %q: %d joined, notes %v; findings:%s", name, got.Totals.AccessJoined, got.Notes, describe(got.Findings))
		}
	})
}
