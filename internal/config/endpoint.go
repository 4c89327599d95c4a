package config

import (
	"net/url"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

// checkEndpoint is for the URL that records are copied to; it may be empty. It never repeats the URL as a
// whole: there may be a password in it.
func checkEndpoint(s string, wrong wrongFunc) {
	const hint = "write it like https://otel-collector.example.com:4318/v1/logs"
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		wrong("the endpoint is not an absolute URL", hint)
		return
	case u.Scheme != "https" && u.Scheme != "http":
		wrong(strictyaml.Quote(u.Scheme)+" is neither https nor http", hint)
		return
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		wrong("a user, a query or a fragment has no place in the endpoint", "a token goes into audit.otlp.token_file")
		return
	}
	if _, err := policy.ParseURL(s + "/"); err != nil {
		wrong(err.Error(), hint)
		return
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		wrong("http would send the records in clear", "write https://"+u.Host+u.EscapedPath())
	}
}
