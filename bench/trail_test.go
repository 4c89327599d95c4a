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

	"github.com/sidekey/sidekey/proxy"
)

const (
	connections = 32
	rate        = 10_000 // requests a second
	slice       = 200 * time.Millisecond
	rounds      = 150                  // of slices
	warmUp      = 5                    // rounds that do not count
	budget      = 6 * time.Microsecond // of CPU, for the trail of one request
)

// TestTrailCost sends requests at a rate through a proxy and prints what CPU the process took for one,
// a slice of time each in turn: with no trail, with one that is made and thrown away, with one in a file
// whose pages are in memory already, and with one in a file as serve has it. The agents and the upstream
// are in the same process and cost the same in all. It fails if the third is over the budget.
//
// The fourth has what a page of memory costs that was not used before, which is the machine's. Some
// hypervisors take back what is free: then it is 17 us and more, for each 2 requests.
func TestTrailCost(t *testing.T) {
	if os.Getenv("SIDEKEY_COST") == "" {
		t.Skip("SIDEKEY_COST is not set: run make test-cost on a machine that has nothing else to do")
	}
	sides := []*side{
		{name: "none", trail: &noTrail{}},
		{name: "thrown away", trail: newTrail(t, discardingSink{})},
		{name: "in memory", trail: newTrail(t, newRing(t))},
		{name: "in a file", trail: newTrail(t, fileSink(t))},
	}
	trail := &switchedTrail{}
	trail.use(sides[0].trail)
	st := newStage(t, trail, newUpstream(t), connections)
	for n := range warmUp + rounds {
		for i := range sides { // none is always the first
			s := sides[(n+i)%len(sides)]
			trail.use(s.trail)
			s.add(st.run(t, slice), n >= warmUp)
		}
		if n < warmUp {
			continue
		}
		for _, s := range sides {
			s.more = append(s.more, s.last-sides[0].last)
		}
	}
	for _, s := range sides {
		mean, deviation := statistics(s.more)
		fmt.Printf("trail %-11s %6d requests at %5.0f/s (aim %d), %6.1f us CPU each: %4.1f more (standard error %.1f)\n", s.name, s.requests,
			float64(s.requests)/s.took.Seconds(), rate, microseconds(s.cpu)/float64(s.requests), microseconds(mean), microseconds(deviation)/math.Sqrt(rounds))
		if s.name == "in memory" && mean > budget {
			t.Errorf("the trail costs %.1f us CPU a request (2 records), want at most %.0f", microseconds(mean), microseconds(budget))
		}
	}
}

// A side is a trail and what the slices came to in which it was used.
type side struct {
	name  string
	trail proxy.Trail

	load
	last time.Duration   // CPU of a request in the last slice
	more []time.Duration // CPU of a request than with no trail, for each round
}

// A load is what some slices of time came to.
type load struct {
	cpu      time.Duration
	requests int
	took     time.Duration
}

func (s *side) add(one load, counts bool) {
	s.last = one.cpu / time.Duration(one.requests)
	if counts {
		s.cpu += one.cpu
		s.took += one.took
		s.requests += one.requests
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

// run sends requests at the rate for d, on all connections.
func (s *stage) run(t *testing.T, d time.Duration) load {
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
	one := load{cpu: cpuTime(t) - cpu, requests: n * connections, took: time.Since(begin)}
	if t.Failed() {
		t.FailNow()
	}
	return one
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
