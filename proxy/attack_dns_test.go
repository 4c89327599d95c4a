package proxy_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer is a DNS server in the process. It answers from a table and notes what it is asked.
type nameServer struct {
	mu    sync.Mutex
	names map[string][]string // by name with its final dot: what each lookup in turn is answered, the last one for ever
	asked map[string]int      // A queries by name, and all by name and type
}

// startNameServer makes a nameServer the resolver of this process until the test ends. Names that
// it does not have do not exist.
func startNameServer(t *testing.T) *nameServer {
	s := &nameServer{names: map[string][]string{}, asked: map[string]int{}}
	conn := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer, err := s.answer(buf[:n]); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	})
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = old
		conn.Close()
		serving.Wait()
	})
	return s
}

// set makes name, without its final dot, resolve to lists of addresses, one after another.
func (s *nameServer) set(name string, lists ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name+"."] = lists
	for _, kind := range []string{"", "TypeA", "TypeAAAA"} {
		delete(s.asked, name+"."+kind)
	}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, err
	}
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	lists, known := s.names[name]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}
	m.Additionals = nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
		s.asked[name]++
		return m.Pack()
	}
	nth := s.asked[name+q.Type.String()]
	s.asked[name+q.Type.String()]++
	if q.Type == dnsmessage.TypeA {
		s.asked[name]++
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 0}
	for _, text := range strings.Fields(lists[min(nth, len(lists)-1)]) {
		switch addr := netip.MustParseAddr(text); {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return m.Pack()
}
