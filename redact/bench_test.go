package redact_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/sidekey/sidekey/redact"
)

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// tokens makes n secrets of 40 bytes as token issuers have them.
func tokens(n int) []redact.Pattern {
	rnd := rand.New(rand.NewPCG(1, 2))
	var out []redact.Pattern
	for range n {
		b := []byte("ghp_")
		for len(b) < 40 {
			b = append(b, letters[rnd.IntN(len(letters))])
		}
		out = append(out, redact.Pattern{Value: b, User: []byte("x-access-token")})
	}
	return out
}

func randomBody(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func jsonBody(n int) []byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for b.Len() < n {
		enc.Encode(map[string]any{
			"id": rnd.Uint64(), "node_id": fmt.Sprintf("MDU6SXNzdWU%d", rnd.Uint32()), "state": "open",
			"url":   fmt.Sprintf("https://api.github.com/repos/acme/app/issues/%d?a=1&b=2", rnd.Uint32()),
			"title": "Pods <restart> when the \"proxy\" is slow & the queue is full", "sha": fmt.Sprintf("%040x", rnd.Uint64()),
			"body": "The quick brown fox jumps over the lazy dog; it happens every night at 03:00.\nSee the log.",
			"user": map[string]any{"login": "octocat", "site_admin": false}, "labels": []string{"bug", "help wanted"},
		})
	}
	return b.Bytes()[:n]
}

func with(body []byte, needle []byte, every int) []byte {
	out := bytes.Clone(body)
	for i := 0; i+every <= len(out); i += every {
		copy(out[i+every/2:], needle)
	}
	return out
}

func BenchmarkReader(b *testing.B) {
	const size = 4 << 20
	for _, secrets := range []int{1, 20, 200} {
		patterns := tokens(secrets)
		set, _ := redact.Compile(patterns...)
		bodies := []struct {
			name string
			body []byte
		}{
			{"random", randomBody(size)},
			{"json", jsonBody(size)},
			{"json-hit-per-KiB", with(jsonBody(size), patterns[0].Value, 1<<10)},
			{"almost", bytes.Repeat(patterns[0].Value[:39], size/39)},
		}
		for _, body := range bodies {
			b.Run(fmt.Sprintf("%s/%d", body.name, secrets), func(b *testing.B) {
				b.SetBytes(int64(len(body.body)))
				b.ReportAllocs()
				buf := make([]byte, 32<<10)
				for b.Loop() {
					r := set.NewReader(bytes.NewReader(body.body))
					for {
						if _, err := r.Read(buf); err == io.EOF {
							break
						}
					}
				}
			})
		}
	}
}

func BenchmarkString(b *testing.B) {
	set, _ := redact.Compile(tokens(20)...)
	v := `W/"0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071"`
	b.SetBytes(int64(len(v)))
	b.ReportAllocs()
	for b.Loop() {
		set.String(v)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1, 20, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			patterns := tokens(n)
			var set *redact.Set
			for b.Loop() {
				set, _ = redact.Compile(patterns...)
			}
			b.ReportMetric(float64(set.Bytes())/1024, "KiB")
		})
	}
}
