package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sidekey/sidekey/audit"
)

// protocolOption takes -h1 or -h2 off args.
func protocolOption(c *agentClient, args []string) []string {
	if len(args) > 0 && args[0] == "-h1" {
		c.h1 = true
		return args[1:]
	}
	if len(args) > 0 && args[0] == "-h2" {
		c.h2 = true
		return args[1:]
	}
	return args
}

// cmdSSERead reads the three events of /sse: sse-read [-h1|-h2] URL. It lets the upstream send an
// event only after it has read the one before, so it ends only if each comes by itself.
func cmdSSERead(ts *testscript.TestScript, args []string) {
	c := clientOf(ts)
	args = protocolOption(&c, args)
	client, done, err := c.http()
	ts.Check(err)
	defer done()
	resp, err := client.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	fmt.Fprintf(ts.Stdout(), "%s\n%s\n", resp.Status, resp.Header.Get("Content-Type"))
	for s := bufio.NewScanner(resp.Body); ; {
		if !s.Scan() {
			ts.Check(s.Err())
			return
		}
		if event, ok := strings.CutPrefix(s.Text(), "data: "); ok {
			fmt.Fprintln(ts.Stdout(), event)
			storyOf(ts).up.open("sse-next")
		}
	}
}

// cmdTrickle sends a body to /trickle, its second half only after the upstream has the first:
// trickle [-h1|-h2] URL.
func cmdTrickle(ts *testscript.TestScript, args []string) {
	c := clientOf(ts)
	args = protocolOption(&c, args)
	client, done, err := c.http()
	ts.Check(err)
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		io.WriteString(w, "first")
		err := storyOf(ts).up.await(ctx, "trickle-got")
		io.WriteString(w, " second")
		w.CloseWithError(err)
		sent <- err
	}()
	req, err := http.NewRequestWithContext(ctx, "POST", args[0], body)
	ts.Check(err)
	resp, err := client.Do(req)
	if err != nil {
		ts.Fatalf("trickle: %v", errors.Join(err, body.Close(), <-sent))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	body.Close()
	fmt.Fprintln(ts.Stdout(), resp.Status)
	ts.Stdout().Write(text)
	ts.Check(<-sent)
}

// cmdWSEcho opens a WebSocket and sends each MESSAGE: ws-echo URL MESSAGE... It prints what comes
// back, or the status and refusal if the upgrade is refused.
func cmdWSEcho(ts *testscript.TestScript, neg bool, args []string) {
	c := clientOf(ts)
	c.h1 = true
	client, done, err := c.http()
	ts.Check(err)
	defer done()
	client.Timeout = 0
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, args[0], &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		if resp == nil || !neg {
			ts.Fatalf("ws-echo: %v", err)
		}
		fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, refusalOf(resp))
		return
	}
	defer conn.CloseNow()
	if neg {
		ts.Fatalf("ws-echo: the upgrade was granted")
	}
	read := func() {
		_, message, err := conn.Read(ctx)
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), string(message))
	}
	read()
	for _, message := range args[1:] {
		ts.Check(conn.Write(ctx, websocket.MessageText, []byte(message)))
		read()
	}
	ts.Check(conn.Close(websocket.StatusNormalClosure, ""))
}

// cmdGRPCCall calls grpc.health.v1.Health: grpc-call HOST:PORT [METHOD]. METHOD is Check or List. It
// prints the answer or the status, and the metadata. (In an answer of trailers alone, all is trailer.)
func cmdGRPCCall(ts *testscript.TestScript, neg bool, args []string) {
	c := clientOf(ts)
	cfg, err := c.tlsConfig()
	ts.Check(err)
	conn, err := grpc.NewClient("passthrough:///"+args[0],
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return c.connect(ctx, addr) }))
	ts.Check(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-note", "hello")
	var header, trailer metadata.MD
	options := []grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)}
	var answer fmt.Stringer
	if len(args) > 1 && args[1] == "List" {
		answer, err = healthpb.NewHealthClient(conn).List(ctx, &healthpb.HealthListRequest{}, options...)
	} else {
		answer, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, options...)
	}
	if err != nil {
		fmt.Fprintln(ts.Stdout(), status.Code(err).String()+": "+status.Convert(err).Message())
	} else {
		fmt.Fprintln(ts.Stdout(), answer.String())
	}
	print := func(kind string, md metadata.MD, name string) {
		if values := md.Get(name); len(values) > 0 {
			fmt.Fprintln(ts.Stdout(), kind, name+": "+strings.Join(values, " | "))
		}
	}
	print("header", header, "x-authorization")
	for _, name := range []string{"x-trailer", "x-echo", "sidekey-refusal"} {
		print("trailer", trailer, name)
	}
	if neg == (err == nil) {
		ts.Fatalf("grpc-call: %v", err)
	}
}

// connect opens a tunnel to addr.
func (c agentClient) connect(ctx context.Context, addr string) (net.Conn, error) {
	proxy, err := url.Parse(c.proxy)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", proxy.Host)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr)
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), &http.Request{Method: "CONNECT"})
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &refusedConnect{resp.Status, refusalOf(resp)}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// oneByte keeps a bufio.Reader from taking bytes that follow the head.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// cmdClean fails if the credential is in one of the files (or stdout, stderr), in clear or in a usual
// encoding. The files must not all be empty.
func cmdClean(ts *testscript.TestScript, args []string) {
	secret := []byte(storyOf(ts).canary)
	// Of base64 the middle is the same whatever stands around the credential, at three alignments.
	forms := [][]byte{secret, []byte(hex.EncodeToString(secret)), bytes.ToUpper(secret)}
	for skip := range 3 {
		form := base64.StdEncoding.EncodeToString(append(make([]byte, skip), secret...))
		forms = append(forms, []byte(form[4:len(form)-4]))
	}
	total := 0
	for _, file := range args {
		text := []byte(ts.ReadFile(file))
		total += len(text)
		if slices.ContainsFunc(forms, func(form []byte) bool { return bytes.Contains(text, form) }) {
			ts.Fatalf("clean: the credential is in %s", file)
		}
	}
	if total == 0 {
		ts.Fatalf("clean: %q are all empty", args)
	}
}

// cmdSession puts the id of the session that wrote to a trail last into $SESSION.
func cmdSession(ts *testscript.TestScript, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var e audit.Entry
		ts.Check(json.Unmarshal([]byte(line), &e))
		ts.Setenv("SESSION", e.Session.ID)
	}
}

// cmdTrail verifies an audit trail and prints a line for each record: its event and, where it has
// them, entrance, method, route, credential, status, reason and error. Calls to Vault and signatures are left out.
func cmdTrail(ts *testscript.TestScript, args []string) {
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	_, err = audit.Verify(f)
	ts.Check(err)
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var e audit.Entry
		ts.Check(json.Unmarshal([]byte(line), &e))
		if e.Event == audit.VaultCalled || e.Event == audit.SegmentSigned {
			continue // these say nothing of what the session did
		}
		words := []string{string(e.Event), e.Entrance, e.Method, e.Route, e.Credential}
		if e.Status != 0 {
			words = append(words, fmt.Sprint(e.Status))
		}
		words = append(words, e.Reason, e.Error)
		fmt.Fprintln(ts.Stdout(), strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " "))
	}
}
