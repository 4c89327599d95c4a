package audit_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
)

var sample = audit.Record{
	Event: audit.RequestIntent, Conn: "0193f2b1c0de", Entrance: "connect-h2", Method: "GET", Scheme: "https", Host: "api.github.com",
	Port: 443, Path: "/repos/acme/**", PathHMAC: "3f786850e387550fdab836ed7e6dc881de23001b", Route: "github-read", Credential: "github",
}

// discard is the fastest sink there is.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Sync() error                 { return nil }
func (discard) Close() error                { return nil }

func benchmarkAppend(b *testing.B, sink audit.Sink, parallel bool) {
	l := open(b, sink, "s")
	defer l.Close()
	b.ReportAllocs()
	if !parallel {
		for b.Loop() {
			if _, err := l.Append(sample); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Append(sample); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	b.Run("discard", func(b *testing.B) { benchmarkAppend(b, discard{}, false) })
	b.Run("discard-parallel", func(b *testing.B) { benchmarkAppend(b, discard{}, true) })
	for _, name := range []string{"file", "file-parallel"} {
		b.Run(name, func(b *testing.B) {
			f, err := audit.OpenFile(filepath.Join(b.TempDir(), "trail"))
			if err != nil {
				b.Fatal(err)
			}
			benchmarkAppend(b, f, name == "file-parallel")
		})
	}
}

// A trail as it is: each request has an intent and an outcome, and a path of its own.
func BenchmarkVerify(b *testing.B) {
	sink := &memory{}
	l := open(b, sink, "s")
	mustAppend(b, l, audit.Record{Event: audit.SessionStarted})
	mustAppend(b, l, audit.Record{Event: audit.CredentialIssued, Credential: "github", Issuance: "i", ExpiresAt: time.Now().Add(time.Hour)})
	const n = 1000
	for i := range n / 2 {
		r := sample
		r.Issuance, r.PathHMAC = "i", fmt.Sprintf("%032x", i*i)
		ref := mustAppend(b, l, r)
		r.Event, r.Intent, r.Status, r.BytesOut, r.DurationMS, r.Attempts, r.Protocol = audit.RequestOutcome, ref.Seq, 200, int64(i*i), float64(i)+0.125, 1, "h2"
		mustAppend(b, l, r)
	}
	text := sink.Bytes()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.Verify(bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
}

// A counting sink counts its writes.
type counting struct {
	audit.Sink
	writes int
}

func (c *counting) Write(p []byte) (int, error) { c.writes++; return c.Sink.Write(p) }

// cpu is the time of all processors that this process has used, in microseconds.
func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

// Several at a time share writes.
func BenchmarkAppendTogether(b *testing.B) {
	for _, n := range []int{1, 4, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, err := audit.OpenSink(filepath.Join(b.TempDir(), "trail"), 0)
			if err != nil {
				b.Fatal(err)
			}
			c := &counting{Sink: f}
			l := open(b, c, "s")
			defer l.Close()
			var wg sync.WaitGroup
			b.ResetTimer()
			before := cpu()
			for range n {
				wg.Go(func() {
					for range b.N / n {
						if _, err := l.Append(sample); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric((cpu()-before)/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(b.N)/float64(c.writes), "records/write")
		})
	}
}
