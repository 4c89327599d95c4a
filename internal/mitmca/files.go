package mitmca

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WriteFiles writes ca.crt, the CA's certificate, and bundle.crt, systemRoots followed by it,
// into dir, which must exist. systemRoots is PEM, as [SystemRoots] returns it; nil leaves the CA
// alone in the bundle. Both files have mode 0644 and are replaced whole: a reader sees the old
// or the new one. The CA's key is never written.
func (ca *CA) WriteFiles(dir string, systemRoots []byte) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("write the CA's certificate: %v", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("write the CA's certificate: %s is not a directory", dir)
	}
	cert := ca.CertificatePEM()
	bundle := cert
	if len(systemRoots) > 0 {
		bundle = slices.Concat(systemRoots, []byte("\n"), cert)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"ca.crt", cert}, {"bundle.crt", bundle}} {
		if err := replace(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("write the CA's certificate: %v", err)
		}
	}
	return nil
}

// replace puts data at path by way of a temporary file beside it.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".sidekey-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	// After the writing, so that nobody reads half of it; in spite of the umask.
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// bundles is where systems keep their roots in one PEM file.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch, Gentoo, distroless
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",                                 // Alpine, FreeBSD, OpenBSD, macOS
	"/usr/local/etc/ssl/cert.pem",                       // FreeBSD
	"/usr/local/share/certs/ca-root-nss.crt",            // FreeBSD, DragonFly
	"/etc/openssl/certs/ca-certificates.crt",            // NetBSD
	"/var/lib/ca-certificates/ca-bundle.pem",            // openSUSE
}

// SystemRoots returns the certificates that the system trusts, as PEM, and the path of the file
// they were read from. If env("SSL_CERT_FILE") is not empty that file is the only place looked at;
// env is os.Getenv or alike. Only certificates are returned, whatever else the file holds. The
// error names every place that was looked at.
func SystemRoots(env func(string) string) (roots []byte, path string, err error) {
	if file := env("SSL_CERT_FILE"); file != "" {
		roots, err := readRoots(file)
		if err != nil {
			return nil, "", fmt.Errorf("read the roots that SSL_CERT_FILE names: %v", err)
		}
		return roots, file, nil
	}
	return findRoots(bundles)
}

func findRoots(places []string) (roots []byte, path string, err error) {
	for _, place := range places {
		roots, err := readRoots(place)
		if err == nil {
			return roots, place, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, "", fmt.Errorf("read the system's roots: %v", err)
		}
	}
	return nil, "", fmt.Errorf("no file of system roots found, looked at %s", strings.Join(places, ", "))
}

// readRoots returns the certificates in a PEM file. Nothing else is copied, so that a key that
// somebody left in it does not reach the agent.
func readRoots(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			block.Headers = nil
			if err := pem.Encode(&out, block); err != nil {
				return nil, err
			}
		}
	}
	if out.Len() == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return out.Bytes(), nil
}
