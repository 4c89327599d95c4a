package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// A tap is a connection that keeps what was read from it.
type tap struct {
	net.Conn
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p[:n])
	return n, err
}

func (t *tap) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf.Bytes())
}

// An answer is what the agent got for one request.
type answer struct {
	outcome string // "", "closed", "reset" or "handshake"
	status  int
	header  http.Header
	body    string
	broken  bool // the body did not come whole
}

// An agentConn is an agent's connection through one of the entrances.
type agentConn interface {
	// send sends the case's bytes and returns an answer for each of its wants.
	send(a attack) []answer
	// ask sends a request and returns its answer.
	ask(r plainRequest) answer
	// follow sends a valid request and returns its answer.
	follow() answer
	// closed waits for the end of the connection and reports whether it came.
	closed() bool
	// got returns all that the agent got to see.
	got() string
	close()
}

const agentPatience = 30 * time.Second

// open brings a connection to the point where the case's bytes are due. If that does not work, it
// returns the answer that stands in the way.
func (g *gallery) open(t *testing.T, a attack, via string) (agentConn, *answer) {
	conn := must(net.Dial("tcp", g.addr))(t)
	conn.SetDeadline(time.Now().Add(agentPatience))
	outer := &tap{Conn: conn}
	c := &h1Agent{g: g, conn: outer, br: bufio.NewReader(outer), taps: []*tap{outer}, followUp: "http://" + g.vars["PLAIN"], host: g.vars["PLAIN"]}
	if via == "listener" || via == "connect" {
		return c, nil
	}
	authority := g.tunnel(a, via)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	if first := c.read(http.MethodConnect); first.status != 200 {
		return c, &first
	}
	c.followUp, c.host = "", authority
	if a.keys["tls"] == "none" {
		return c, nil
	}
	proto := map[string]string{"tunnel-h1": "http/1.1", "tunnel-h2": "h2"}[via]
	inner := tls.Client(outer, g.clientTLS(a, authority, proto))
	if err := inner.Handshake(); err != nil {
		return c, &answer{outcome: "handshake"}
	}
	c.conn = &tap{Conn: inner}
	c.taps = append(c.taps, c.conn)
	c.br = bufio.NewReader(c.conn)
	if via == "tunnel-h2" {
		return newH2Agent(c), nil
	}
	return c, nil
}

// tunnel is the authority that the case's entrance leads to.
func (g *gallery) tunnel(a attack, via string) string {
	switch authority := a.keys["tunnel"]; {
	case authority != "":
		return string(expand(authority, g.vars))
	case via == "listener":
		return g.vars["PLAIN"]
	}
	return g.vars["API"]
}

func (g *gallery) clientTLS(a attack, authority, proto string) *tls.Config {
	host, _, _ := net.SplitHostPort(authority)
	cfg := &tls.Config{ServerName: host, RootCAs: g.roots, NextProtos: []string{proto}, CurvePreferences: []tls.CurveID{tls.X25519}}
	if proto == "http/1.1" && a.keys["tls"] == "no-alpn" {
		cfg.NextProtos = nil
	}
	if sni := a.keys["sni"]; sni != "" {
		cfg.ServerName = string(expand(sni, g.vars))
		cfg.InsecureSkipVerify = true // what is refused is not the agent's doing
	}
	if a.keys["sni"] == "none" {
		cfg.ServerName = ""
	}
	if max := a.keys["max-tls"]; max != "" {
		cfg.MinVersion = tls.VersionTLS10
		cfg.MaxVersion = map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12}[max]
	}
	if _, err := netip.ParseAddr(host); err == nil {
		cfg.InsecureSkipVerify = true
	}
	return cfg
}

// An h1Agent speaks HTTP/1.1, to the listener or in a tunnel.
type h1Agent struct {
	g        *gallery
	conn     *tap
	taps     []*tap
	br       *bufio.Reader
	followUp string // what stands before the path of the request that follows
	host     string
}

// bytesOf returns the case's bytes as HTTP/1.1 has them.
func (c *h1Agent) bytesOf(a attack) []byte {
	switch a.kind {
	case "":
		authority := expand(a.keys["tunnel"], c.g.vars)
		return fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", authority)
	case "raw":
		v := maps.Clone(c.g.vars)
		v["BASE"], v["HOST"] = c.followUp, c.host
		return expand(wireLines(a.payload), v)
	}
	prefix := c.followUp
	if prefix != "" && a.keys["tunnel"] != "" {
		prefix = "http://" + string(expand(a.keys["tunnel"], c.g.vars))
	}
	return c.render(parseRequest(a, c.g.vars), prefix)
}

// render returns r with prefix before its target.
func (c *h1Agent) render(r plainRequest, prefix string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s%s HTTP/1.1\r\nHost: %s\r\n", r.method, prefix, r.target, strings.TrimPrefix(cmpOr(prefix, c.host), "http://"))
	for _, f := range r.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	if r.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n" + r.body)
	return b.Bytes()
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (c *h1Agent) send(a attack) (out []answer) {
	b := c.bytesOf(a)
	if a.keys["hangup"] != "" {
		c.conn.Write(b)
		c.close()
		return []answer{{outcome: "closed"}}
	}
	done := make(chan struct{})
	go func() { // an answer may come before all of it was read
		defer close(done)
		c.conn.Write(b)
	}()
	method, _, _ := strings.Cut(string(b), " ")
	for range a.wants {
		out = append(out, c.read(method))
	}
	<-done
	return out
}

// read reads one answer, and what comes before it.
func (c *h1Agent) read(method string) answer {
	for {
		resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
		if err != nil {
			return answer{outcome: "closed"}
		}
		var body io.Reader = resp.Body
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols:
			body = c.br
		case resp.StatusCode < 200:
			continue
		case method == http.MethodConnect && resp.StatusCode == 200:
			return answer{status: 200, header: resp.Header}
		}
		text, err := io.ReadAll(body)
		resp.Body.Close()
		return answer{status: resp.StatusCode, header: resp.Header, body: string(text), broken: err != nil}
	}
}

func (c *h1Agent) ask(r plainRequest) answer {
	c.conn.Write(c.render(r, c.followUp))
	return c.read(r.method)
}

func (c *h1Agent) follow() answer { return c.ask(plainRequest{method: "GET", target: "/v1/followup"}) }

func (c *h1Agent) closed() bool {
	_, err := io.Copy(io.Discard, c.br)
	ne, ok := err.(net.Error)
	return !ok || !ne.Timeout()
}

func (c *h1Agent) got() string {
	var b strings.Builder
	for _, t := range c.taps {
		b.Write(t.bytes())
	}
	return b.String()
}

func (c *h1Agent) close() { c.conn.Close() }

// A plainRequest is the "request:" block of a case.
type plainRequest struct {
	method, target string
	fields         [][2]string
	body           string
}

func parseRequest(a attack, v vars) (r plainRequest) {
	head, body, _ := strings.Cut(a.payload, "\n\n")
	first, fields, _ := strings.Cut(head, "\n")
	r.method, r.target, _ = strings.Cut(first, " ")
	r.method, r.target = string(expand(r.method, v)), string(expand(r.target, v))
	for line := range strings.Lines(fields) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		if name != "" {
			r.fields = append(r.fields, [2]string{string(expand(name, v)), string(expand(value, v))})
		}
	}
	r.body = string(expand(strings.TrimRight(body, "\n"), v))
	return r
}
