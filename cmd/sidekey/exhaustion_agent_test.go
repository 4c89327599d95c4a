package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// slowConnections opens 5 000 connections at once and sends a byte a second on each: half of them a
// request's head on the listener, a quarter a ClientHello in a tunnel, a quarter a request's head
// inside the TLS of a tunnel. What the listener does not accept waits in the kernel's queue.
func slowConnections(ctx context.Context, s *siege) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	const total = 5000
	var seen count
	var opened atomic.Int64
	var all sync.WaitGroup
	for n := range total {
		all.Go(func() {
			conn, err := s.dial(ctx)
			if err != nil {
				seen.add("not_connected")
				return
			}
			opened.Add(1)
			seen.add(s.trickle(ctx, conn, n%4))
		})
	}
	all.Wait()
	if opened.Load() < total {
		return seen.String(), fmt.Errorf("%d connections were open at once, want %d", opened.Load(), total)
	}
	return fmt.Sprintf("%d open at once: %v", opened.Load(), &seen), nil
}

// trickle sends as slowly as it says on the tin until the proxy hangs up, and returns how far it came.
func (s *siege) trickle(ctx context.Context, conn net.Conn, kind int) string {
	end := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer end()
	stage, text := "listener", "GET http://h1.test/ HTTP/1.1\r\nHost: h1.test\r\nX-Slow: "+strings.Repeat("x", 100)
	var out io.Writer = conn
	if kind >= 2 {
		conn.Write([]byte(connectTo(s.h1Host)))
		if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))); err != nil {
			return cut("before_200", ctx)
		}
		stage, text = "clienthello", clientHello("h1.test")
	}
	if kind == 3 {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if c.HandshakeContext(ctx) != nil {
			return cut("handshake", ctx)
		}
		stage, out, text = "inner_head", c, "GET / HTTP/1.1\r\nHost: "+s.h1Host+"\r\nX-Slow: "+strings.Repeat("x", 100)
	}
	gone := make(chan struct{})
	go func() { defer close(gone); io.Copy(io.Discard, conn) }() // raw: also below TLS
	for i := range len(text) {
		if _, err := out.Write([]byte{text[i]}); err != nil {
			return cut(stage, ctx)
		}
		select {
		case <-gone:
			return cut(stage, ctx)
		case <-time.After(time.Second):
		}
	}
	return stage + "_sent"
}

func cut(stage string, ctx context.Context) string {
	if ctx.Err() != nil {
		return stage + "_open"
	}
	return stage + "_cut"
}

// clientHello returns the bytes of a ClientHello for name.
func clientHello(name string) string {
	rec := &recorder{}
	tls.Client(rec, &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}}).Handshake()
	return rec.String()
}

// A recorder is a connection that keeps what is written and answers nothing.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) Write(p []byte) (int, error)      { return r.Buffer.Write(p) }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// randomHosts opens tunnels to 100 000 hosts that no policy names. Each sends its ClientHello with the
// CONNECT and hangs up at the first byte of the certificate's flight, so that nearly all of the work
// is the proxy's. There is nothing to resume: no handshake ends, and each name is new.
func randomHosts(ctx context.Context, s *siege) (string, error) {
	const total, workers, within = 100_000, 16, 4 * time.Minute
	sample := strings.Repeat("a", 26) + ".test"
	hello := clientHello(sample)
	var started, minted atomic.Int64
	var failed count
	var all sync.WaitGroup
	begin := time.Now()
	for range workers {
		all.Go(func() {
			for time.Since(begin) < within && started.Add(1) <= total {
				host := strings.ToLower(rand.Text()) + ".test"
				if err := s.mint(ctx, host, strings.ReplaceAll(hello, sample, host)); err != nil {
					failed.add(fmt.Sprintf("%.80q", err))
				} else {
					minted.Add(1)
				}
			}
		})
	}
	all.Wait()
	did := fmt.Sprintf("%d hosts, failed: [%v]", minted.Load(), &failed)
	if minted.Load() < total {
		return did, fmt.Errorf("%d of %d hosts within %v, failed: [%v]", minted.Load(), total, within, &failed)
	}
	return did, nil
}

// mint has the proxy make a certificate for host.
func (s *siege) mint(ctx context.Context, host, hello string) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer s.hangUp(conn)
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, connectTo(host+":443")+hello); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for range 2 {
		if _, err := r.ReadString('\n'); err != nil {
			return err
		}
	}
	kind, err := r.ReadByte()
	if err == nil && kind != 22 { // handshake, RFC 8446 section 5.1
		err = fmt.Errorf("TLS record of type %d, want a handshake", kind)
	}
	return err
}

// rapidReset sends 10 000 requests that are to be allowed, and resets each at once (CVE-2023-44487).
func rapidReset(ctx context.Context, s *siege) (string, error) {
	const total = 10_000
	return s.flood(ctx, total, true, func(f *framed, _ int) error {
		id, err := f.request("GET", "/ok", true)
		return errors.Join(err, f.WriteRSTStream(id, http2.ErrCodeCancel))
	})
}

// settingsFlood sends SETTINGS and reads none of the acknowledgements (CVE-2019-9515); they change
// the header table's size and the initial window (CVE-2026-97032, -78669).
func settingsFlood(ctx context.Context, s *siege) (string, error) {
	return s.flood(ctx, 500_000, false, func(f *framed, n int) error {
		return f.WriteSettings(
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(n % 2 * 4096)},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(n % 1000)})
	})
}

// pingFlood sends PING and reads no answer (CVE-2019-9512).
func pingFlood(ctx context.Context, s *siege) (string, error) {
	return s.flood(ctx, 500_000, false, func(f *framed, _ int) error { return f.WritePing(false, [8]byte{}) })
}

// continuationFlood sends heads that never end (CVE-2023-45288): 64 MiB in frames of 16 KiB.
func continuationFlood(ctx context.Context, s *siege) (string, error) {
	fragment := make([]byte, 16<<10)
	return s.flood(ctx, 4096, true, s.continued(fragment))
}

// emptyContinuation sends heads that never end and say nothing.
func emptyContinuation(ctx context.Context, s *siege) (string, error) {
	return s.flood(ctx, 200_000, true, s.continued(nil))
}

// continued begins a head with the first frame on each connection and goes on with fragments.
func (s *siege) continued(fragment []byte) func(*framed, int) error {
	if len(fragment) > 0 { // a header that is as long as the fragment
		var b bytes.Buffer
		hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x-flood", Value: strings.Repeat("~", len(fragment)-600), Sensitive: true})
		fragment = b.Bytes()
	}
	return func(f *framed, _ int) error {
		if f.next == 1 {
			f.next = 3
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("GET", "/ok")})
		}
		return f.WriteContinuation(1, false, fragment)
	}
}

// flood writes total times, on eight connections, each followed by another when the proxy ends it.
func (s *siege) flood(ctx context.Context, total int, read bool, write func(f *framed, n int) error) (string, error) {
	const workers = 8
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var sent, conns atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, workers)
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil && sent.Load() < int64(total) {
				f, err := s.framed(ctx, s.h1Host)
				if err != nil {
					failed <- err
					return
				}
				conns.Add(1)
				if read {
					go f.drain(nil)
				}
				for n := 0; ctx.Err() == nil && sent.Load() < int64(total); n++ {
					if write(f, n) != nil {
						break
					}
					sent.Add(1)
				}
				f.flush()
			}
		})
	}
	all.Wait()
	waitFor(ctx, 3*time.Second) // what was sent is still on its way
	did := fmt.Sprintf("%d times on %d connections", sent.Load(), conns.Load())
	select {
	case err := <-failed:
		return did, err
	default:
		return did, nil
	}
}

// headerFlood sends heads of more than 64 KiB, in one field and in many, at all three entrances.
func headerFlood(ctx context.Context, s *siege) (string, error) {
	long := "X-Long: " + strings.Repeat("x", 128<<10) + "\r\n"
	many := strings.Repeat("X-A: 1\r\n", 20_000)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var seen count
	var all sync.WaitGroup
	for n := range 1200 {
		all.Go(func() {
			waitFor(ctx, time.Duration(n)*5*time.Millisecond)
			seen.add(s.bigHead(ctx, n%4, []string{long, many}[n/4%2]))
		})
	}
	all.Wait()
	return seen.String(), nil
}

// bigHead sends a head that is too big and returns what came back.
func (s *siege) bigHead(ctx context.Context, kind int, fields string) string {
	if kind == 3 {
		return s.bigHeadH2(ctx)
	}
	var conn net.Conn
	var err error
	target := "http://" + s.h1Host + "/ok"
	if kind == 0 {
		conn, err = s.dial(ctx)
	} else {
		target = "/ok"
		conn, err = s.secure(ctx, s.h1Host, "http/1.1")
	}
	if err != nil {
		return "no_connection"
	}
	conn.SetDeadline(time.Now().Add(patience))
	go io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: "+s.h1Host+"\r\n"+fields+"\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if words := strings.Fields(line); err == nil && len(words) > 1 {
		return "h1_" + words[1]
	}
	return "h1_cut"
}

func (s *siege) bigHeadH2(ctx context.Context) string {
	f, err := s.framed(ctx, s.h1Host)
	if err != nil {
		return "no_connection"
	}
	answer := make(chan string, 1)
	go func() {
		f.drain(func(h *http2.MetaHeadersFrame) {
			select {
			case answer <- "h2_" + h.PseudoValue("status"):
			default:
			}
		})
		close(answer)
	}()
	f.request("GET", "/ok", false)
	// A reference to the dynamic table is one byte on the wire and 4 KiB in memory.
	block := append([]byte{}, f.head("GET", "/ok", hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("x", 4000)})...)
	block = append(block, bytes.Repeat([]byte{0x80 | 62}, 8000)...)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndStream: true, EndHeaders: true})
	f.flush()
	select {
	case got, ok := <-answer:
		if ok {
			return got
		}
	case <-ctx.Done():
	}
	return "h2_cut"
}
