package proxy

import (
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// The fields in which an upstream's own log can name a use.
const (
	requestIDField = "X-Request-Id"
	userAgentField = "User-Agent"
)

// product is Sidekey's name in a User-Agent (RFC 9110 section 10.1.5). An id is behind it.
const product = "sidekey/"

// correlate puts the id on out under which the trail has this use: the agent's own, if it is one that
// no log can take for anything else, or a fresh one that says nothing. The agent's User-Agent stays in
// front of it; what could be read beside either field does not go on.
func (ex *exchange) correlate(out *http.Request) *refusal {
	if ex.route == nil || !ex.route.Correlate {
		return nil
	}
	agents := out.Header[userAgentField]
	agent := strings.Join(agents, " ")
	if len(agents) > 1 || strings.Contains(strings.ToLower(agent), product) {
		return &refusal{
			status: http.StatusBadRequest, reason: "bad_request", route: ex.rec.Route,
			detail: "send one User-Agent at most, without " + product + " in it; on this route Sidekey adds that",
		}
	}
	own := out.Header[requestIDField]
	if len(own) != 1 || !validRequestID(own[0]) {
		fresh, err := uuid.NewV7()
		if err != nil {
			return &refusal{status: http.StatusInternalServerError, reason: "internal", route: ex.rec.Route}
		}
		own = []string{fresh.String()}
	}
	for name := range out.Header {
		if f := folded(name); f == requestIDField || f == userAgentField {
			delete(out.Header, name)
		}
	}
	ex.rec.RequestID = own[0]
	out.Header[requestIDField] = []string{own[0]}
	out.Header[userAgentField] = []string{strings.TrimLeft(agent+" "+product+own[0], " ")}
	return nil
}

// correlated returns nil if out still has the id of this use, and no other, when all else stands on it.
func (ex *exchange) correlated(out *http.Request) error {
	if ex.rec.RequestID == "" {
		return nil
	}
	ids, agents := 0, 0
	for name, values := range out.Header {
		switch folded(name) {
		case requestIDField:
			ids += len(values)
		case userAgentField:
			agents += len(values)
		}
	}
	if ids != 1 || agents != 1 || out.Header.Get(requestIDField) != ex.rec.RequestID || !strings.HasSuffix(out.Header.Get(userAgentField), product+ex.rec.RequestID) {
		return errors.New("it would take the place of the request's id")
	}
	return nil
}

// validRequestID reports whether s is taken from an agent as the id of its request: 8 to 128 letters,
// digits, "-", ".", "_" and "~", all of which a product's version may have, too.
func validRequestID(s string) bool {
	if len(s) < 8 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
			return false
		}
	}
	return true
}
