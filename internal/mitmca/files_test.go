package mitmca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sidekey/sidekey/internal/mitmca"
)

func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	ca, other := newCA(t, mitmca.Config{}), newCA(t, mitmca.Config{})
	roots := other.CertificatePEM()
	for range 2 { // the second time over the first
		if err := ca.WriteFiles(dir, roots); err != nil {
			t.Fatal(err)
		}
	}
	cert := read(t, filepath.Join(dir, "ca.crt"))
	if block, rest := pem.Decode(cert); block == nil || !bytes.Equal(block.Bytes, ca.Certificate().Raw) || len(rest) > 0 {
		t.Errorf("ca.crt is not the CA's certificate:\n%s", cert)
	}
	if got, want := read(t, filepath.Join(dir, "bundle.crt")), string(roots)+"\n"+string(cert); string(got) != want {
		t.Errorf("bundle.crt is\n%s\nwant\n%s", got, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%d files in the directory (%v), want 2", len(entries), err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Mode() != 0o644 {
			t.Errorf("%s has mode %v (%v), want 0644", e.Name(), fi.Mode(), err)
		}
	}
}

func TestWriteFilesWithoutRoots(t *testing.T) {
	dir := t.TempDir()
	ca := newCA(t, mitmca.Config{})
	if err := ca.WriteFiles(dir, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "bundle.crt")); !bytes.Equal(got, ca.CertificatePEM()) {
		t.Errorf("bundle.crt is\n%s", got)
	}
}

func TestWriteFilesRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ca := newCA(t, mitmca.Config{})
	for _, dir := range []string{file, file + "-missing", ""} {
		if err := ca.WriteFiles(dir, nil); err == nil {
			t.Errorf("WriteFiles(%q): no error", dir)
		}
	}
}

// A link that somebody left in the directory is replaced and not followed.
func TestWriteFilesFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if err := newCA(t, mitmca.Config{}).WriteFiles(dir, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, victim); string(got) != "precious" {
		t.Errorf("the link's target was overwritten: %q", got)
	}
}

// A name that cannot be replaced leaves no temporary file behind.
func TestWriteFilesCleansUp(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "ca.crt", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := newCA(t, mitmca.Config{}).WriteFiles(dir, nil); err == nil {
		t.Error("WriteFiles over a directory: no error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d entries left (%v), want 1", len(entries), err)
	}
}

func TestNoKeyInFiles(t *testing.T) {
	dir := t.TempDir()
	ca := newCA(t, mitmca.Config{})
	if err := ca.WriteFiles(dir, nil); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, name := range []string{"ca.crt", "bundle.crt"} {
		data := read(t, filepath.Join(dir, name))
		all = append(all, data...)
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			all = append(all, block.Bytes...)
		}
	}
	for _, key := range ca.Keys() {
		if bytes.Contains(all, scalar(t, key)) {
			t.Error("a private key is in a file")
		}
	}
	if bytes.Contains(all, []byte("PRIVATE")) || !bytes.Contains(all, ca.Certificate().Raw) {
		t.Error("a file holds a PRIVATE block, or no certificate was looked at")
	}
}

func scalar(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadersSeeWholeFiles(t *testing.T) {
	dir := t.TempDir()
	roots := bytes.Repeat(newCA(t, mitmca.Config{}).CertificatePEM(), 200)
	whole := map[string]bool{}
	cas := []*mitmca.CA{newCA(t, mitmca.Config{}), newCA(t, mitmca.Config{})}
	for _, ca := range cas {
		whole[string(roots)+"\n"+string(ca.CertificatePEM())] = true
	}
	if err := cas[0].WriteFiles(dir, roots); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			b, err := os.ReadFile(filepath.Join(dir, "bundle.crt"))
			if err != nil || !whole[string(b)] {
				t.Errorf("read %d bytes that nobody wrote (%v)", len(b), err)
				return
			}
		}
	})
	for i := range 200 {
		if err := cas[i%2].WriteFiles(dir, roots); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestSystemRoots(t *testing.T) {
	dir := t.TempDir()
	cert := newCA(t, mitmca.Config{}).CertificatePEM()
	mixed := filepath.Join(dir, "mixed.pem")
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("k3y")})
	write(t, mixed, append([]byte("# a comment\n"), append(key, cert...)...))
	write(t, filepath.Join(dir, "none.pem"), key)
	env := func(value string) func(string) string {
		return func(name string) string {
			if name != "SSL_CERT_FILE" {
				t.Errorf("asked for %s", name)
			}
			return value
		}
	}
	roots, path, err := mitmca.SystemRoots(env(mixed))
	if err != nil || path != mixed || !bytes.Equal(roots, cert) {
		t.Errorf("SystemRoots = %q, %s, %v; want the certificate alone", roots, path, err)
	}
	for _, file := range []string{"none.pem", "missing.pem"} {
		file = filepath.Join(dir, file)
		if _, _, err := mitmca.SystemRoots(env(file)); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("SystemRoots with %s: %v, want an error that names it", file, err)
		}
	}
}

func TestFindRoots(t *testing.T) {
	dir := t.TempDir()
	cert := newCA(t, mitmca.Config{}).CertificatePEM()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	write(t, b, cert)
	write(t, c, []byte("nothing"))
	if roots, path, err := mitmca.FindRoots([]string{a, b, c}); err != nil || path != b || !bytes.Equal(roots, cert) {
		t.Errorf("found %q at %s (%v), want the second place", roots, path, err)
	}
	if _, _, err := mitmca.FindRoots([]string{a, a + "2"}); err == nil || !strings.Contains(err.Error(), a+", "+a+"2") {
		t.Errorf("found none: %v, want the places looked at", err)
	}
	if _, _, err := mitmca.FindRoots([]string{c, b}); err == nil || !strings.Contains(err.Error(), c) {
		t.Errorf("a file without certificates: %v, want an error that names it", err)
	}
}

// Another implementation must read the constraints as crypto/x509 does.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	check := func(ca *mitmca.CA, c *x509.Certificate) (string, error) {
		dir := t.TempDir()
		root, leaf := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "leaf.pem")
		write(t, root, ca.CertificatePEM())
		write(t, leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root, leaf).CombinedOutput()
		return string(out), err
	}
	for _, tt := range thefts(t) {
		ca := newCA(t, mitmca.Config{PermitIPs: tt.permit})
		// What x509_strict asks of any leaf is not what is looked at here.
		out, err := check(ca, stolen(t, ca, func(c *x509.Certificate) { tt.change(c); c.Subject.CommonName = "thief.test" }))
		if (err == nil) != tt.good || !tt.good && !strings.Contains(out, "subtree violation") {
			t.Errorf("%s: %v, want good %t\n%s", tt.name, err, tt.good, out)
		}
	}
	ca := newCA(t, mitmca.Config{PermitIPs: addrs("192.0.2.7")})
	for _, host := range []string{"api.test", "192.0.2.7", strings.Repeat("a23456789.", 10) + "test"} {
		if out, err := check(ca, leaf(t, ca, host)); err != nil {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
}

func TestCertificatePEM(t *testing.T) {
	ca := newCA(t, mitmca.Config{})
	got := string(ca.CertificatePEM())
	if body := base64.StdEncoding.EncodeToString(ca.Certificate().Raw); !strings.HasSuffix(got, "-----END CERTIFICATE-----\n") ||
		!strings.Contains(strings.ReplaceAll(got, "\n", ""), body) {
		t.Errorf("not one PEM block with a newline:\n%s", got)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
