package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// The paths of the admin socket.
const (
	adminStatus = "/status"
	adminEnd    = "/session/end"
	adminKill   = "/kill"
	adminResume = "/resume"
)

// adminHandler answers on the admin socket. Every answer is a JSON object; that of a failure has a
// member error.
func (sc *sidecar) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+adminStatus, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, sc.status()) })
	act := func(path string, do func(who, why string) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			who, ok := r.Context().Value(peerKey{}).(peer)
			if !ok { // no listener hands out such a connection
				answerJSON(w, http.StatusForbidden, adminError{"nobody knows who asks"})
				return
			}
			why, err := readReason(w, r)
			if err != nil {
				answerJSON(w, http.StatusBadRequest, adminError{err.Error()})
				return
			}
			answer, err := do(who.String(), why)
			if err != nil {
				answerJSON(w, http.StatusConflict, adminError{err.Error()})
				return
			}
			answerJSON(w, http.StatusOK, answer)
		})
	}
	act(adminEnd, sc.adminEnd)
	act(adminKill, func(who, why string) (any, error) {
		sc.kill.engage(bySocket, who, why)
		return sc.status(), nil
	})
	act(adminResume, func(who, why string) (any, error) {
		if err := sc.kill.release(bySocket, who, why); err != nil {
			return nil, err
		}
		return sc.status(), nil
	})
	return mux
}

// adminEnd ends the session, though a client that gives up waiting does not stop that.
func (sc *sidecar) adminEnd(who, why string) (any, error) {
	sc.log.Warn().Str("who", who).Msg("the session is ended over the admin socket; its credentials are revoked")
	if _, first := sc.end(endAdmin, who, why); !first {
		return nil, errors.New("the session has ended already")
	}
	return sc.status(), nil
}

type adminError struct {
	Error string `json:"error"`
}

// readReason reads the body of a POST: nothing, or {"reason": "..."}, which is recorded.
func readReason(w http.ResponseWriter, r *http.Request) (string, error) {
	const most = 4 << 10
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	dec.DisallowUnknownFields()
	var body struct {
		Reason string `json:"reason"`
	}
	err := dec.Decode(&body)
	if errors.Is(err, io.EOF) {
		return "", nil
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return body.Reason, nil
		}
	}
	return "", errors.New(`the body must be empty or {"reason": "..."}`)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v)
}

// serveAdmin serves until ctx ends.
func (sc *sidecar) serveAdmin(ctx context.Context) error {
	srv := boundedServer(sc.adminHandler())
	srv.ConnContext = withPeer
	return serveUntil(ctx, srv, sc.admin)
}
