package audit

import (
	"bytes"
	"math"
	"strconv"
	"time"
)

// appendFields appends r as encoding/json would write it, but for the event: its strings made safe to
// show, in printable ASCII, its times in UTC. Each request does this twice, and reflection would
// take half of the time that the trail takes. It changes nothing that the caller of Append owns.
func (e *encoder) appendFields(dst []byte, r *Record) ([]byte, error) {
	e.failed = nil
	dst = append(dst, '{')
	dst = e.text(dst, `,"conn":`, r.Conn)
	dst = e.text(dst, `,"entrance":`, r.Entrance)
	dst = e.text(dst, `,"method":`, r.Method)
	dst = e.text(dst, `,"scheme":`, r.Scheme)
	dst = e.text(dst, `,"host":`, r.Host)
	dst = number(dst, `,"port":`, int64(r.Port))
	dst = e.text(dst, `,"path":`, r.Path)
	dst = e.text(dst, `,"path_hmac":`, r.PathHMAC)
	dst = e.text(dst, `,"path_sent":`, r.PathSent)
	dst = e.text(dst, `,"request_id":`, r.RequestID)
	dst = e.text(dst, `,"route":`, r.Route)
	dst = e.text(dst, `,"credential":`, r.Credential)
	dst = e.text(dst, `,"issuance":`, r.Issuance)
	dst = e.text(dst, `,"reason":`, r.Reason)
	dst = e.text(dst, `,"would_deny":`, r.WouldDeny)
	if r.Intent != 0 {
		dst = strconv.AppendUint(append(dst, `,"intent":`...), r.Intent, 10)
	}
	dst = number(dst, `,"status":`, int64(r.Status))
	dst = number(dst, `,"bytes_in":`, r.BytesIn)
	dst = number(dst, `,"bytes_out":`, r.BytesOut)
	dst = e.decimal(dst, `,"duration_ms":`, r.DurationMS)
	dst = number(dst, `,"attempts":`, int64(r.Attempts))
	dst = e.text(dst, `,"error":`, r.Error)
	dst = e.text(dst, `,"protocol":`, r.Protocol)
	if r.Source != nil {
		dst = e.source(append(dst, `,"source":`...), r.Source)
	}
	dst = e.text(dst, `,"fingerprint":`, r.Fingerprint)
	dst = e.time(dst, `,"issued_at":`, r.IssuedAt)
	dst = e.time(dst, `,"expires_at":`, r.ExpiresAt)
	dst = e.text(dst, `,"by":`, r.By)
	if len(r.Unrevoked) > 0 {
		dst = e.value(append(dst, `,"unrevoked":`...), visibleList(r.Unrevoked))
	}
	dst = e.text(dst, `,"detail":`, r.Detail)
	dst = e.text(dst, `,"version":`, r.Version)
	dst = e.text(dst, `,"ca":`, r.CA)
	dst = e.text(dst, `,"signing_key":`, r.SigningKey)
	dst = e.text(dst, `,"signature":`, r.Signature)
	dst = e.text(dst, `,"prompt_sha256":`, r.PromptSHA256)
	return closeObject(dst), e.failed
}

func (e *encoder) source(dst []byte, s *Source) []byte {
	start := len(dst)
	dst = append(dst, '{')
	dst = e.text(dst, `,"kind":`, s.Kind)
	dst = e.text(dst, `,"path":`, s.Path)
	dst = e.text(dst, `,"request_id":`, s.RequestID)
	dst = e.text(dst, `,"correlation_id":`, s.CorrelationID)
	dst = e.text(dst, `,"lease_id":`, s.LeaseID)
	dst = number(dst, `,"version":`, int64(s.Version))
	return append(dst[:start], closeObject(dst[start:])...)
}

// closeObject ends the object that b is, and takes the comma before its first member away.
func closeObject(b []byte) []byte {
	if len(b) > 1 {
		b = append(b[:1], b[2:]...)
	}
	return append(b, '}')
}

// text appends a member that is left out if it is empty.
func (e *encoder) text(dst []byte, name, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(dst, name...)
	if len(s) > maxString || !plain(s) {
		return e.value(dst, visible(s))
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// plain reports whether s stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if !plainByte[s[i]] {
			return false
		}
	}
	return true
}

var plainByte = func() (table [256]bool) {
	for c := ' '; c <= '~'; c++ {
		table[c] = c != '"' && c != '\\'
	}
	return table
}()

func number(dst []byte, name string, n int64) []byte {
	if n == 0 {
		return dst
	}
	return strconv.AppendInt(append(dst, name...), n, 10)
}

// decimal leaves to encoding/json what has an exponent or no form. What has at most three decimals, as
// a time in ms mostly has, is written as the integer that it is a thousandth of.
func (e *encoder) decimal(dst []byte, name string, f float64) []byte {
	if f == 0 {
		return dst
	}
	dst = append(dst, name...)
	if n := int64(f*1000 + 0.5); f > 0 && f < 1e9 && float64(n)/1000 == f {
		return thousandths(dst, n)
	}
	if abs := math.Abs(f); !(abs >= 1e-6 && abs < 1e21) {
		return e.value(dst, f)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

// thousandths appends n/1000 without zeros at its end.
func thousandths(dst []byte, n int64) []byte {
	dst = strconv.AppendInt(dst, n/1000, 10)
	if n %= 1000; n == 0 {
		return dst
	}
	dst = append(dst, '.', byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
	return bytes.TrimRight(dst, "0")
}

func (e *encoder) time(dst []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	return e.value(append(dst, name...), t.UTC())
}

// value appends v by way of encoding/json.
func (e *encoder) value(dst []byte, v any) []byte {
	b, err := e.encode(v)
	if err != nil && e.failed == nil {
		e.failed = err
	}
	return append(dst, b...)
}
