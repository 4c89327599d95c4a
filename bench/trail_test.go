// Package bench measures what a promise costs, through the whole proxy. It has tests only.
package bench

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	connections = 32
	rate        = 10_000 // requests a second
	slice       = 200 * time.Millisecond
	pairs       = 100                  // of slices
	warmUp      = 5                    // pairs that do not count
	budget      = 6 * time.Microsecond // of CPU, for the trail of one request
)

// TestTrailCost sends requests at a rate through a proxy that keeps its trail in a file, and through
// one that keeps none, a slice of time each in turn, and prints what CPU the process took for one with
// and without. The agents and the upstream are in the same process and cost the same in both.
func TestTrailCost(t *testing.T) {
	if os.Getenv("SIDEKEY_COST") == "" {
		t.Skip("SIDEKEY_COST is not set: run make test-cost on a machine that has nothing else to do")
	}
	up := newUpstream(t)
	without, with := newSide(t, "discarded", &discarding{}, up, connections), newSide(t, "file", fileTrail(t), up, connections)
	var differences []time.Duration
	for n := range warmUp + pairs {
		if n == warmUp {
			without.used, with.used = used{}, used{}
		}
		first, second := without, with
		if n%2 == 0 { // neither is always the first
			first, second = with, without
		}
		a := first.run(t, slice)
		b := second.run(t, slice)
		if n%2 == 0 {
			a, b = b, a
		}
		if n >= warmUp {
			differences = append(differences, b-a)
		}
	}
	for _, s := range []*side{without, with} {
		fmt.Printf("trail %-10s %6d requests at %5.0f/s (aim %d), %6.1f us CPU each\n", s.name, s.requests, float64(s.requests)/s.took.Seconds(), rate, microseconds(s.cpu)/float64(s.requests))
	}
	mean, deviation := statistics(differences)
	fmt.Printf("the trail of one request (2 records): %.1f us CPU, standard error %.1f (%d pairs of %v), budget %.0f us\n",
		microseconds(mean), microseconds(deviation)/math.Sqrt(pairs), pairs, slice, microseconds(budget))
	if mean > budget {
		t.Errorf("the trail costs %.1f us CPU a request, want at most %.0f", microseconds(mean), microseconds(budget))
	}
}

// statistics returns the mean and the standard deviation of what is between the lowest and the highest
// tenth: a machine has other things to do now and then.
func statistics(all []time.Duration) (mean, deviation time.Duration) {
	slices.Sort(all)
	kept := all[len(all)/10 : len(all)-len(all)/10]
	var sum, squares float64
	for _, d := range kept {
		sum += float64(d)
		squares += float64(d) * float64(d)
	}
	n := float64(len(kept))
	return time.Duration(sum / n), time.Duration(math.Sqrt(max(0, squares/n-sum/n*sum/n)))
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// run sends requests at the rate for d, on all connections, and returns the CPU time of each.
func (s *side) run(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	const each = connections * time.Second / rate // on one connection
	n := int(d / each)
	begin, cpu := time.Now(), cpuTime(t)
	var all sync.WaitGroup
	for i, conn := range s.conns {
		all.Go(func() {
			first := begin.Add(each * time.Duration(i) / connections)
			if err := send(conn, n, first, each); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	cpu = cpuTime(t) - cpu
	s.took += time.Since(begin)
	s.cpu += cpu
	s.requests += n * connections
	if t.Failed() {
		t.FailNow()
	}
	return cpu / time.Duration(n*connections)
}

var ok = []byte("HTTP/1.1 200 OK\r\n")

// send sends n requests, one each time that every has gone by, and reads their answers.
func send(conn *agentConn, n int, at time.Time, every time.Duration) error {
	for range n {
		if wait := time.Until(at); wait > 0 {
			time.Sleep(wait)
		}
		at = at.Add(every)
		if _, err := conn.Write(conn.request); err != nil {
			return err
		}
		line, err := conn.in.ReadSlice('\n')
		if err != nil || !bytes.Equal(line, ok) {
			return fmt.Errorf("answer %q, %v", line, err)
		}
		for len(line) > len("\r\n") {
			if line, err = conn.in.ReadSlice('\n'); err != nil {
				return err
			}
		}
		if _, err := conn.in.Discard(bodySize); err != nil {
			return err
		}
	}
	return nil
}

// cpuTime is what the process has used, in user and system mode.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
