package custody_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// hostile are strings that break out of a page where it puts them anywhere but in text.
var hostile = []string{
	`</script><script>alert(1)</script>`, `<img src=x onerror=alert(1)>`, `"><svg onload=alert(1)>`, `<!--<script>`, `{{js}}{{data}}`,
	`javascript:alert(1)`, "\u202egnp.exe\u202c\u2066", "a\u0000b\x1b[31m\r\n", `'; rm -rf ~ #`, "\xff\xfe bad utf8", `__proto__`, `constructor`, "\u2028\u2029", `]]>`, `&lt;b&gt;`,
}

// pages are the reports that the browser tests open, but for the large ones: see TestPages.
func pages() map[string]*custody.Report {
	all := map[string]*custody.Report{
		"n100": makeReport(1, 100, 2), "intact": makeReport(4, 300, 1), "one-finding": makeReport(5, 400, 2), "many-sessions": makeReport(6, 9_000, 200),
		"many-findings": makeReport(7, 3_000, 3), "hostile": hostileReport(), "long-names": longReport(),
		"empty": {Generated: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), Trails: []custody.Input{{Name: "empty.jsonl"}}},
	}
	for _, name := range []string{"n100", "many-findings", "long-names"} {
		accuse(all[name])
	}
	one := all["one-finding"].Sessions[0]
	all["one-finding"].Findings = []custody.Finding{{Code: custody.TrailBroken, Session: one.ID, Seq: one.Issuances[0].Uses[2].Seq, What: "Record 17 does not name the hash of the record before it.", Where: "trail.jsonl:17"}}
	many := all["many-findings"]
	for _, s := range many.Sessions {
		for _, i := range s.Issuances {
			for _, u := range i.Uses {
				many.Findings = append(many.Findings, custody.Finding{Code: custody.AccessMissing, Session: s.ID, Issuance: i.ID, Seq: u.Seq, Time: u.Time, What: "An upstream answered, and its log does not have it."})
			}
		}
	}
	return all
}

func hostileReport() *custody.Report {
	r := makeReport(8, 120, 2)
	n := 0
	bad := func() string { n++; return hostile[n%len(hostile)] }
	for _, s := range r.Sessions {
		s.ID, s.Role, s.RequestedBy, s.Attribution, s.EndReason = bad()+s.ID, bad(), bad(), bad(), bad()
		s.Pod = audit.Pod{Namespace: bad(), Name: bad(), Node: bad(), ServiceAccount: bad()}
		for _, e := range s.Events {
			e.Method, e.Host, e.Path, e.Reason, e.Detail, e.By = bad(), bad(), bad(), bad(), bad(), bad()
		}
		for _, i := range s.Issuances {
			i.Credential, i.Source.Path, i.Source.LeaseID, i.Fingerprint, i.End = bad(), bad(), bad(), bad(), bad()
			for _, u := range i.Uses {
				u.Method, u.Host, u.Path, u.Route, u.RequestID, u.PathHMAC, u.Error = bad(), bad(), bad(), bad(), bad(), bad(), ""
			}
		}
		for _, c := range s.Calls {
			c.Path, c.Error = bad(), bad()
			c.Vault.Metadata = map[string]string{bad(): bad()}
		}
		r.Findings = append(r.Findings, custody.Finding{Code: custody.Code(bad()), Session: s.ID, What: bad(), Hint: bad(), Where: bad()})
	}
	r.Notes = []custody.Note{{What: bad(), Mend: bad()}}
	r.Trails[0].Name = bad()
	return r
}

func longReport() *custody.Report {
	r := makeReport(9, 500, 3)
	long := strings.Repeat("a-very-long-name-indeed-", 40)
	for _, s := range r.Sessions {
		s.ID, s.Role, s.RequestedBy = long+s.ID, long+s.Role, "W"+strings.Repeat("W", 1000)
		for _, i := range s.Issuances {
			i.Credential = long + i.Credential
			for _, u := range i.Uses {
				u.Host, u.Path, u.Route = long+".example.com", "/"+strings.Repeat("segment/", 120), long
			}
		}
	}
	return r
}

func TestWriteHTML(t *testing.T) {
	for name, r := range pages() {
		t.Run(name, func(t *testing.T) { checkPage(t, write(t, r), r) })
	}
}

// checkPage checks that nothing of a report stands in its page but as data, and all of it there.
func checkPage(t *testing.T, page string, r *custody.Report) {
	t.Helper()
	for _, text := range []string{"<img src=x", "onerror=alert", "rm -rf", "{{js", "{{css", "{{data"} {
		if strings.Contains(page, text) {
			t.Errorf("%q stands in the page", text)
		}
	}
	if got := strings.Count(page, "</script>"); got != 2 {
		t.Errorf("%d elements of script, want 2", got)
	}
	if got, want := pageRows(t, page), len(rowClasses(r)); got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
}

// The page's policy names exactly the script and the style that it has, and allows nothing else.
func TestWriteHTMLPolicy(t *testing.T) {
	page := write(t, makeReport(1, 100, 2))
	policy := regexp.MustCompile(`Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
	if policy == nil || !strings.HasPrefix(policy[1], "default-src 'none'; ") {
		t.Fatalf("policy %q", policy)
	}
	for _, banned := range []string{"unsafe", "http", "data:", "*"} {
		if strings.Contains(policy[1], banned) {
			t.Errorf("the policy %q has %q", policy[1], banned)
		}
	}
	for _, attribute := range []string{` style="`, ` onclick="`, ` src="`, ` href="`} {
		if strings.Contains(page, attribute) {
			t.Errorf("the page has the attribute %s", attribute)
		}
	}
	if strings.Contains(page, "innerHTML") || strings.Contains(page, "insertAdjacentHTML") || strings.Contains(page, "document.write") {
		t.Error("the page makes markup from text")
	}
}

func TestWriteHTMLTwice(t *testing.T) {
	first, second := write(t, makeReport(1, 100, 2)), write(t, makeReport(1, 100, 2))
	if first != second {
		t.Error("two pages of one report differ")
	}
}

func TestWriteHTMLFails(t *testing.T) {
	r := makeReport(1, 100, 2)
	whole := len(write(t, r))
	for _, room := range []int{0, 100, whole / 2, whole - 10} {
		if err := custody.WriteHTML(&narrow{room}, r); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("with room for %d bytes: %v, want %v", room, err, io.ErrShortWrite)
		}
	}
}

// A narrow writer takes a number of bytes, then no more.
type narrow struct{ room int }

func (n *narrow) Write(p []byte) (int, error) {
	if len(p) > n.room {
		return 0, io.ErrShortWrite
	}
	n.room -= len(p)
	return len(p), nil
}

func write(t *testing.T, r *custody.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := custody.WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pageRows returns how many rows the data of a page has.
func pageRows(t *testing.T, page string) int {
	t.Helper()
	_, text, _ := strings.Cut(page, `id="data">`)
	text, _, _ = strings.Cut(text, "<")
	zip, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Tables map[string]struct{ N int }
	}
	if err := json.NewDecoder(zip).Decode(&data); err != nil {
		t.Fatal(err)
	}
	return data.Tables["rows"].N
}

// rowClasses says for each row of a report's page which class it must have, in any order.
func rowClasses(r *custody.Report) (classes []string) {
	for _, s := range r.Sessions {
		for _, e := range s.Events {
			classes = append(classes, eventClass(e))
		}
		for _, c := range s.Calls {
			classes = append(classes, map[bool]string{true: "seen", false: "unseen"}[c.Vault != nil])
		}
		for _, i := range s.Issuances {
			classes = append(classes, "issuance")
			for _, u := range i.Uses {
				switch {
				case u.Outcome == 0:
					classes = append(classes, "indeterminate")
				case u.Status == 0:
					classes = append(classes, "error")
				default:
					classes = append(classes, eventClass(&u.Event))
				}
			}
		}
	}
	return classes
}

func eventClass(e *custody.Event) string {
	switch e.Event {
	case audit.RequestDenied:
		return "denied"
	case audit.KillEngaged, audit.KillReleased:
		return "kill"
	case audit.PolicyLoaded:
		return "policy"
	case audit.RequestIntent:
		if e.Error != "" {
			return "error"
		}
		return fmt.Sprintf("%dxx", e.Status/100)
	}
	return "session"
}

// TestPages writes the pages that the browser tests open (tools/browser.sh), and what they must show. Those
// that are large are checked here only: under the race detector they take half a minute.
func TestPages(t *testing.T) {
	dir := os.Getenv("SIDEKEY_PAGES")
	if dir == "" {
		t.Skip("SIDEKEY_PAGES names no directory to write the pages to")
	}
	type facts struct {
		Rows, Sessions, Findings int
		Classes                  map[string]int
		Bytes                    int
		Milliseconds             int64
	}
	all := map[string]facts{}
	reports := pages()
	reports["n10000"], reports["n100000"] = makeReport(2, 10_000, 7), makeReport(3, 100_000, 22)
	accuse(reports["n10000"])
	accuse(reports["n100000"])
	for name, r := range reports {
		began := time.Now()
		page := write(t, r)
		f := facts{Sessions: len(r.Sessions), Findings: len(r.Findings), Classes: map[string]int{}, Bytes: len(page), Milliseconds: time.Since(began).Milliseconds()}
		for _, class := range rowClasses(r) {
			f.Classes[class]++
			f.Rows++
		}
		all[name] = f
		checkPage(t, page, r)
		t.Logf("%s: %d rows, %d bytes, %d ms", name, f.Rows, f.Bytes, f.Milliseconds)
		if err := os.WriteFile(filepath.Join(dir, name+".html"), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pages.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
}
