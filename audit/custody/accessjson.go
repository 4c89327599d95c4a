package custody

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// jsonKeys are by field where to look for it, the first that is there; a dot goes into an object.
type jsonKeys map[string][]string

// defaultKeys are those of nginx, Caddy, Traefik, Envoy, the Elastic Common Schema and OpenTelemetry.
var defaultKeys = jsonKeys{
	"time":       {"time", "timestamp", "@timestamp", "ts", "time_iso8601", "time_local", "start_time", "StartUTC", "msec"},
	"method":     {"method", "request_method", "request.method", "http.request.method", "RequestMethod"},
	"path":       {"path", "request_uri", "uri", "url", "request.uri", "url.path", "http.target", "RequestPath"},
	"request":    {"request"},
	"status":     {"status", "status_code", "response_code", "response.status", "http.response.status_code", "DownstreamStatus"},
	"request_id": {"http_x_request_id", "x_request_id", "x-request-id", "request.headers.x-request-id", "headers.x-request-id", "http.request.id", "request_X-Request-Id", "request_id"},
	"user_agent": {"user_agent", "http_user_agent", "user-agent", "request.headers.user-agent", "headers.user-agent", "user_agent.original", "request_User-Agent"},
	"remote":     {"remote_addr", "remote_ip", "request.remote_ip", "client_ip", "client.address", "source.ip", "downstream_remote_address", "ClientHost"},
}

// accessKeys returns the default keys with those of own in place of the ones of their fields.
func accessKeys(own map[string]string) (jsonKeys, error) {
	keys := jsonKeys{}
	for field, list := range defaultKeys {
		keys[field] = list
	}
	for field, key := range own {
		if defaultKeys[field] == nil {
			return nil, fmt.Errorf("%q is no field of an access log: it is time, method, path, request, status, request_id, user_agent or remote", field)
		}
		keys[field] = []string{key}
	}
	return keys, nil
}

// CheckAccessKeys says what is wrong with [Config.AccessKeys].
func CheckAccessKeys(own map[string]string) error {
	_, err := accessKeys(own)
	return err
}

// parse reads a line of [AccessJSON].
func (k jsonKeys) parse(text []byte) (f accessFields, ok bool) {
	var object map[string]any
	if json.Unmarshal(text, &object) != nil {
		return f, false
	}
	word := func(field string) string {
		switch v := k.find(object, field).(type) {
		case string:
			return v
		case float64:
			return strconv.FormatFloat(v, 'f', -1, 64)
		}
		return ""
	}
	f.method, f.path = word("method"), word("path")
	if f.method == "" || f.path == "" {
		f.method, f.path = requestLine(word("request"))
	}
	f.remote, f.agent, f.request = word("remote"), word("user_agent"), word("request_id")
	f.status, _ = strconv.Atoi(word("status"))
	f.time, ok = timeOf(k.find(object, "time"))
	return f, ok
}

// find returns the value of a field; of a list its first.
func (k jsonKeys) find(object map[string]any, field string) any {
	for _, key := range k[field] {
		v := lookUp(object, key)
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		if v != nil {
			return v
		}
	}
	return nil
}

// lookUp finds a key whatever its case, and behind a dot in the object of what stands before it.
func lookUp(object map[string]any, key string) any {
	if v, ok := object[key]; ok {
		return v
	}
	for name, v := range object {
		if strings.EqualFold(name, key) {
			return v
		}
	}
	for i := range len(key) {
		if key[i] != '.' {
			continue
		}
		if inner, ok := lookUp(object, key[:i]).(map[string]any); ok {
			if v := lookUp(inner, key[i+1:]); v != nil {
				return v
			}
		}
	}
	return nil
}

// timeOf reads a time: text, or seconds, milliseconds, microseconds or nanoseconds since 1970.
func timeOf(v any) (time.Time, bool) {
	switch v := v.(type) {
	case string:
		for _, layout := range []string{time.RFC3339Nano, nginxTime, "2006-01-02T15:04:05.999999999-0700", "2006-01-02 15:04:05.999999999Z07:00"} {
			if at, err := time.Parse(layout, v); err == nil {
				return at, true
			}
		}
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return timeOf(n)
		}
	case float64:
		i := slices.IndexFunc([]float64{1e11, 1e14, 1e17, math.Inf(1)}, func(limit float64) bool { return v < limit })
		if v > 0 && i >= 0 {
			seconds, part := math.Modf(v / math.Pow10(3*i))
			return time.Unix(int64(seconds), int64(part*1e9)), true
		}
	}
	return time.Time{}, false
}
