package vault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/realvault"
)

// kindOf names what Vault was asked for at path.
func kindOf(path string) string {
	switch {
	case strings.HasSuffix(path, "/login"):
		return "login"
	case strings.HasPrefix(path, "auth/token/create/"):
		return "child"
	case strings.HasSuffix(path, "/revoke-self"), strings.HasPrefix(path, "sys/leases/revoke/"):
		return "revoke"
	}
	return "issue"
}

// A load is what a fleet asked of Vault in some time.
type load struct {
	times []time.Time
	kinds map[string]int
}

// loadOf reads it from Vault's audit log, whose times are of when each request arrived.
func loadOf(log []realvault.AuditEntry, from, to time.Time) load {
	l := load{kinds: map[string]int{}}
	for _, e := range log {
		if e.Type != "request" || !strings.HasPrefix(e.Correlation(), fleetMark) || e.Time.Before(from) || e.Time.After(to) {
			continue
		}
		l.times = append(l.times, e.Time)
		l.kinds[kindOf(e.Request.Path)]++
	}
	return l
}

// peak returns the most times that lie within one window.
func peak(times []time.Time, window time.Duration) int {
	times = slices.SortedFunc(slices.Values(times), time.Time.Compare)
	most, first := 0, 0
	for i, at := range times {
		for at.Sub(times[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// quantiles writes the median, the 99th percentile and the maximum.
func quantiles(of []time.Duration) string {
	if len(of) == 0 {
		return "-"
	}
	s := slices.Sorted(slices.Values(of))
	at := func(q float64) time.Duration { return s[int(q*float64(len(s)-1))].Round(10 * time.Millisecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v", at(0.5), at(0.99), at(1))
}

// A rate is what one Vault can do of an operation when it does nothing else.
type rate struct {
	perSecond float64
	cpu       time.Duration // Vault's own, for each; 0 if unknown
}

// measure has eight workers do op for d, each in its own copy.
func measure(t *testing.T, srv *realvault.Server, d time.Duration, op func() error) rate {
	t.Helper()
	var wg sync.WaitGroup
	var n atomic.Int64
	before, known := cpuOf(srv)
	begin := time.Now()
	for range 8 {
		wg.Go(func() {
			for time.Since(begin) < d {
				if err := op(); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	after, still := cpuOf(srv)
	r := rate{perSecond: float64(n.Load()) / took.Seconds()}
	if known && still && n.Load() > 0 {
		r.cpu = (after - before) / time.Duration(n.Load())
	}
	return r
}

// cpuOf returns the processor time that the server has used, where /proc tells.
func cpuOf(srv *realvault.Server) (time.Duration, bool) {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		args, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(args), srv.AuditLog) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		if err != nil {
			return 0, false
		}
		// utime and stime, the 12th and 13th field after the command, in hundredths of a second.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		user, err1 := strconv.Atoi(fields[11])
		system, err2 := strconv.Atoi(fields[12])
		return time.Duration(user+system) * 10 * time.Millisecond, err1 == nil && err2 == nil
	}
	return 0, false
}
