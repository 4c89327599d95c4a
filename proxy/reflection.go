package proxy

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/inject"
	"github.com/sidekey/sidekey/redact"
)

// knownSecrets are the values that this process has put on requests and that are still valid:
// what an upstream could hand back to the agent. They are looked for in every answer to a request
// that carries a credential, whichever credential that was.
type knownSecrets struct {
	current atomic.Pointer[secrets]

	mu       sync.Mutex
	patterns map[string]knownSecret // by issuance id
}

// secrets are what answers are searched for. Field names lose their case on the way, so for them
// there is a set in lower case.
type secrets struct{ values, names *redact.Set }

type knownSecret struct {
	redact.Pattern
	expires time.Time
}

// add makes iss known and returns the set that knows it. What had expired a while ago is
// forgotten. short reports, once for an issuance, that its value is too short to be looked for.
func (k *knownSecrets) add(in inject.Injector, iss *credential.Issuance) (found *secrets, short bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.patterns[iss.ID]; ok {
		return k.current.Load(), false
	}
	if k.patterns == nil {
		k.patterns = map[string]knownSecret{}
	}
	const memory = 10 * time.Minute // an upstream may answer with what it was sent a while ago
	var patterns, lower []redact.Pattern
	for id, p := range k.patterns {
		if time.Since(p.expires) > memory {
			clear(p.Value)
			clear(p.User)
			delete(k.patterns, id)
			continue
		}
		patterns = append(patterns, p.Pattern)
	}
	var p redact.Pattern
	p.Value, p.User = inject.Copies(in, iss) // the cache wipes its own when it gives the issuance up
	k.patterns[iss.ID] = knownSecret{p, iss.ExpiresAt}
	patterns = append(patterns, p)
	for _, p := range patterns {
		lower = append(lower, redact.Pattern{Value: bytes.ToLower(p.Value)})
	}
	found = &secrets{}
	found.values, _ = redact.Compile(patterns...)
	found.names, _ = redact.Compile(lower...)
	k.current.Store(found)
	return found, len(p.Value) > 0 && len(p.Value) < redact.MinLen // a client certificate has none that is sent
}

// A reflection looks for known secrets in one answer and counts what it masked.
type reflection struct {
	*secrets
	found int
}

// mask masks a header or trailer field in place. A name that holds a secret goes with its values.
func (f *reflection) mask(h http.Header) {
	for name, values := range h {
		if _, n := f.names.String(strings.ToLower(name)); n > 0 {
			f.found += n
			delete(h, name)
			continue
		}
		for i, v := range values {
			masked, n := f.values.String(v)
			f.found += n
			values[i] = masked
		}
	}
}

// scannable makes resp's body one that can be looked through: gzip is decoded, other codings,
// which would hide a secret from the scanner, are refused. The agent's Accept-Encoding did not go
// upstream, so an honest upstream sends none.
func scannable(resp *http.Response) bool {
	if isGRPC(resp.Header) {
		encoding := resp.Header.Get("Grpc-Encoding") // of the messages in the body
		return encoding == "" || encoding == "identity"
	}
	codings := resp.Header["Content-Encoding"]
	switch coding := strings.ToLower(strings.Join(codings, ",")); coding {
	case "", "identity":
		return true
	case "gzip", "x-gzip":
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		resp.ContentLength = -1
		resp.Body = &gunzip{src: resp.Body}
		return true
	}
	return false
}

var errInflated = errors.New("the body grew too much")

// gunzip decodes a body. It starts when the body is read, since reading the gzip header blocks,
// and gives up on a body that grows beyond all reason.
type gunzip struct {
	src     io.ReadCloser
	counted countingBody
	zr      *gzip.Reader
	out     int64
}

func (g *gunzip) Read(p []byte) (int, error) {
	const ratio, free = 200, 1 << 20
	if g.zr == nil {
		g.counted.rc = g.src
		zr, err := gzip.NewReader(&g.counted)
		if err != nil {
			return 0, err
		}
		g.zr = zr
	}
	n, err := g.zr.Read(p)
	g.out += int64(n)
	if g.out > free+ratio*g.counted.count() {
		return 0, errInflated
	}
	return n, err
}

func (g *gunzip) Close() error { return g.src.Close() }

// recordReflection says in the trail that an upstream handed a secret back. Its error aborts the
// answer: what cannot be recorded does not go on.
func (ex *exchange) recordReflection(where string) error {
	_, err := ex.s.cfg.Trail.Append(audit.Record{
		Event: audit.SecretReflected, Conn: ex.rec.Conn, Host: ex.rec.Host, Port: ex.rec.Port,
		Route: ex.rec.Route, Credential: ex.rec.Credential, Issuance: ex.rec.Issuance, Detail: where,
	})
	if err != nil {
		ex.s.cfg.Log.Error().Err(err).Msg("a reflected secret could not be recorded")
		return errUnrecorded
	}
	return nil
}
