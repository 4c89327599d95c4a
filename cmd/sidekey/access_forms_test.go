package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// The ids that an agent gives to several requests.
const (
	overlappingID = "one-id-for-two-at-a-time"
	sequenceID    = "one-id-for-two-in-turn"
)

// TestAccessRepeatedID has an agent give one id to a slow request and to the next one, and another to two at
// a time, of which the first to begin is the last to end and so the last in nginx's log. trace must not take
// one for the other, whether the log's times are exact or not.
func TestAccessRepeatedID(t *testing.T) {
	st := runAccess(t, needNginx(t), func(st *accessStage, client *http.Client) {
		for _, ask := range []accessAsk{{"GET", "/files/slow", "", "", 200}, {"GET", "/files/none", "", "", 404}} {
			ask.header = "X-Request-Id: " + sequenceID
			st.ask(t, client, "https://api.test:", ask, "")
		}
		st.overlap(t, client)
	})
	for file, flags := range map[string][]string{
		"access.log":  nil,                                                                      // whole seconds
		"access.json": {"--access-format", custody.AccessJSON},                                  // whole seconds
		"both.json":   {"--access-format", custody.AccessJSON, "--access-key=path=request_uri"}, // milliseconds
	} {
		t.Run(file, func(t *testing.T) {
			wantNothing(t, st.trace(t, custody.AccessNginx, filepath.Join(st.web.dir, file), flags...))
		})
	}
}

func (st *accessStage) overlap(t *testing.T, client *http.Client) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://api.test:"+st.web.port+"/files/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Request-Id", overlappingID)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	st.ask(t, client, "https://api.test:", accessAsk{"GET", "/files/none", "X-Request-Id: " + overlappingID, "", 404}, "")
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
}

// needNginx returns the path of nginx, and skips the test where none is named.
func needNginx(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("SIDEKEY_NGINX")
	if binary == "" {
		t.Skip("SIDEKEY_NGINX is not set: run make test-access")
	}
	return binary
}

// TestAccessForms runs the same session as TestAccessLog, and reads logs as operators have them.
func TestAccessForms(t *testing.T) {
	st := runAccess(t, needNginx(t), nil)
	t.Run("uses without an id", func(t *testing.T) {
		wantNote(t, st.trace(t, custody.AccessNginx, st.accessLog(custody.AccessNginx)), 2*accessRounds, "correlate")
	})
	// $uri is decoded, $request_uri is what was sent.
	t.Run("uri and request_uri", func(t *testing.T) {
		wantNothing(t, st.trace(t, custody.AccessJSON, filepath.Join(st.web.dir, "both.json")))
	})
	// $request_id is one that nginx makes up, $http_x_request_id the one that was sent.
	t.Run("request_id and http_x_request_id", func(t *testing.T) {
		r := st.trace(t, custody.AccessJSON, filepath.Join(st.web.dir, "own_id.json"))
		if want := st.trace(t, custody.AccessNginx, st.accessLog(custody.AccessNginx)); r.Totals.AccessJoined != want.Totals.AccessJoined {
			t.Errorf("%d uses are joined, want %d; notes %+v", r.Totals.AccessJoined, want.Totals.AccessJoined, r.Notes)
		}
	})
	// The use of a credential that was refused, and that was then made again with a fresh one.
	t.Run("a refusal edited", func(t *testing.T) {
		id := ""
		for _, e := range entriesOf(st.trail, audit.RequestOutcome) {
			if e.Error == "credential_refused" {
				id = e.RequestID
			}
		}
		if id == "" {
			t.Fatal("the trail has no refusal of a credential")
		}
		st.tamper(t, custody.AccessJSON, accessTampering{code: custody.AccessMismatch, change: func(l [][]byte) ([][]byte, string) {
			i := index(l, 0, id)
			l[i] = bytes.Replace(l[i], []byte(`"status":"401"`), []byte(`"status":"200"`), 1)
			return l, placed(i)
		}})
	})
}

// wantNothing checks that the report has no findings.
func wantNothing(t *testing.T, r *custody.Report) {
	t.Helper()
	for _, f := range r.Findings[:min(4, len(r.Findings))] {
		t.Errorf("%d findings, such as %+v", len(r.Findings), f)
	}
}
