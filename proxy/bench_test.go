package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// One request on a kept-alive tunnel, all features on: both TLS legs, policy, credential, two
// audit records (in memory).
func BenchmarkIntercepted(b *testing.B) {
	body := make([]byte, 1024)
	for _, h2 := range []bool{false, true} {
		b.Run(fmt.Sprintf("h2=%v", h2), func(b *testing.B) {
			r := newRig(b, standardPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			benchmarkGet(b, r.client(h2), r.at("api.test", "/v1/x"))
		})
		b.Run(fmt.Sprintf("correlated/h2=%v", h2), func(b *testing.B) {
			r := newRig(b, correlatedPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			benchmarkGet(b, r.client(h2), r.at("api.test", "/v1/x"))
		})
		b.Run(fmt.Sprintf("direct/h2=%v", h2), func(b *testing.B) {
			r := newRig(b, standardPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			benchmarkGet(b, r.direct(h2), r.at("api.test", "/v1/x"))
		})
	}
}

// One tunnel from CONNECT to its first answer.
func BenchmarkNewTunnel(b *testing.B) {
	r := newRig(b, standardPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("x")) })
	c := r.client(false)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	benchmarkGet(b, c, r.at("api.test", "/v1/x"))
}

// 10 MiB through the proxy.
func BenchmarkBody(b *testing.B) {
	body := make([]byte, 10<<20)
	for _, h2 := range []bool{false, true} {
		b.Run(fmt.Sprintf("h2=%v", h2), func(b *testing.B) {
			r := newRig(b, standardPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			b.SetBytes(int64(len(body)))
			benchmarkGet(b, r.client(h2), r.at("api.test", "/v1/x"))
		})
		b.Run(fmt.Sprintf("direct/h2=%v", h2), func(b *testing.B) {
			r := newRig(b, standardPolicy, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			b.SetBytes(int64(len(body)))
			benchmarkGet(b, r.direct(h2), r.at("api.test", "/v1/x"))
		})
	}
}

func benchmarkGet(b *testing.B, c *http.Client, url string) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		if resp.StatusCode != 200 {
			b.Fatal(resp.Status)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
