package mitmca

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"sync"
	"time"
)

// A leaf is a certificate, or the promise of one: whoever gets it first mints it under once.
type leaf struct {
	from, until time.Time
	renew       time.Time // from then on another one is minted

	once sync.Once
	cert *tls.Certificate
	err  error
}

// A cache keeps the leaves most recently used.
type cache struct {
	max int

	mu     sync.Mutex
	byHost map[string]*list.Element // of *slot
	recent *list.List               // the most recently used first
}

type slot struct {
	host string
	leaf *leaf
}

func newCache(maxLeaves int) *cache {
	return &cache{
		max:    cmp.Or(maxLeaves, 1024),
		byHost: make(map[string]*list.Element),
		recent: list.New(),
	}
}

// get returns the leaf for host, which is the one that fresh makes if there is none that is good
// at now. It does not wait for it to be minted.
func (c *cache) get(host string, now time.Time, fresh func() *leaf) *leaf {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byHost[host]; ok {
		c.recent.MoveToFront(e)
		s := e.Value.(*slot)
		if now.Before(s.leaf.from) || now.After(s.leaf.renew) {
			s.leaf = fresh()
		}
		return s.leaf
	}
	s := &slot{host, fresh()}
	c.byHost[host] = c.recent.PushFront(s)
	if c.recent.Len() > c.max {
		delete(c.byHost, c.recent.Remove(c.recent.Back()).(*slot).host)
	}
	return s.leaf
}

// drop forgets l, so that the next call tries anew.
func (c *cache) drop(host string, l *leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byHost[host]; ok && e.Value.(*slot).leaf == l {
		delete(c.byHost, host)
		c.recent.Remove(e)
	}
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.Len()
}
