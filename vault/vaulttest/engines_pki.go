package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// PKI says what a PKI role issues.
type PKI struct {
	// TTL is how long the certificates live.
	TTL time.Duration

	// Lease gives them a lease (generate_lease of the role).
	Lease bool

	// ServerOnly makes certificates that are not for clients.
	ServerOnly bool
}

// An authority signs certificates: an intermediate one below a root.
type authority struct {
	root, cert *x509.Certificate
	key        *ecdsa.PrivateKey
}

// AddPKI makes an authority of its own for the paths <mount>/issue/<role> and <mount>/sign/<role>,
// and returns the root's certificate in PEM. Of the data, common_name and csr count.
func (s *Server) AddPKI(mount, role string, p PKI) (rootPEM []byte, err error) {
	ca, err := newAuthority(s.now())
	if err != nil {
		return nil, fmt.Errorf("vaulttest: %w", err)
	}
	for _, verb := range []string{"issue", "sign"} {
		path := mount + "/" + verb + "/" + role
		s.addEngine(path, func(operation, token string, body map[string]any) answer {
			if operation != "update" {
				return refuse(http.StatusMethodNotAllowed, "unsupported operation")
			}
			data, err := ca.issue(p, s.now(), verb == "sign", body)
			if err != nil {
				return refuse(http.StatusBadRequest, err.Error())
			}
			if !p.Lease {
				return ok(data, nil)
			}
			return s.leased(ok(data, nil), path, p.TTL, token)
		})
	}
	return pemOf("CERTIFICATE", ca.root.Raw), nil
}

func newAuthority(now time.Time) (*authority, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root, err := sign(template("stand-in root"), nil, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	cert, err := sign(template("stand-in intermediate"), root, key.Public(), rootKey)
	return &authority{root, cert, key}, err
}

func (ca *authority) issue(p PKI, now time.Time, fromCSR bool, body map[string]any) (map[string]any, error) {
	name, _ := body["common_name"].(string)
	data := map[string]any{}
	var public crypto.PublicKey
	if fromCSR {
		text, _ := body["csr"].(string)
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("csr is missing")
		}
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || csr.CheckSignature() != nil {
			return nil, fmt.Errorf("csr is malformed")
		}
		public, name = csr.PublicKey, csr.Subject.CommonName
	} else {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		public = key.Public()
		data["private_key"], data["private_key_type"] = string(pemOf("EC PRIVATE KEY", der)), "ec"
	}
	if name == "" {
		return nil, fmt.Errorf("the common_name field is required")
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-30 * time.Second), NotAfter: now.Add(p.TTL),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if !p.ServerOnly {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	leaf, err := sign(template, ca.cert, public, ca.key)
	if err != nil {
		return nil, err
	}
	issuer := string(pemOf("CERTIFICATE", ca.cert.Raw))
	data["certificate"], data["issuing_ca"] = string(pemOf("CERTIFICATE", leaf.Raw)), issuer
	data["ca_chain"] = []string{issuer, string(pemOf("CERTIFICATE", ca.root.Raw))}
	data["serial_number"], data["expiration"] = leaf.SerialNumber.String(), leaf.NotAfter.Unix()
	return data, nil
}

// sign makes a certificate; without a parent it is its own.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int { return new(big.Int).SetBytes([]byte(rand.Text())[:16]) }

// pemOf returns PEM as Vault writes it: without a newline at the end.
func pemOf(kind string, der []byte) []byte {
	encoded := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return encoded[:len(encoded)-1]
}
