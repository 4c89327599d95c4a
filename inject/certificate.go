package inject

import (
	"crypto/tls"
	"fmt"
	"net/http"

	"github.com/sidekey/sidekey/credential"
)

// A CertificateBearer is an [Injector] whose credential is not on the request but in the TLS
// handshake with the upstream.
type CertificateBearer interface {
	// Certificate returns the client certificate that iss is. It is parsed anew at each call and
	// holds the private key: the caller keeps it no longer than iss. The error wraps
	// [ErrNotRenderable] and holds no secret. Certificate is safe for concurrent use.
	Certificate(iss *credential.Issuance) (*tls.Certificate, error)
}

// ClientCertificate returns an injector that leaves requests as they are and is a
// [CertificateBearer]: the issuance's value is the private key of its certificate.
func ClientCertificate() Injector { return clientCertificate{} }

type clientCertificate struct{}

var _ CertificateBearer = clientCertificate{}

func (clientCertificate) Carrier() Carrier { return Carrier{} }

func (clientCertificate) Inject(*http.Request, *credential.Issuance) error { return nil }

func (clientCertificate) Certificate(iss *credential.Issuance) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(iss.Certificate, iss.Value.Expose())
	if err != nil {
		// err may quote what stands where a key should be.
		return nil, fmt.Errorf("client certificate: chain and private key are no pair in PEM: %w", ErrNotRenderable)
	}
	return &pair, nil
}
