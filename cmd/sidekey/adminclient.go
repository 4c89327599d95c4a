package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// defaultAdmin is where the manifests put the admin socket.
const defaultAdmin = "/run/sidekey/admin.sock"

// An adminClient talks to the sidecar whose admin socket is at path.
type adminClient struct{ path string }

// do makes a request and decodes the answer, which is a status. reason may be empty. The error is
// for people.
func (c adminClient) do(ctx context.Context, method, path, reason string) (sessionStatus, error) {
	var st sessionStatus
	body, err := c.answer(ctx, method, path, reason)
	if err == nil && json.Unmarshal(body, &st) != nil {
		err = fmt.Errorf("what answers at %s is not a sidecar", c.path)
	}
	return st, err
}

// answer returns the body of an answer that is not a failure.
func (c adminClient) answer(ctx context.Context, method, path, reason string) ([]byte, error) {
	const most = 1 << 20
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.path)
		},
	}
	var send io.Reader
	if reason != "" {
		text, err := json.Marshal(map[string]string{"reason": reason})
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sidekey"+path, send)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		var why adminError
		if json.Unmarshal(body, &why) != nil || why.Error == "" {
			return nil, fmt.Errorf("what answers at %s is not a sidecar (status %d)", c.path, resp.StatusCode)
		}
		return nil, errors.New(printable(why.Error))
	}
	return body, nil
}

// unreachable says what an error of the connection means here.
func (c adminClient) unreachable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no sidecar at %s: there is no such socket\n\tset admin in the sidecar's configuration, and say where it is with --admin or SIDEKEY_ADMIN", c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the socket %s is not for this user\n\trun this as the sidecar's user, or as root", c.path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no sidecar at %s: its process has ended", c.path)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the sidecar at %s does not answer", c.path)
	}
	return fmt.Errorf("no answer from the sidecar at %s: %v\n\tit answers its own user and root, and nobody else", c.path, err)
}

// printable returns s with a question mark for whatever a terminal might take for more than text, but
// for line breaks and tabs.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
