// Package inject puts a credential on a request.
//
// An [Injector] is made once from the policy and knows where on a request its credential goes
// (its [Carrier]); it never learns which credential, route or host it works for. The proxy
// removes whatever the agent put into that place before it injects, and checks afterwards that
// the credential stands there exactly once.
package inject

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/net/http/httpguts"

	"github.com/sidekey/sidekey/credential"
)

// ErrNotRenderable means that an issuance holds bytes that cannot stand where the injector puts
// them: a line break in a header, a colon in a user name, a private key that is not the
// certificate's. Nothing was put on the request.
var ErrNotRenderable = errors.New("credential cannot be rendered")

// An Injector puts issuances on requests.
type Injector interface {
	// Inject sets the credential on req, an outbound request that carries nothing yet in the
	// injector's carrier. It must not keep req or iss. The error wraps [ErrNotRenderable], holds
	// no secret, and leaves req unchanged. Inject is safe for concurrent use on distinct requests.
	Inject(req *http.Request, iss *credential.Issuance) error

	// Carrier says which place on a request the injector owns.
	Carrier() Carrier
}

// A Carrier is a place on a request that carries a credential: a header or a query parameter.
// Exactly one field is set, and none for a client certificate.
type Carrier struct {
	Header string // canonical header name
	Query  string // decoded query key
}

// Bearer returns an injector that writes "Authorization: Bearer <value>" (RFC 6750 section 2.1).
func Bearer() Injector { return header{name: "Authorization", prefix: "Bearer "} }

// Header returns an injector that writes "<name>: <prefix><value>".
func Header(name, prefix string) Injector {
	return header{name: http.CanonicalHeaderKey(name), prefix: prefix}
}

// Copies returns what in makes known to an upstream of iss: the value and, for basic
// authentication, the user that goes with it. It is for whoever has to recognise them when they
// come back, and owns them then. Both are nil for a client certificate: nothing of it is sent but
// what is public.
func Copies(in Injector, iss *credential.Issuance) (value, user []byte) {
	if _, ok := in.(CertificateBearer); ok {
		return nil, nil
	}
	value, user = append(value, iss.Value.Expose()...), append(user, iss.User.Expose()...)
	if b, ok := in.(basic); ok && b.user != "" {
		user = []byte(b.user)
	}
	return value, user
}

type header struct{ name, prefix string }

func (h header) Carrier() Carrier { return Carrier{Header: h.name} }

func (h header) Inject(req *http.Request, iss *credential.Issuance) error {
	v := h.prefix + string(iss.Value.Expose())
	if !httpguts.ValidHeaderFieldValue(v) {
		return fmt.Errorf("value of header %s: %w", h.name, ErrNotRenderable)
	}
	req.Header[h.name] = []string{v}
	return nil
}

// Basic returns an injector that writes "Authorization: Basic ..." (RFC 7617 section 2) with the
// issuance's value as the password. An empty user means the issuance's own user.
func Basic(user string) Injector { return basic{user} }

type basic struct{ user string }

func (basic) Carrier() Carrier { return Carrier{Header: "Authorization"} }

func (b basic) Inject(req *http.Request, iss *credential.Issuance) error {
	user := []byte(b.user)
	if len(user) == 0 {
		user = iss.User.Expose()
	}
	// RFC 7617 section 2: a colon in the user name would move the border to the password, and
	// neither part may contain control characters.
	for _, c := range user {
		if c == ':' || c < 0x20 || c == 0x7f {
			return fmt.Errorf("user name of basic authentication: %w", ErrNotRenderable)
		}
	}
	for _, c := range iss.Value.Expose() {
		if c < 0x20 || c == 0x7f {
			return fmt.Errorf("password of basic authentication: %w", ErrNotRenderable)
		}
	}
	pair := append(append(append([]byte{}, user...), ':'), iss.Value.Expose()...)
	req.Header["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString(pair)}
	clear(pair)
	return nil
}

// Query returns an injector that appends "<name>=<value>" to the query. The bytes of the query
// that are there already stay as they are.
func Query(name string) Injector { return query{name} }

type query struct{ name string }

func (q query) Carrier() Carrier { return Carrier{Query: q.name} }

func (q query) Inject(req *http.Request, iss *credential.Issuance) error {
	pair := url.QueryEscape(q.name) + "=" + url.QueryEscape(string(iss.Value.Expose()))
	u := *req.URL
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += pair
	req.URL = &u
	return nil
}
