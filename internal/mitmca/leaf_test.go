package mitmca_test

import (
	"crypto/tls"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/mitmca"
)

func TestLeafLife(t *testing.T) {
	now := newClock()
	ca := newCA(t, mitmca.Config{Now: now.Now})
	first := leaf(t, ca, "a.test")
	if from, life := first.NotBefore.Sub(now.Now()), first.NotAfter.Sub(first.NotBefore); from != -5*time.Minute || life != 24*time.Hour {
		t.Errorf("valid from %v, for %v", from, life)
	}
	now.Add(22*time.Hour + 55*time.Minute) // one hour is left
	if leaf(t, ca, "a.test") != first {
		t.Error("a leaf with an hour left was replaced")
	}
	now.Add(time.Second)
	second := leaf(t, ca, "a.test")
	if second == first {
		t.Error("a leaf with less than an hour left was kept")
	}
	if err := verify(ca, second, "a.test", now.Now()); err != nil {
		t.Error(err)
	}
	now.Add(-20 * time.Hour) // the clock was wrong
	if err := verify(ca, leaf(t, ca, "a.test"), "a.test", now.Now()); err != nil {
		t.Errorf("after the clock was set back: %v", err)
	}
	if n := ca.Cached(); n != 1 {
		t.Errorf("%d leaves for one host", n)
	}
}

func TestLeafDiesWithTheCA(t *testing.T) {
	now := newClock()
	ca := newCA(t, mitmca.Config{Now: now.Now})
	now.Add(365*24*time.Hour - 30*time.Minute)
	last := leaf(t, ca, "a.test")
	if !last.NotAfter.Equal(ca.Certificate().NotAfter) {
		t.Errorf("valid until %v, the CA until %v", last.NotAfter, ca.Certificate().NotAfter)
	}
	now.Add(30 * time.Minute)
	if leaf(t, ca, "a.test") != last {
		t.Error("the last leaf was replaced by one that lasts no longer")
	}
	now.Add(time.Second)
	if _, err := ca.Leaf("a.test"); err == nil {
		t.Error("an expired CA issued a leaf")
	}
}

func TestCacheIsBounded(t *testing.T) {
	ca := newCA(t, mitmca.Config{MaxLeaves: 3})
	first := leaf(t, ca, "h0.test")
	for i := range 10 {
		leaf(t, ca, fmt.Sprintf("h%d.test", i))
		if leaf(t, ca, "h0.test") != first {
			t.Fatalf("the leaf used last went, after %d hosts", i+1)
		}
	}
	if n := ca.Cached(); n != 3 {
		t.Errorf("%d leaves cached, want 3", n)
	}
	for i := range 3 {
		leaf(t, ca, fmt.Sprintf("x%d.test", i))
	}
	if leaf(t, ca, "h0.test") == first {
		t.Error("the leaf not used for longest was kept")
	}
}

func TestDefaultBound(t *testing.T) {
	ca := newCA(t, mitmca.Config{})
	for i := range 1030 {
		leaf(t, ca, fmt.Sprintf("h%d.test", i))
	}
	if n := ca.Cached(); n != 1024 {
		t.Errorf("%d leaves cached, want 1024", n)
	}
}

func TestConcurrentCallsMintOnce(t *testing.T) {
	ca := newCA(t, mitmca.Config{MaxLeaves: 8})
	var mu sync.Mutex
	got := map[string]map[*tls.Certificate]bool{}
	var wg sync.WaitGroup
	for w := range 64 {
		host := fmt.Sprintf("h%d.test", w%4)
		wg.Go(func() {
			c, err := ca.Leaf(host)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if got[host] == nil {
				got[host] = map[*tls.Certificate]bool{}
			}
			got[host][c] = true
		})
	}
	wg.Wait()
	for host, certs := range got {
		if len(certs) != 1 {
			t.Errorf("%s: minted %d times", host, len(certs))
		}
	}
}

func TestConcurrentEviction(t *testing.T) {
	ca := newCA(t, mitmca.Config{MaxLeaves: 2})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				host := fmt.Sprintf("h%d.test", (w+i)%5)
				if c, err := ca.Leaf(host); err != nil || c.Leaf.DNSNames[0] != host {
					t.Errorf("Leaf(%s): a leaf for another host, or %v", host, err)
				}
			}
		})
	}
	wg.Wait()
	if n := ca.Cached(); n > 2 {
		t.Errorf("%d leaves cached, want at most 2", n)
	}
}

func BenchmarkLeafCached(b *testing.B) {
	ca := newCA(b, mitmca.Config{})
	b.ReportAllocs()
	for b.Loop() {
		leaf(b, ca, "api.github.com")
	}
}

func BenchmarkLeafUncached(b *testing.B) {
	ca := newCA(b, mitmca.Config{MaxLeaves: 1})
	hosts := []string{"a.test", "b.test"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		leaf(b, ca, hosts[i%2])
	}
}
