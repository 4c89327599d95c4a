package proxy

import (
	"context"
	"crypto/sha1" // RFC 6455 section 4.2.2 asks for it; nothing is secured by it
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
)

// validUpgrade reports whether resp accepts the WebSocket that r asks for (RFC 6455 section 4.1).
// Anything else that calls itself 101 would leave the agent with a raw, authenticated connection.
func validUpgrade(r *http.Request, resp *http.Response) bool {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") &&
		len(resp.Header["Sec-Websocket-Extensions"]) == 0 && // none was offered
		resp.Header.Get("Sec-Websocket-Accept") == base64.StdEncoding.EncodeToString(sum[:])
}

// errCredentialExpired ends a WebSocket. It is a code of the trail.
var errCredentialExpired = errors.New("credential_expired")

// tunnelWebSocket takes the agent's connection over and copies frames both ways until either
// side ends, ctx does, or the credential expires that it began with: the upstream looked at that
// once, and would not again.
func (ex *exchange) tunnelWebSocket(ctx context.Context, resp *http.Response) *refusal {
	upstream, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return &refusal{status: http.StatusBadGateway, reason: "upstream_protocol", route: ex.rec.Route}
	}
	defer upstream.Close()
	client, rw, err := http.NewResponseController(ex.w).Hijack()
	if err != nil {
		return &refusal{status: http.StatusInternalServerError, reason: "internal", route: ex.rec.Route}
	}
	defer client.Close()
	defer ex.s.upgraded.add(client)()
	defer ex.s.upgraded.add(upstream)()
	ex.pass.upgrade()
	ex.stopTimer()
	if ex.iss != nil && !ex.route.Outlive {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, ex.iss.ExpiresAt, errCredentialExpired)
		defer stop()
	}
	defer context.AfterFunc(ctx, func() {
		upstream.Close()
		client.Close()
	})()

	h := ex.w.Header()
	clear(h)
	if ex.maskHead(resp) != nil {
		ex.recordOutcome(resp.StatusCode, errUnrecorded.Error())
		return nil
	}
	ex.copyResponseHeader(resp.Header)
	delete(h, "Date")
	delete(h, "Content-Type")
	delete(h, "Content-Length")
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(rw)
	io.WriteString(rw, "\r\n")
	if rw.Flush() != nil {
		ex.recordOutcome(resp.StatusCode, errAgentGone.Error())
		return nil
	}

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n, _ := io.Copy(upstream, rw.Reader)
		ex.body.n.Add(n)
		upstream.Close()
	}()
	var frames io.Reader = upstream
	if ex.secrets != nil {
		frames = newFrameScanner(ex, "websocket", upstream, webSocketHeader) // not compressed: the extension was not offered
	}
	code := ""
	ex.sent, err = io.Copy(idleGuard{client, ex.s.cfg.stallTimeout()}, frames)
	if errors.Is(err, errReflected) {
		code = errReflected.Error()
	} else if cause := endedBy(ctx); cause != nil && cause != errAgentGone { // as most end
		code = cause.Error()
	}
	client.Close()
	upstream.Close()
	<-ended
	ex.recordOutcome(resp.StatusCode, code)
	return nil
}
