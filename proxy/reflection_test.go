package proxy_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/redact"
)

// I10: what an upstream hands back is masked, wherever it stands and however it is written, and
// recorded.
func TestReflectedSecrets(t *testing.T) {
	shapes := map[string]func(w http.ResponseWriter, auth string){
		"header":      func(w http.ResponseWriter, auth string) { w.Header().Set("X-Debug", auth) },
		"header name": func(w http.ResponseWriter, auth string) { w.Header()["X-"+canary] = []string{"1"} },
		"location":    func(w http.ResponseWriter, auth string) { w.Header().Set("Location", "https://x.test/?t="+canary) },
		"body":        func(w http.ResponseWriter, auth string) { fmt.Fprintf(w, "you sent %s!", auth) },
		"base64": func(w http.ResponseWriter, auth string) {
			io.WriteString(w, base64.StdEncoding.EncodeToString([]byte("xy"+canary+"zzzz")))
		},
		"hex": func(w http.ResponseWriter, auth string) { io.WriteString(w, hex.EncodeToString([]byte(canary))) },
		"trailer": func(w http.ResponseWriter, auth string) {
			io.WriteString(w, "x")
			w.Header().Set(http.TrailerPrefix+"X-T", auth)
		},
		"long body": func(w http.ResponseWriter, auth string) {
			w.Header().Set("Content-Length", fmt.Sprint(200_000+len(auth)))
			io.WriteString(w, strings.Repeat("x", 100_000)+auth+strings.Repeat("y", 100_000))
		},
		"gzip": func(w http.ResponseWriter, auth string) {
			w.Header().Set("Content-Encoding", "gzip")
			zw := gzip.NewWriter(w)
			io.WriteString(zw, auth)
			zw.Close()
		},
		"error": func(w http.ResponseWriter, auth string) { http.Error(w, "bad key "+canary, http.StatusUnauthorized) },
	}
	for name, shape := range shapes {
		for _, h2 := range []bool{false, true} {
			r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) { shape(w, req.Header.Get("Authorization")) })
			resp, body := r.do(r.client(h2), "GET", r.at("api.test", "/v1/x"), http.Header{"Accept-Encoding": {"gzip, br"}, "Range": {"bytes=0-9"}}, nil)
			all := fmt.Sprint(resp.Header, body, resp.Trailer)
			if strings.Contains(all, hex.EncodeToString([]byte(canary))) || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(canary))[:12]) {
				t.Errorf("%s h2=%v: an encoding of the credential reached the agent", name, h2)
			}
			if name != "header name" && !strings.Contains(all, redact.Mask) {
				t.Errorf("%s h2=%v: no mask in the answer", name, h2)
			}
			r.stopAndWait()
			if recs := r.trail.records(audit.SecretReflected); len(recs) != 1 {
				t.Errorf("%s h2=%v: %d records", name, h2, len(recs))
			}
			if got := r.got(); got[0].header.Get("Accept-Encoding") != "identity" || got[0].header.Get("Range") != "" {
				t.Errorf("%s: asked upstream for %q, range %q", name, got[0].header.Get("Accept-Encoding"), got[0].header.Get("Range"))
			}
		}
	}
}

// A coding that cannot be looked through is refused, and a bomb is cut off.
func TestOpaqueBodies(t *testing.T) {
	for _, coding := range []string{"br", "zstd", "deflate", "gzip, gzip", "aes128gcm"} {
		r := newRig(t, standardPolicy, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", coding)
			io.WriteString(w, "opaque")
		})
		resp, body := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
		if resp.StatusCode != 502 || resp.Header.Get("Sidekey-Refusal") != "opaque_body" || strings.Contains(body, "opaque\n") {
			t.Errorf("%s: %s", coding, resp.Status)
		}
	}
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		zw := gzip.NewWriter(w)
		zeros := make([]byte, 1<<20)
		for range 256 {
			if _, err := zw.Write(zeros); err != nil {
				return
			}
		}
		zw.Close()
	})
	resp, err := r.client(false).Get(r.at("api.test", "/v1/x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n > 256<<20 {
		t.Errorf("a gzip bomb of 256 MiB came out as %d bytes, %v", n, err)
	}
}

// An event that holds no beginning of a secret is not held back, and one that holds a secret in
// two pieces is masked.
func TestReflectionInStream(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		for _, piece := range []string{"data: one\n\n", "data: " + canary[:7], canary[7:] + "\n\n", "data: end\n\n"} {
			io.WriteString(w, piece)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	resp, err := r.client(true).Get(r.at("api.test", "/v1/x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i, want := range []string{"data: one\n", "\n"} {
		if line, err := br.ReadString('\n'); err != nil || line != want {
			t.Fatalf("line %d: %q %v", i, line, err)
		}
	}
	next <- struct{}{}
	next <- struct{}{}
	next <- struct{}{}
	if line, err := br.ReadString('\n'); err != nil || line != "data: "+redact.Mask+"\n" {
		t.Errorf("got %q %v", line, err)
	}
	next <- struct{}{}
	io.Copy(io.Discard, br)
}

func TestWebSocketReflection(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.Write(req.Context(), websocket.MessageText, []byte("hello"))
		c.Write(req.Context(), websocket.MessageText, []byte("you are "+req.Header.Get("Authorization")))
		c.Read(req.Context())
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			break
		}
		if strings.Contains(string(b), canary) {
			t.Fatal("I10: the agent got the credential in a frame")
		}
	}
	r.stopAndWait()
	if out := r.trail.records(audit.RequestOutcome); len(out) != 1 || out[0]["error"] != "secret_reflected" || len(r.trail.records(audit.SecretReflected)) != 1 {
		t.Errorf("outcomes %v", out)
	}
}

// A credential in the query comes back in links; it is found there too.
func TestReflectionOfQuery(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", "<https://api.test/v1/x?page=2&key="+url.QueryEscape(canary)+">; rel=next")
	})
	resp, _ := r.do(r.client(true), "GET", r.at("api.test", "/v1/x"), nil, nil)
	if !strings.Contains(resp.Header.Get("Link"), redact.Mask) {
		t.Errorf("link: %q", resp.Header.Get("Link"))
	}
}

// A gRPC message is not held back because it ends as a secret begins, and one that holds a secret
// ends the call.
func TestGRPCMessagesAreNotHeldBack(t *testing.T) {
	message := func(s string) string { return string([]byte{0, 0, 0, 0, byte(len(s))}) + s }
	next := make(chan struct{})
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		for _, m := range []string{"ends in " + canary[:5], "whole " + canary} {
			io.WriteString(w, message(m))
			w.(http.Flusher).Flush()
			<-next
		}
	})
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.at("api.test", "/pkg.Service/Call"), strings.NewReader(message("x")))
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := r.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len(message("ends in "+canary[:5])))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != message("ends in "+canary[:5]) {
		t.Fatalf("got %q %v", first, err)
	}
	next <- struct{}{}
	rest, err := io.ReadAll(resp.Body)
	if err == nil || strings.Contains(string(rest), canary) {
		t.Errorf("the second message came as %q, %v", rest, err)
	}
	close(next)
}

// The same for WebSocket: the echo of a message that ends as a secret begins comes at once.
func TestWebSocketFramesAreNotHeldBack(t *testing.T) {
	r := newRig(t, standardPolicy, func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(req.Context())
			if err != nil {
				return
			}
			c.Write(req.Context(), kind, b)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(r.at("api.test", "/ws"), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: r.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	for _, size := range []int{0, 1, 100, 125, 126, 1000, 65535, 65536, 200_000} {
		want := strings.Repeat("x", size) + canary[:3]
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != want {
			t.Fatalf("%d bytes: got %d bytes, %v", size, len(b), err)
		}
	}
}
