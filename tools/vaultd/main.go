// Command vaultd is a real Vault in one process: unsealed, with its storage in memory, on a loopback
// address. It is for tests. When it is ready it prints one line of JSON on standard output:
//
//	{"addr": "http://127.0.0.1:40123", "root_token": "...", "unseal_key_hex": "...", "startup_ms": 40}
//
// A KV version 2 engine is mounted at secret/. SIGTERM ends it. SIGUSR1 stops it as a crash would
// look to clients, and SIGUSR2 starts it again on the same storage and the same port, unsealed.
//
// It is a module of its own so that Vault, whose licence is BUSL-1.1, never enters Sidekey's go.mod:
// it is built where it is used, by tools/build.sh, and never published.
package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vaultd:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:0", "loopback `address` and port; port 0 picks a free one")
	token := flag.String("root-token", "root", "the root `token`'s id")
	audit := flag.String("audit", "", "enable a file audit device that appends to `file`")
	certFile := flag.String("tls-cert", "", "serve https with the certificate in `file`, and ask clients for theirs")
	keyFile := flag.String("tls-key", "", "the certificate's private key, in `file`")
	level := flag.String("log-level", "error", "log `level`; the log is on standard error")
	attached := flag.Bool("attached", false, "end when standard input does, so as not to outlive the parent")
	flag.Parse()
	start := time.Now()

	if err := checkLoopback(*listen); err != nil {
		return err
	}
	v := &vaultServer{addr: *listen, rootToken: *token, audit: *audit, logger: newLogger(*level)}
	if (*certFile == "") != (*keyFile == "") {
		return errors.New("-tls-cert and -tls-key go together")
	}
	if *certFile != "" {
		cert, err := tls.LoadX509KeyPair(*certFile, *keyFile)
		if err != nil {
			return err
		}
		v.cert = &cert
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := v.up(); err != nil {
		return err
	}
	err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"addr": v.url(), "root_token": *token, "unseal_key_hex": v.keyHex(), "startup_ms": time.Since(start).Milliseconds(),
	})
	if err != nil {
		return err
	}
	if *attached {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			signals <- syscall.SIGTERM
		}()
	}
	return v.obey(signals)
}

// checkLoopback keeps a Vault with a well-known root token off the network.
func checkLoopback(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("-listen: write it like 127.0.0.1:8200: %v", err)
	}
	if !ap.Addr().IsLoopback() {
		return fmt.Errorf("-listen: %s is not a loopback address", ap.Addr())
	}
	return nil
}
