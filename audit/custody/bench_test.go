package custody_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// BenchmarkTrace traces 200 000 records of one session, an issuance for each 200 uses, with Vault's log, a
// tenth of which is the session's.
func BenchmarkTrace(b *testing.B) {
	const records = 200_000
	w := newWorld(b, 1, 1, "clear")
	w.segment = audit.DefaultSegment
	s := w.start("tester")
	s.login()
	n := 10
	for ; n < records; n += 406 {
		s.issue()
		v := s.live[len(s.live)-1]
		for range 200 {
			r := audit.Record{
				Event: audit.RequestIntent, Conn: "c1", Entrance: "connect-h2", Method: "GET", Scheme: "https", Host: "api.github.com", Port: 443,
				Path: "/repos/acme/**", PathHMAC: "hmac-sha256:0123456789abcdef", Route: "github-read", Credential: v.credential, Issuance: v.id, RequestID: w.uuid(),
			}
			seq := s.append(r)
			w.now = w.now.Add(time.Millisecond)
			r.Event, r.Intent, r.Status, r.DurationMS, r.BytesOut = audit.RequestOutcome, seq, 200, 12.5, 1024
			s.append(r)
		}
		s.revoke()
		for range 18 {
			w.others()
		}
	}
	s.end()
	e := w.evidence()
	e.access = ""
	size := len(e.trails[0]) + len(e.vault[0])
	lines := strings.Count(e.trails[0], "\n")
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var r *custody.Report
	for b.Loop() {
		r = trace(b, e.config(w.now))
	}
	b.StopTimer()
	if len(r.Findings) > 0 || r.Totals.Uses < 200*(records/406) {
		b.Fatalf("totals %+v; findings:%s", r.Totals, describe(r.Findings))
	}
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(lines)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(mem.HeapAlloc-uint64(size))/float64(lines), "heap-B/record")
	runtime.KeepAlive(r)
	runtime.KeepAlive(e)
}
