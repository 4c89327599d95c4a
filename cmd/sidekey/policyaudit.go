package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/policy"
)

// maxRecord bounds a line of a log, as package audit does.
const maxRecord = 1 << 20

// A pastRequest is a request that a log has.
type pastRequest struct {
	policy.Seen
	where string // "audit.jsonl:12"
	role  string
	sha   string // of the policy that decided
}

// pastTraffic is what a log says of requests.
type pastTraffic struct {
	requests []pastRequest
	sources  map[string]policy.From // of credentials, as far as it is known
}

// An intentKey names an intent; sessions may appear again, with other records.
type intentKey struct {
	session string
	seq     uint64
}

// readTraffic reads the audit logs that arguments name; - is standard input.
func readTraffic(cmd *cobra.Command, files []string) (*pastTraffic, error) {
	t := &pastTraffic{sources: map[string]policy.From{}}
	for _, file := range files {
		in, err := openInput(cmd, file)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		name := file
		if file == "-" {
			name = "stdin"
		}
		if err := t.read(name, in); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// read adds the requests of one log. A last line that was cut is left out: its process died while it
// wrote.
func (t *pastTraffic) read(name string, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxRecord)
	intents := map[intentKey]int{}
	var broken error
	for n := 1; lines.Scan(); n++ {
		if broken != nil {
			return broken
		}
		where := fmt.Sprintf("%s:%d", name, n)
		var e audit.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Seq == 0 || e.Event == "" {
			broken = fmt.Errorf("%s is not a record of an audit log\n\thint: name the file that the config has under audit, one JSON object a line", where)
			if n == 1 {
				return broken
			}
			continue
		}
		t.add(where, &e, intents)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %v", name, err)
	}
	return nil
}

func (t *pastTraffic) add(where string, e *audit.Entry, intents map[intentKey]int) {
	switch e.Event {
	case audit.CredentialIssued:
		if e.Source == nil {
			return
		}
		switch e.Source.Kind {
		case "vault":
			t.sources[e.Credential] = policy.From{Vault: &policy.VaultFrom{Path: e.Source.Path}}
		case "file":
			t.sources[e.Credential] = policy.From{File: &policy.FileFrom{Path: e.Source.Path}}
		}
	case audit.RequestIntent:
		intents[intentKey{e.Session.ID, e.Seq}] = len(t.requests)
		t.requests = append(t.requests, pastOf(where, e))
	case audit.RequestDenied:
		r := pastOf(where, e)
		r.Denied = policy.Reason(e.Reason)
		r.WebSocket = r.Denied == policy.WebSocketNotAllowed
		if slices.Contains(policy.Reasons(), r.Denied) {
			t.requests = append(t.requests, r)
		}
	case audit.RequestOutcome:
		if i, ok := intents[intentKey{e.Session.ID, e.Intent}]; ok && e.Status == http.StatusSwitchingProtocols {
			t.requests[i].WebSocket = true
		}
	}
}

// pastOf returns the request of an intent or a denial. A record that names a route has the pattern of
// it for a path, and the path itself only if the route says so.
func pastOf(where string, e *audit.Entry) pastRequest {
	r := pastRequest{where: where, role: e.Session.Role, sha: e.Policy.SHA256, Seen: policy.Seen{
		Time: e.Time, Method: e.Method, Scheme: e.Scheme, Host: e.Host, Port: e.Port, Path: e.Path, Pattern: e.Route != "" && e.Path != "", Sent: e.PathSent,
		Route: e.Route, Credential: e.Credential,
	}}
	if slices.Contains(policy.Reasons(), policy.Reason(e.WouldDeny)) { // and not a limit, which decides nothing
		r.Denied, r.LetThrough = policy.Reason(e.WouldDeny), true
		r.WebSocket = r.Denied == policy.WebSocketNotAllowed
	}
	return r
}

// only keeps the requests of one role. Without one, there must be no more than one in the log.
func (t *pastTraffic) only(role string) (string, error) {
	roles := map[string]bool{}
	for _, r := range t.requests {
		roles[r.role] = true
	}
	names := slices.Sorted(maps.Keys(roles))
	switch {
	case role == "" && len(names) > 1:
		return "", fmt.Errorf("the log has requests of several roles: %s\n\thint: choose one with --role", strings.Join(names, ", "))
	case role == "" && len(names) == 1:
		return names[0], nil
	case role != "" && len(names) > 0 && !roles[role]:
		return "", fmt.Errorf("the log has no request of role %s, but of %s", role, strings.Join(names, ", "))
	}
	t.requests = slices.DeleteFunc(t.requests, func(r pastRequest) bool { return r.role != role })
	return role, nil
}
