package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// An agentClient is an HTTP client as an agent has it: it knows the proxy and the CA file, no more.
type agentClient struct {
	proxy  string // URL; empty for none
	caFile string
	h1, h2 bool // the only protocol that will do
}

// refusedConnect is the proxy's answer to CONNECT where it is not 200.
type refusedConnect struct{ status, refusal string }

func (e *refusedConnect) Error() string { return "connect " + e.status + " " + e.refusal }

func (c agentClient) tlsConfig() (*tls.Config, error) {
	pem, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", c.caFile)
	}
	return &tls.Config{RootCAs: roots}, nil
}

// http returns the client; close closes its connections.
func (c agentClient) http() (client *http.Client, done func(), err error) {
	t := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(!c.h2)
	t.Protocols.SetHTTP2(!c.h1)
	if c.proxy != "" {
		u, err := url.Parse(c.proxy)
		if err != nil {
			return nil, nil, err
		}
		t.Proxy = http.ProxyURL(u)
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
			if r.StatusCode == http.StatusOK {
				return nil
			}
			return &refusedConnect{strconv.Itoa(r.StatusCode), refusalOf(r)}
		}
		if t.TLSClientConfig, err = c.tlsConfig(); err != nil {
			return nil, nil, err
		}
	}
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: t, Timeout: patience, CheckRedirect: follow}, t.CloseIdleConnections, nil
}

func refusalOf(r *http.Response) string {
	if code := r.Header.Get("Sidekey-Refusal"); code != "" {
		return code
	}
	return "-"
}

func clientOf(ts *testscript.TestScript) agentClient {
	return agentClient{proxy: ts.Getenv("PROXY"), caFile: filepath.Join(ts.Getenv("CA_DIR"), "ca.crt")}
}

// A fetch is one request, made by cmdFetch from its arguments.
type fetch struct {
	client  agentClient
	header  http.Header
	body    func() io.Reader
	verbose bool
	sum     bool
	until   *regexp.Regexp
	name    string // in the background
	method  string
	url     string
}

// cmdFetch makes a request as the agent. It prints the status and the header Sidekey-Refusal (or -)
// on a line, then the body, then any trailers. It fails if there is no answer or the status is
// 400 or more.
//
//	fetch [-h1|-h2] [-direct] [-v] [-sum] [-H 'K: V'] [-d FILE|-size N] [-until RE|-bg NAME] METHOD URL
//
// -v prints the answer's header, -sum size and hash of the body instead of the body. -size sends N
// bytes of a pattern. -until asks again until the output matches. -bg prints at fetch-wait NAME.
func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	f := parseFetch(ts, args)
	if f.name != "" {
		out := make(chan string, 1)
		storyOf(ts).pending[f.name] = out
		go func() {
			text, _ := f.do()
			out <- text
		}()
		return
	}
	text, ok := f.do()
	if f.until != nil && !poll(func() bool {
		if f.until.MatchString(text) {
			return true
		}
		text, ok = f.do()
		return false
	}) {
		ts.Fatalf("fetch: never matched %q; last:\n%s", f.until, text)
	}
	io.WriteString(ts.Stdout(), text)
	if ok == neg && f.until == nil {
		ts.Fatalf("fetch: success is %t", ok)
	}
}

// cmdFetchWait waits for the end of a fetch in the background, and prints what it got.
func cmdFetchWait(ts *testscript.TestScript, args []string) {
	io.WriteString(ts.Stdout(), <-storyOf(ts).pending[args[0]])
}

func parseFetch(ts *testscript.TestScript, args []string) *fetch {
	f := &fetch{client: clientOf(ts), header: http.Header{}, body: func() io.Reader { return nil }}
	value := func() string {
		if len(args) < 2 {
			ts.Fatalf("fetch: %s takes a value", args[0])
		}
		args = args[1:]
		return args[0]
	}
	for ; len(args) > 0 && strings.HasPrefix(args[0], "-"); args = args[1:] {
		switch args[0] {
		case "-h1":
			f.client.h1 = true
		case "-h2":
			f.client.h2 = true
		case "-direct":
			f.client.proxy = ""
		case "-v":
			f.verbose = true
		case "-sum":
			f.sum = true
		case "-H":
			k, v, _ := strings.Cut(value(), ": ")
			f.header.Add(k, v)
		case "-d":
			text := ts.ReadFile(value())
			f.body = func() io.Reader { return strings.NewReader(text) }
		case "-size":
			n, err := strconv.ParseInt(value(), 10, 64)
			ts.Check(err)
			f.body = func() io.Reader { return pattern(n) }
		case "-until":
			f.until = regexp.MustCompile("(?m)" + value())
		case "-bg":
			f.name = value()
		default:
			ts.Fatalf("fetch: unknown option %s", args[0])
		}
	}
	if len(args) != 2 {
		ts.Fatalf("usage: fetch [OPTION...] METHOD URL")
	}
	f.method, f.url = args[0], args[1]
	return f
}

// do makes the request and returns what is to be printed, and whether it succeeded.
func (f *fetch) do() (text string, ok bool) {
	client, done, err := f.client.http()
	if err != nil {
		return "error: " + err.Error() + "\n", false
	}
	defer done()
	req, err := http.NewRequest(f.method, f.url, f.body())
	if err != nil {
		return "error: " + err.Error() + "\n", false
	}
	req.Header = f.header.Clone()
	resp, err := client.Do(req)
	if refused := (*refusedConnect)(nil); errors.As(err, &refused) {
		return refused.Error() + "\n", false
	}
	if err != nil {
		return "error: " + err.Error() + "\n", false
	}
	defer resp.Body.Close()
	var out strings.Builder
	err = f.print(&out, resp)
	if err != nil {
		fmt.Fprintf(&out, "\nerror: %v\n", err)
	}
	return out.String(), err == nil && resp.StatusCode < 400
}

func (f *fetch) print(w io.Writer, resp *http.Response) error {
	fmt.Fprintf(w, "%d %s\n", resp.StatusCode, refusalOf(resp))
	if f.client.h2 && resp.ProtoMajor != 2 || f.client.h1 && resp.ProtoMajor != 1 {
		return fmt.Errorf("the answer came by %s", resp.Proto)
	}
	if f.verbose {
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			fmt.Fprintln(w, name+": "+strings.Join(resp.Header[name], " | "))
		}
	}
	if f.sum {
		h := sha256.New()
		n, err := io.Copy(h, resp.Body)
		fmt.Fprintf(w, "size=%d sha256=%s\n", n, hex.EncodeToString(h.Sum(nil)))
		return err
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Trailer)) {
		fmt.Fprintln(w, "trailer "+name+": "+strings.Join(resp.Trailer[name], " | "))
	}
	return nil
}
