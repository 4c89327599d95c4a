package vault

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
)

// draftKey makes a private key and the request that Vault signs a certificate for it. The names
// of data stand in the request, too, because a role may take them from there alone.
func draftKey(data map[string]any) (draft, error) {
	k := call{what: "make a private key"}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return draft{}, k.unavailable("no randomness")
	}
	request, err := certificateRequest(data)
	if err != nil {
		return draft{}, k.refused("%v", err)
	}
	csr, err1 := x509.CreateCertificateRequest(rand.Reader, request, key)
	der, err2 := x509.MarshalPKCS8PrivateKey(key)
	if errors.Join(err1, err2) != nil {
		return draft{}, k.refused("the names of data do not fit into a certificate signing request")
	}
	defer clear(der)
	body := signingBody(data)
	body["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	return draft{body: body, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, nil
}

// signingBody returns data as Vault reads it: its alt_names are a text with commas, where ip_sans and
// uri_sans are lists.
func signingBody(data map[string]any) map[string]any {
	body := map[string]any{}
	maps.Copy(body, data)
	if names, ok := body["alt_names"].([]string); ok {
		body["alt_names"] = strings.Join(names, ",")
	}
	return body
}

func certificateRequest(data map[string]any) (*x509.CertificateRequest, error) {
	r := &x509.CertificateRequest{}
	if cn, ok := data["common_name"].(string); ok {
		r.Subject = pkix.Name{CommonName: cn}
	}
	for _, name := range list(data["alt_names"]) {
		if strings.Contains(name, "@") {
			r.EmailAddresses = append(r.EmailAddresses, name)
		} else {
			r.DNSNames = append(r.DNSNames, name)
		}
	}
	for _, s := range list(data["ip_sans"]) {
		ip := net.ParseIP(s)
		if ip == nil {
			return nil, errors.New("ip_sans holds what is no IP address")
		}
		r.IPAddresses = append(r.IPAddresses, ip)
	}
	for _, s := range list(data["uri_sans"]) {
		u, err := url.Parse(s)
		if err != nil {
			return nil, errors.New("uri_sans holds what is no URI")
		}
		r.URIs = append(r.URIs, u)
	}
	return r, nil
}

// list reads a list as Vault does: a list of texts, or a text with commas.
func list(v any) (items []string) {
	switch v := v.(type) {
	case []string:
		items = v
	case string:
		items = strings.Split(v, ",")
	}
	trimmed := make([]string, 0, len(items))
	for _, s := range items {
		if s = strings.TrimSpace(s); s != "" {
			trimmed = append(trimmed, s)
		}
	}
	return trimmed
}

// grantCertificate reads a client certificate: the private key is the value.
func grantCertificate(k call, d draft, a answer, fields map[string]json.RawMessage) (grant, error) {
	key := d.key
	if key == nil {
		var text string
		if json.Unmarshal(fields["private_key"], &text) != nil || text == "" {
			return grant{}, k.refused("there is no field %q that is a text, only %s", "private_key", names(fields))
		}
		key = []byte(strings.TrimSpace(text) + "\n")
	}
	certs, err := k.chain(fields)
	if err != nil {
		return grant{}, err
	}
	leaf := certs[0]
	var chain []byte
	for _, c := range certs {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil { // err may quote the key's field
		return grant{}, k.refused("the private key is no PEM key of the certificate")
	}
	if len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return grant{}, k.refused("the certificate is not for clients (client_flag of the role)")
	}
	return grant{value: key, chain: chain, ends: a.here(leaf.NotAfter)}, nil
}

// chain returns the certificate and those that lead to its root, without the root: who does not
// have it does not trust it either.
func (k call) chain(fields map[string]json.RawMessage) ([]*x509.Certificate, error) {
	var leaf, issuer string
	var rest []string
	if json.Unmarshal(fields["certificate"], &leaf) != nil {
		return nil, k.refused("there is no field %q that is a text, only %s", "certificate", names(fields))
	}
	if json.Unmarshal(fields["ca_chain"], &rest) != nil || len(rest) == 0 {
		_ = json.Unmarshal(fields["issuing_ca"], &issuer) // it may be left out
		rest = []string{issuer}
	}
	var chain []*x509.Certificate
	for _, text := range append([]string{leaf}, rest...) {
		for block, left := pem.Decode([]byte(text)); block != nil; block, left = pem.Decode(left) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, k.refused("a certificate of the chain is malformed")
			}
			if !slices.ContainsFunc(chain, c.Equal) && (len(chain) == 0 || !selfSigned(c)) {
				chain = append(chain, c)
			}
		}
		if len(chain) == 0 {
			return nil, k.refused("field %q holds no PEM certificate", "certificate")
		}
	}
	return chain, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}
