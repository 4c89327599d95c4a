package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

const accessPolicy = `version: 1
role: tester
credentials:
  api: {from: {file: {path: "DIR/credential"}}, inject: {bearer: {}}}
routes:
  - {name: items, host: "api.test:PORT", methods: [GET, HEAD, POST], paths: ["/items/**"], credential: api, correlate: true}
  - {name: files, host: "api.test:PORT", methods: [GET, HEAD, POST], paths: ["/files/**"], credential: api, correlate: true, log: path}
  - {name: plain, host: "api.test:PORT", methods: [GET], paths: ["/plain/**"], credential: api}
  - {name: public, host: "api.test:PORT", methods: [GET], paths: ["/public/**"], correlate: true}
  - {name: quiet, host: "quiet.test:PORT", methods: [GET], paths: ["/**"], credential: api, correlate: true}
`

const accessConfig = `upstream: {allow_cidrs: [127.0.0.1/32], resolve: {api.test: 127.0.0.1, quiet.test: 127.0.0.1}, ca_file: "DIR/ca.crt"}
audit: {path: audit.jsonl}
`

// accessRounds is how often each of two agents makes each request.
const accessRounds = 12

// An accessAsk is a request of an agent, and the answer that it must get.
type accessAsk struct {
	method, path, header, body string // header is "Name: value", or ""
	status                     int
}

// accessAsks are the requests to api.test; OWN stands for an id of the agent's own, QUERY for what
// only nginx's log may have.
var accessAsks = []accessAsk{
	{"GET", "/items/1", "", "", 200},
	{"HEAD", "/items/2", "", "", 200},
	{"POST", "/items/3", "", "a body", 200},
	{"GET", "/items/4?page=2&note=QUERY", "", "", 200},
	{"GET", "/items/5", "X-Request-Id: OWN", "", 200},
	{"POST", "/items/missing", "X-Request-Id: OWN", "a body", 404},
	{"GET", "/items/6", "X-Request-Id: not one \" of ours", "", 200},
	{"GET", "/items/7", `User-Agent: he "said" \ [so] é 	"x" 200`, "", 200},
	{"GET", "/items/missing", "", "", 404},
	{"GET", "/items/empty", "", "", 204},
	{"GET", "/items/moved", "", "", 302},
	{"GET", "/items/broken", "", "", 503},
	{"GET", "/items/private", "", "", 401},
	{"GET", accessFilePath, "", "", 200},
	{"HEAD", accessFilePath + "?" + "QUERY", "", "", 200},
	{"GET", accessFilePath, "If-None-Match: *", "", 304},
	{"GET", accessFilePath, "Range: bytes=0-2", "", 200}, // Sidekey drops Range, where it masks
	{"GET", "/files/none", "", "", 404},
	{"POST", accessFilePath, "", "a body", 405},
	{"GET", "/plain/1", "", "", 200},
	{"GET", "/public/1", "", "", 200},
	{"DELETE", "/items/1", "", "", 403},                              // denied
	{"GET", "/secret", "", "", 403},                                  // denied
	{"GET", "/items/8", "User-Agent: x sidekey/0123456789", "", 400}, // refused
}

// An accessStage is a session that has ended, its trail, and the logs of the nginx that it used.
type accessStage struct {
	web        *webServer
	log        string // the trail
	trail      []audit.Entry
	credential string
	query      string
}

// TestAccessLog runs a real nginx as upstream, which logs as docs/audit.md says, and has agents use a
// credential there. trace then finds each use in nginx's log, and finds what is done to that. It takes a
// program that a machine may not have, so it runs only where SIDEKEY_NGINX is its path, as `make
// test-access` does.
func TestAccessLog(t *testing.T) {
	st := runAccess(t, needNginx(t), nil)
	t.Run("ids", st.ids)
	t.Run("secrets", st.secrets)
	for _, format := range []string{custody.AccessNginx, custody.AccessJSON} {
		t.Run(format, func(t *testing.T) {
			st.whole(t, st.trace(t, format, st.accessLog(format)))
			for _, tt := range accessTamperings() {
				t.Run(tt.name, func(t *testing.T) { st.tamper(t, format, tt) })
			}
		})
	}
}

// accessLog is nginx's log in a format.
func (st *accessStage) accessLog(format string) string {
	return filepath.Join(st.web.dir, map[string]string{custody.AccessNginx: "access.log", custody.AccessJSON: "access.json"}[format])
}

// runAccess runs the session to its end. also is what an agent does last; nil for nothing.
func runAccess(t *testing.T, binary string, also func(*accessStage, *http.Client)) *accessStage {
	t.Helper()
	st := &accessStage{credential: newCanary(), query: "query-" + rand.Text()}
	st.web = startNginx(t, binary, st.credential)
	st.web.write(t, "credential", []byte(st.credential))
	fill := strings.NewReplacer("DIR", st.web.dir, "PORT", st.web.port).Replace
	sv := startServe(t, realSidekey(t), fill(accessConfig), fill(accessPolicy), "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	var all sync.WaitGroup
	for agent, h2 := range []bool{false, true} {
		client := agentOf(t, sv, h2)
		for round := range accessRounds {
			all.Go(func() { st.round(t, client, fmt.Sprintf("own-%d.%d", agent, round)) })
		}
	}
	all.Wait()
	if also != nil {
		also(st, agentOf(t, sv, true))
	}
	st.trail = wantEnded(t, sv)
	st.log = filepath.Join(sv.dir, "audit.jsonl")
	st.web.stop(t)
	return st
}

// round makes each request once; own is what its ids begin with.
func (st *accessStage) round(t *testing.T, client *http.Client, own string) {
	for n, ask := range accessAsks {
		st.ask(t, client, "https://api.test:", ask, fmt.Sprintf("%s_%d~", own, n))
	}
	st.ask(t, client, "https://quiet.test:", accessAsk{"GET", "/1", "", "", 200}, "")
}

func (st *accessStage) ask(t *testing.T, client *http.Client, base string, ask accessAsk, own string) {
	fill := strings.NewReplacer("OWN", own, "QUERY", st.query).Replace
	req, err := http.NewRequest(ask.method, base+st.web.port+fill(ask.path), strings.NewReader(ask.body))
	if err != nil {
		t.Error(err)
		return
	}
	if name, value, ok := strings.Cut(ask.header, ": "); ok {
		req.Header.Set(name, fill(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != ask.status {
		t.Errorf("%s %s: status %d (%s, %v), want %d", ask.method, ask.path, resp.StatusCode, refusalOf(resp), err, ask.status)
	}
}

// A loggedLine is a line of nginx's log in JSON.
type loggedLine struct {
	ID    string `json:"http_x_request_id"`
	Agent string `json:"http_user_agent"`
	URI   string `json:"request_uri"`
}

// ids checks, without trace, that nginx logged the request id of each intent, once in each format, and
// that agents' own ids are among them.
func (st *accessStage) ids(t *testing.T) {
	lines := map[string][]loggedLine{}
	for text := range strings.Lines(readLog(t, st.accessLog(custody.AccessJSON))) {
		var l loggedLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if l.ID != "" {
			lines[l.ID] = append(lines[l.ID], l)
		}
	}
	combined := readLog(t, st.accessLog(custody.AccessNginx))
	intents, own := 0, 0
	for _, e := range entriesOf(st.trail, audit.RequestIntent) {
		if e.Host != "api.test" || e.Route == "plain" {
			continue
		}
		intents++
		if strings.HasPrefix(e.RequestID, "own-") {
			own++
		}
		l := lines[e.RequestID]
		if len(l) != 1 || !strings.HasSuffix(l[0].Agent, "sidekey/"+e.RequestID) {
			t.Errorf("record %d has the request id %q; nginx's log has of it %+v", e.Seq, e.RequestID, l)
		}
		if n := strings.Count(combined, `"`+e.RequestID+"\"\n"); n != 1 {
			t.Errorf("record %d: %d lines end in its request id %q", e.Seq, n, e.RequestID)
		}
	}
	if want := 2 * accessRounds * 2; len(lines) != intents || own != want {
		t.Errorf("%d request ids in nginx's log, %d intents; %d of the agents' own, want %d", len(lines), intents, own, want)
	}
}

// secrets checks that the credential is in no log, and what stood in a query only in nginx's.
func (st *accessStage) secrets(t *testing.T) {
	trail := readLog(t, st.log)
	for _, format := range []string{custody.AccessNginx, custody.AccessJSON} {
		log := readLog(t, st.accessLog(format))
		report, err := json.Marshal(st.trace(t, format, st.accessLog(format)))
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"nginx's log": log, "the trail": trail, "the report": string(report)} {
			if strings.Contains(text, st.credential) || strings.Contains(text, strings.Trim(st.credential, "+/=~")) {
				t.Errorf("%s: %s holds the credential", format, name)
			}
			if got, want := strings.Contains(text, st.query), name == "nginx's log"; got != want {
				t.Errorf("%s: %s holds the query: %t", format, name, got)
			}
		}
	}
}

// trace runs `sidekey audit trace` on the trail and an access log.
func (st *accessStage) trace(t *testing.T, format, accessLog string, flags ...string) *custody.Report {
	t.Helper()
	args := append([]string{"--access-log", accessLog, "--access-format", format}, flags...)
	return traceReport(t, append(args, st.log)...)
}

// whole checks the report on logs that are as they were written.
func (st *accessStage) whole(t *testing.T, r *custody.Report) {
	t.Logf("%+v", r.Totals)
	for _, f := range r.Findings[:min(10, len(r.Findings))] {
		t.Errorf("finding in logs that are as they were written: %+v", f)
	}
	joined, plain, quiet, refused, lines := 0, 0, 0, 0, map[string]bool{}
	for _, u := range usesOf(r) {
		switch {
		case u.Route == "plain":
			plain++
		case u.Host == "quiet.test":
			quiet++
		case u.Access == nil:
			t.Errorf("record %d, %s %s, has no line of nginx's log", u.Seq, u.Method, u.Path)
		case u.Access.Status != u.Status || u.Access.Method != u.Method || u.PathSent != "" && u.Access.Path != u.PathSent || lines[u.Access.Where]:
			t.Errorf("record %d, %s %s with status %d, is joined with %+v", u.Seq, u.Method, u.PathSent, u.Status, u.Access)
		default:
			joined++
			lines[u.Access.Where] = true
			if u.Status == http.StatusUnauthorized {
				refused++
			}
		}
	}
	// A 401 may have Sidekey read the file again and ask once more, which is a use of its own.
	again := refused - 2*accessRounds
	if again < 1 {
		t.Errorf("%d uses were refused, want some to have been made again", refused)
	}
	if want := 2*accessRounds*19 + again; joined != want || r.Totals.AccessJoined != want || plain != 2*accessRounds || quiet != 2*accessRounds {
		t.Errorf("%d joined, %d by the report, want %d; %d without an id, %d not logged", joined, r.Totals.AccessJoined, want, plain, quiet)
	}
	wantNote(t, r, quiet, `access logs were not given`)
}

// wantNote checks that there is a note of that count that matches pattern.
func wantNote(t *testing.T, r *custody.Report, count int, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	if !slices.ContainsFunc(r.Notes, func(n custody.Note) bool { return n.Count == count && re.MatchString(n.What+" "+n.Mend) }) {
		t.Errorf("no note of %d that matches %q: %+v", count, pattern, r.Notes)
	}
}

func usesOf(r *custody.Report) (uses []*custody.Use) {
	for _, s := range r.Sessions {
		for _, iss := range s.Issuances {
			uses = append(uses, iss.Uses...)
		}
	}
	return uses
}

func readLog(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
