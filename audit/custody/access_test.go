package custody_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// answered makes a session with ten uses, ten seconds apart from each other, and returns their request
// ids. Use 3 is one that the upstream refused, use 9 one without an outcome.
func answered(t testing.TB) (w *world, ids []string) {
	w = newWorld(t, 5, 1, "clear")
	s := w.start("tester")
	s.login()
	s.issue()
	for i := range 10 {
		w.now = w.now.Add(10 * time.Second)
		id := w.uuid()
		ids = append(ids, id)
		r := audit.Record{Event: audit.RequestIntent, Method: "GET", Host: "api.test", Path: "/{x}", PathSent: fmt.Sprint("/", i), Route: "r", RequestID: id, Credential: s.live[0].credential, Issuance: s.live[0].id}
		seq := s.append(r)
		if i == 9 {
			break
		}
		r.Event, r.Intent, r.Status, r.DurationMS, r.Attempts = audit.RequestOutcome, seq, 200, 100, 1
		if i == 3 {
			r.Status, r.Error = 401, "credential_refused"
		}
		w.now = w.now.Add(100 * time.Millisecond)
		s.append(r)
	}
	return w, ids
}

// Lines of use i, 8 s after 2026-11-23 08:00.
func nginx(i int, id string) string {
	status := 200
	if i == 3 {
		status = 401
	}
	at := time.Date(2026, 11, 23, 8, 0, 10*(i+1), 0, time.UTC).Format("02/Jan/2006:15:04:05 -0700")
	return fmt.Sprintf(`10.0.0.7 - ada [%s] "GET /%d?page=2 HTTP/2.0" %d 512 "-" "curl/8.1 \"x\" sidekey/%s" "%s"`, at, i, status, id, id)
}

func caddy(i int, id string) string {
	status := 200
	if i == 3 {
		status = 401
	}
	at := time.Date(2026, 11, 23, 8, 0, 10*(i+1), 0, time.UTC).Unix()
	return fmt.Sprintf(`{"level":"info","ts":%d.25,"request":{"remote_ip":"10.0.0.7","method":"GET","uri":"/%d?page=2","headers":{"X-Request-Id":["%s"],"User-Agent":["curl/8.1"]}},"status":%d}`, at, i, id, status)
}

func envoy(i int, id string) string {
	status := 200
	if i == 3 {
		status = 401
	}
	at := time.Date(2026, 11, 23, 8, 0, 10*(i+1), 0, time.UTC).Format(time.RFC3339Nano)
	return fmt.Sprintf(`{"start_time":"%s","method":"GET","path":"https://api.test/%d?page=2","response_code":"%d","x_request_id":"%s","user_agent":"sidekey/%s","downstream_remote_address":"10.0.0.7:80"}`, at, i, status, id, id)
}

func own(i int, id string) string {
	status := 200
	if i == 3 {
		status = 401
	}
	at := time.Date(2026, 11, 23, 8, 0, 10*(i+1), 0, time.UTC).UnixMilli()
	return fmt.Sprintf(`{"when":%d,"request":"GET /%d HTTP/1.1","status":%d,"ctx":{"RID":"%s"}}`, at, i, status, id)
}

func TestAccessFormats(t *testing.T) {
	for _, tt := range []struct {
		name, format string
		keys         map[string]string
		line         func(i int, id string) string
	}{
		{"nginx", custody.AccessNginx, nil, nginx},
		{"caddy", custody.AccessJSON, nil, caddy},
		{"envoy", custody.AccessJSON, nil, envoy},
		{"own keys", custody.AccessJSON, map[string]string{"time": "when", "request_id": "ctx.rid"}, own},
	} {
		w, ids := answered(t)
		e := w.evidence()
		var lines []string
		for i, id := range ids {
			lines = append(lines, tt.line(i, id))
		}
		e.access = strings.Join(lines, "\n") + "\n"
		cfg := e.config(w.now.Add(24 * time.Hour))
		cfg.AccessFormat, cfg.AccessKeys = tt.format, tt.keys
		r := trace(t, cfg)
		if len(r.Findings) > 0 || r.Totals.AccessJoined != 10 {
			t.Errorf("%s: %d joined; findings:%s\nnotes %v", tt.name, r.Totals.AccessJoined, describe(r.Findings), r.Notes)
			continue
		}
		u := r.Sessions[0].Issuances[0].Uses[4]
		want := custody.Access{Time: u.Access.Time, Method: "GET", Path: "/4", Status: 200, Remote: u.Access.Remote, Where: "access.log:5"}
		if *u.Access != want || !strings.HasPrefix(want.Remote, "10.0.0.7") && tt.name != "own keys" {
			t.Errorf("%s: use 4 is joined to %+v", tt.name, *u.Access)
		}
	}
}

func TestAccessTampered(t *testing.T) {
	for _, tt := range []struct {
		name  string
		do    func(lines []string) []string
		code  custody.Code // "" for none
		where string
	}{
		{"as it is", func(l []string) []string { return l }, "", ""},
		{"a line deleted", drop(5), custody.AccessMissing, "access.log"},
		{"the use without an outcome deleted", drop(10), "", ""},
		{"a status", sub(" 200 ", " 500 ", 5), custody.AccessMismatch, "access.log:5"},
		{"the refused one's status", sub(" 401 ", " 200 ", 4), custody.AccessMismatch, "access.log:4"},
		{"closed by the client", sub(" 200 ", " 499 ", 5), "", ""},
		{"a method", sub(`"GET`, `"PUT`, 5), custody.AccessMismatch, "access.log:5"},
		{"a path", sub("/4?", "/5?", 5), custody.AccessMismatch, "access.log:5"},
		{"a query", sub("page=2", "page=3", 5), "", ""},
		{"a time", sub("08:00:50", "08:20:50", 5), custody.AccessMismatch, "access.log:5"},
		{"twice", again(5, 6), custody.AccessUnrecorded, "access.log:"},
		{"of nobody", sub("sidekey/", "sidekey/0", 5), custody.AccessUnrecorded, "access.log:5"},
		{"of somebody else", sub("sidekey/", "other/", 5), "", ""},
		{"not ours at all", func(l []string) []string {
			return append(l, `10.1.1.1 - - [23/Nov/2026:08:00:20 +0000] "GET / HTTP/1.1" 200 1 "-" "curl" "abcdefgh"`+"\n", "garbage\n")
		}, "", ""},
	} {
		w, ids := answered(t)
		e := w.evidence()
		var lines []string
		for i, id := range ids {
			lines = append(lines, nginx(i, id)+"\n")
		}
		e.access = strings.Join(tt.do(lines), "")
		r := trace(t, e.config(w.now.Add(24*time.Hour)))
		i := slices.IndexFunc(r.Findings, func(f custody.Finding) bool { return f.Code == tt.code && strings.HasPrefix(f.Where, tt.where) })
		if (i < 0) != (tt.code == "") || tt.code == "" && len(r.Findings) > 0 {
			t.Errorf("%s: want %q at %s; findings:%s", tt.name, tt.code, tt.where, describe(r.Findings))
		}
	}
}

// TestAccessOfOthers: an access log in which no line is of a given session says nothing of what it does
// not have.
func TestAccessOfOthers(t *testing.T) {
	w, _ := answered(t)
	e := w.evidence()
	e.access = nginx(1, w.uuid()) + "\n" + nginx(2, w.uuid()) + "\n"
	r := trace(t, e.config(w.now.Add(24*time.Hour)))
	if len(r.Findings) > 0 || len(r.Notes) != 2 {
		t.Errorf("notes %v; findings:%s", r.Notes, describe(r.Findings))
	}
}

func TestAccessConfig(t *testing.T) {
	for _, cfg := range []custody.Config{
		{AccessFormat: "apache"},
		{AccessFormat: custody.AccessJSON, AccessKeys: map[string]string{"requestid": "x"}},
	} {
		if _, err := custody.Trace(cfg); err == nil {
			t.Errorf("no error for %+v", cfg)
		}
	}
}

// FuzzAccess: no line of an access log breaks anything, and whatever is read of one is of a time.
func FuzzAccess(f *testing.F) {
	f.Add(nginx(1, "0123456789abcdef"))
	f.Add(caddy(1, "0123456789abcdef"))
	f.Add(envoy(1, "0123456789abcdef"))
	f.Add(`{"time":1e300,"request_id":["x"],"request":{"headers":[]}}`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, format := range []string{custody.AccessNginx, custody.AccessJSON} {
			r, err := custody.Trace(custody.Config{AccessFormat: format, AccessLogs: []audit.File{{Name: "a", Reader: strings.NewReader(line)}}})
			if err != nil {
				continue // a line that is too long
			}
			if in := r.AccessLogs[0]; in.Records > 0 && in.First.IsZero() {
				t.Errorf("%d lines without a time", in.Records)
			}
		}
	})
}
