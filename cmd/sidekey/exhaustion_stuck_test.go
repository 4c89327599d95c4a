package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// pipelinedNeverReads sends requests that are refused, as fast as they go, and reads no answer.
func pipelinedNeverReads(ctx context.Context, s *siege) (string, error) {
	var sent atomic.Int64
	one := strings.Repeat("GET http://denied.test/"+strings.Repeat("x", 900)+" HTTP/1.1\r\nHost: denied.test\r\n\r\n", 32)
	open, err := s.many(ctx, 40, func(ctx context.Context) error {
		conn, err := s.dial(ctx)
		if err != nil {
			return err
		}
		conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
		for range 64 {
			waitFor(ctx, 20*time.Millisecond) // it is after memory; speed is for other attacks
			n, err := io.WriteString(conn, one)
			sent.Add(int64(n))
			if err != nil {
				break // the queue is full: as intended
			}
		}
		return nil
	})
	return fmt.Sprintf("%d connections, %d MiB of requests", open, sent.Load()>>20), err
}

// many does open n times, at most 50 at once, waits 5 s, and returns how many succeeded. That the
// proxy calls itself overloaded is no failure.
func (s *siege) many(ctx context.Context, n int, open func(context.Context) error) (int64, error) {
	var opened, started atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, n)
	for range min(n, 50) {
		all.Go(func() {
			for started.Add(1) <= int64(n) {
				err := open(ctx)
				if refused, ok := errors.AsType[*refusedConnect](err); ok && refused.refusal == "overloaded" {
					continue
				}
				if err != nil {
					failed <- err
					return
				}
				opened.Add(1)
			}
		})
	}
	all.Wait()
	waitFor(ctx, 5*time.Second)
	select {
	case err := <-failed:
		return opened.Load(), err
	default:
		return opened.Load(), nil
	}
}

// neverReadsH1 asks for 400 endless bodies and reads none of them.
func neverReadsH1(ctx context.Context, s *siege) (string, error) {
	open, err := s.many(ctx, 400, func(ctx context.Context) error {
		conn, err := s.secure(ctx, s.h2Host, "http/1.1")
		if err != nil {
			return err
		}
		_, err = io.WriteString(conn, "GET /endless HTTP/1.1\r\nHost: "+s.h2Host+"\r\n\r\n")
		return err
	})
	return fmt.Sprintf("%d endless answers asked for", open), err
}

// neverReadsH2 asks for 800 endless bodies on eight connections and reads none of them. Half are
// asked of a route without a credential, whose bodies are not looked through.
func neverReadsH2(ctx context.Context, s *siege) (string, error) {
	var n atomic.Int64
	open, err := s.many(ctx, 8, func(ctx context.Context) error {
		host := []string{s.h2Host, s.bareHost}[n.Add(1)%2]
		f, err := s.framed(ctx, host, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		for range 100 {
			if err == nil {
				_, err = f.request("GET", "/endless", true)
			}
		}
		if err == nil {
			err = f.flush()
		}
		return err
	})
	return fmt.Sprintf("%d endless answers asked for", open*100), err
}

// shutWindow sends requests with heads of 45 KiB that are refused, and lets none of the refusals'
// bodies through: 100 on each of 200 connections.
func shutWindow(ctx context.Context, s *siege) (string, error) {
	open, err := s.many(ctx, 200, func(ctx context.Context) error {
		f, err := s.framed(ctx, s.h1Host, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		if err != nil {
			return err
		}
		go f.drain(nil)
		f.refusedHeads(100)
		return nil // that the proxy ends the connection is an answer, too
	})
	return fmt.Sprintf("%d connections with 100 refusals each", open), err
}

// fullQueue does the same on connections that are stuck in TCP: before, it asks for an endless
// answer, and it reads nothing.
func fullQueue(ctx context.Context, s *siege) (string, error) {
	open, err := s.many(ctx, 60, func(ctx context.Context) error {
		f, err := s.framed(ctx, s.bareHost, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		if err != nil {
			return err
		}
		if _, err := f.request("GET", "/endless", true); err != nil {
			return err
		}
		if err := errors.Join(f.WriteWindowUpdate(0, 1<<30), f.flush()); err != nil {
			return err
		}
		waitFor(ctx, 200*time.Millisecond)
		f.refusedHeads(99)
		return nil
	})
	return fmt.Sprintf("%d connections with 99 refusals each", open), err
}

// refusedHeads sends requests with heads of 45 KiB that no policy allows.
func (f *framed) refusedHeads(n int) {
	const frame = 15 << 10
	pad := hpack.HeaderField{Name: "x-pad", Value: strings.Repeat("~", frame), Sensitive: true}
	for range n {
		block := f.head("GET", "/denied;", pad, pad, pad)
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.next, BlockFragment: block[:frame], EndStream: true})
		for block = block[frame:]; len(block) > frame; block = block[frame:] {
			err = errors.Join(err, f.WriteContinuation(f.next, false, block[:frame]))
		}
		if errors.Join(err, f.WriteContinuation(f.next, true, block)) != nil {
			return
		}
		f.next += 2
	}
	f.flush()
}

// stuckUpstream asks an upstream that never answers 1 300 times. 1 024 may wait; the rest is refused,
// though not all of it need be told why.
func stuckUpstream(ctx context.Context, s *siege) (string, error) {
	const conns, inFlight = 13, 1024
	var seen count
	open, err := s.many(ctx, conns, func(ctx context.Context) error {
		f, err := s.framed(ctx, s.h2Host)
		if err != nil {
			return err
		}
		go f.drain(func(h *http2.MetaHeadersFrame) {
			for _, field := range h.RegularFields() {
				if field.Name == "sidekey-refusal" {
					seen.add(h.PseudoValue("status") + "_" + field.Value)
				}
			}
		})
		for range 100 {
			if _, err := f.request("GET", "/stuck", true); err != nil {
				return err
			}
		}
		return f.flush()
	})
	did := fmt.Sprintf("%d requests: %v", open*100, &seen)
	const most, least = conns*100 - inFlight, 200
	if n := seen.get("503_overloaded"); err == nil && (n > most || n < least) {
		err = fmt.Errorf("want 503 overloaded from %d to %d times", least, most)
	}
	return did, err
}

// stuckBodies sends 500 bodies of nearly 1 MiB, each on a connection of its own, for an upstream
// that reads none of them.
func stuckBodies(ctx context.Context, s *siege) (string, error) {
	var seen count
	chunk := make([]byte, 16<<10)
	open, err := s.many(ctx, 500, func(ctx context.Context) error {
		f, err := s.framed(ctx, s.h1Host)
		if err != nil {
			return err
		}
		go f.drain(nil)
		id, err := f.request("POST", "/stuck", false)
		for range 60 {
			err = errors.Join(err, f.WriteData(id, false, chunk))
		}
		if errors.Join(err, f.flush()) == nil {
			seen.add("taken")
		}
		return nil
	})
	return fmt.Sprintf("%d connections: %v", open, &seen), err
}

// manyValues sends bodies of nearly 1 MiB that a condition has to read, on 200 connections: half of
// them of more values than are taken, half of as many as are.
func manyValues(ctx context.Context, s *siege) (string, error) {
	var seen count
	var turn atomic.Int64
	bodies := []string{
		"[" + strings.Repeat("[],", 340_000) + "0]",
		"[" + strings.Repeat("[],", 199_000/2) + strings.Repeat("{},", 90_000) + "0]",
	}
	open, err := s.many(ctx, 200, func(ctx context.Context) error {
		conn, err := s.secure(ctx, s.h1Host, "http/1.1")
		if err != nil {
			return err
		}
		body := bodies[turn.Add(1)%2]
		fmt.Fprintf(conn, "POST /checked HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", s.h1Host, len(body), body)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		seen.add(fmt.Sprint(resp.StatusCode, "_", resp.Header.Get("Sidekey-Refusal")))
		return nil
	})
	return fmt.Sprintf("%d connections: %v", open, &seen), err
}
