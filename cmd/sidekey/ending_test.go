package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sidekey/sidekey/audit"
)

// However requests and the end of the session come together: a request works, or is refused because
// the session has ended; no use is recorded after the end, and Vault holds nothing of it.
func TestEndUnderLoad(t *testing.T) {
	const workers, before = 16, 300
	st := newCanaryStage(t, &canaries{})
	sv := startServe(t, buildSidekey(t), st.config, st.policy, st.environ...)
	var worked, ended atomic.Int64
	enough := make(chan struct{})
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			client, done, err := sv.client().http()
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			for {
				resp, err := client.Get("https://" + st.api + "/dynamic/1")
				if err != nil {
					t.Errorf("after %d requests: %v", worked.Load(), err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				switch reason := refusalOf(resp); {
				case err == nil && resp.StatusCode == http.StatusOK:
					if worked.Add(1) == before {
						close(enough)
					}
				case resp.StatusCode == http.StatusServiceUnavailable && reason == "session_ended":
					ended.Add(1)
					return
				default:
					t.Errorf("%d %s: %v", resp.StatusCode, reason, err)
					return
				}
			}
		})
	}
	<-enough
	status, err := adminClient{filepath.Join(sv.dir, "admin.sock")}.do(t.Context(), http.MethodPost, adminEnd, "enough")
	if err != nil || len(status.Session.Unrevoked) != 0 {
		t.Errorf("end: %v; not revoked: %q", err, status.Session.Unrevoked)
	}
	all.Wait()
	if n := ended.Load(); n != workers {
		t.Errorf("%d of %d agents were told that the session has ended", n, workers)
	}
	if live, revoked := st.vault.Leases(); len(live) != 0 || len(revoked) == 0 || st.vault.LiveTokens() != 0 {
		t.Errorf("%d leases live and %d revoked, %d tokens", len(live), len(revoked), st.vault.LiveTokens())
	}
	if err := sv.stop(); err != nil {
		t.Errorf("serve: %v\n%s", err, sv.stderr.String())
	}
	trail, err := os.ReadFile(filepath.Join(sv.dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := audit.Verify(bytes.NewReader(trail))
	if err != nil {
		t.Fatal(err)
	}
	if s := sum.Sessions; len(s) != 1 || !s[0].Ended || s[0].Indeterminate != 0 || int64(s[0].Outcomes) != worked.Load() {
		t.Errorf("the trail has %+v, and %d requests worked", s, worked.Load())
	}
}
