package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A load is what an agent asks for at a steady rate, whether or not the answers come, and what came
// of it.
type load struct {
	rate  int           // requests a second
	lasts time.Duration // after which no more begin
	url   func(path string) string
	names []string     // of the credentials, which take turns
	h1    *http.Client // they take turns, too
	h2    *http.Client

	took time.Duration // until the last answer

	mu       sync.Mutex
	waits    []time.Duration // from when a request was due to the end of its answer
	problems map[string]int

	end func() // closes the agent's connections
}

// newLoad returns a load on sv that has not begun.
func newLoad(t *testing.T, sv *served, url func(path string) string, rate int, lasts time.Duration, names ...string) *load {
	t.Helper()
	l := &load{rate: rate, lasts: lasts, url: url, names: names, problems: map[string]int{}}
	l.h1, l.h2 = agentOf(t, sv, false), agentOf(t, sv, true)
	l.end = func() { l.h1.CloseIdleConnections(); l.h2.CloseIdleConnections() }
	return l
}

// agentOf returns a client that keeps its connections until the test ends.
func agentOf(t *testing.T, sv *served, h2 bool) *http.Client {
	t.Helper()
	c := sv.client()
	c.h1, c.h2 = !h2, h2
	client, done, err := c.http()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 512
	return client
}

// run begins all requests when they are due and returns when the last is answered.
func (l *load) run() {
	var all sync.WaitGroup
	began := time.Now()
	defer func() { all.Wait(); l.took = time.Since(began) }()
	total := int(l.lasts.Seconds() * float64(l.rate))
	for n := range total {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
		time.Sleep(time.Until(due))
		all.Go(func() { l.one(n, due) })
	}
}

func (l *load) one(n int, due time.Time) {
	client := l.h1
	if n%2 == 1 {
		client = l.h2
	}
	name, method, body := l.names[n/2%len(l.names)], http.MethodGet, ""
	if n%5 == 0 { // which nobody could send again
		method, body = http.MethodPost, "a body"
	}
	problem := ask(client, method, l.url(fmt.Sprintf("/%s/%d", name, n)), body)
	wait := time.Since(due)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = append(l.waits, wait)
	if problem != "" {
		l.problems[name+": "+method+": "+problem]++
	}
}

// ask makes a request and returns what is wrong with the answer; nothing if the upstream let it in.
func ask(client *http.Client, method, url, body string) (problem string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK || string(text) != letIn {
		return fmt.Sprintf("%d %s %.80q", resp.StatusCode, refusalOf(resp), text)
	}
	return ""
}

// want reports every request that was not let in.
func (l *load) want(t testing.TB) {
	t.Helper()
	if want := int(l.lasts.Seconds() * float64(l.rate)); len(l.waits) != want {
		t.Errorf("%d requests, want %d", len(l.waits), want)
	}
	for _, problem := range slices.Sorted(maps.Keys(l.problems)) {
		t.Errorf("%d requests: %s", l.problems[problem], problem)
	}
}

// String tells what rate the machine could bear, and how long the answers took.
func (l *load) String() string {
	waits := slices.Clone(l.waits)
	slices.SortFunc(waits, cmp.Compare[time.Duration])
	at := func(part float64) time.Duration {
		return waits[int(part*float64(len(waits)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d requests begun in %v and answered in %.1fs (%.0f/s of %d/s), median %v, p99 %v, slowest %v",
		len(waits), l.lasts, l.took.Seconds(), float64(len(waits))/l.took.Seconds(), l.rate, at(0.5), at(0.99), at(1))
}
