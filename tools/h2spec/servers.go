package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const configText = `role: h2spec
policy: policy.yaml
listen: %s
ops: %s
ca: {dir: .}
upstream: {allow_cidrs: [127.0.0.1/32], ca_file: upstream.crt}
audit: {path: audit.jsonl}
log_level: error
`

const policyText = `version: 1
role: h2spec
credentials:
  api:
    from: {env: {name: H2SPEC_KEY}}
    inject: {bearer: {}}
routes:
  - {name: all, host: "%s", access: read-write, paths: ["/**"], credential: api}
`

// A target is a server that h2spec can be pointed at.
type target struct {
	addr  string // host:port
	close func()
}

// startBare serves a short answer over TLS with what net/http does by itself. cert is the
// certificate in PEM.
func startBare(ln net.Listener) (t *target, cert []byte, err error) {
	pair, cert, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "hello\n")
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	go srv.ServeTLS(ln, "", "")
	return &target{ln.Addr().String(), func() { srv.Close() }}, cert, nil
}

// certificate makes one for 127.0.0.1 that vouches for itself.
func certificate() (cert tls.Certificate, text []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return cert, nil, err
	}
	text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text, nil
}

// startSidekey runs serve in dir, with a [switchboard] on both of its sides.
func startSidekey(ctx context.Context, binary, dir string) (*target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	proxy, err := freeAddress()
	if err != nil {
		return nil, err
	}
	ops, err := freeAddress()
	if err != nil {
		return nil, err
	}
	board := &switchboard{Listener: ln, proxy: proxy}
	up, cert, err := startBare(board)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "upstream.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "config.yaml"), fmt.Appendf(nil, configText, proxy, ops), 0o600),
		os.WriteFile(filepath.Join(dir, "policy.yaml"), fmt.Appendf(nil, policyText, up.addr), 0o600),
	)
	if err != nil {
		return nil, err
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "--config", "config.yaml")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, []string{"PATH=" + os.Getenv("PATH"), "H2SPEC_KEY=" + rand.Text()}, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		up.close()
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
	if err := waitReady("http://" + ops + "/startedz"); err != nil {
		stop()
		return nil, err
	}
	return &target{up.addr, stop}, nil
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

func waitReady(url string) error {
	last := errors.New("no answer")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			last = err
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = errors.New(resp.Status)
	}
	return fmt.Errorf("sidekey serve did not start: %v", last)
}
