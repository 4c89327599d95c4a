package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// A switchboard is one port that stands for both ends. h2spec knows nothing of proxies, so what it
// connects to opens a tunnel for it. And since h2spec names the address that it connects to in each
// request, which inside a tunnel must be the one of the tunnel, Sidekey will dial that same address
// for the upstream. The two are told apart by their ClientHello: h2spec offers no HTTP/1.1.
type switchboard struct {
	net.Listener        // of both
	proxy        string // host:port of Sidekey
}

// Accept returns the next connection from Sidekey. It is for one goroutine.
func (b *switchboard) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		hello, protocols := readHello(conn)
		whole := &replayed{conn, io.MultiReader(bytes.NewReader(hello), conn)}
		if slices.Contains(protocols, "http/1.1") {
			return whole, nil
		}
		go func() {
			defer conn.Close()
			if err := b.join(whole); err != nil {
				fmt.Fprintln(os.Stderr, "h2spec:", err)
			}
		}()
	}
}

// join pipes between conn and a new tunnel until either side has ended.
func (b *switchboard) join(conn net.Conn) error {
	tunnel, err := net.Dial("tcp", b.proxy)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	authority := b.Addr().String()
	fmt.Fprintf(tunnel, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	r := bufio.NewReader(tunnel)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT %s: %s", authority, resp.Status)
	}
	go func() {
		defer tunnel.Close()
		io.Copy(tunnel, conn)
	}()
	io.Copy(conn, r) // whichever side ends first ends the other
	return nil
}

// A replayed connection reads from r.
type replayed struct {
	net.Conn
	r io.Reader
}

func (c *replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

// A listening connection keeps what is read and writes nothing.
type listening struct {
	net.Conn
	read bytes.Buffer
}

func (c *listening) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

func (c *listening) Write(p []byte) (int, error) { return len(p), nil }

// readHello reads a ClientHello, and returns its bytes and the protocols that it offers.
func readHello(conn net.Conn) (hello []byte, protocols []string) {
	enough := errors.New("enough")
	l := &listening{Conn: conn}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	defer conn.SetReadDeadline(time.Time{})
	tls.Server(l, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		protocols = h.SupportedProtos
		return nil, enough
	}}).Handshake()
	return l.read.Bytes(), protocols
}
