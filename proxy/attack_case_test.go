package proxy_test

import (
	"bufio"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// An attack is one case of the gallery. testdata/attacks holds them as txtar archives, one or two
// for each category of the catalogue. The name of a section is the id of its case: the catalogue's
// number and a letter. Its text is lines of the form "key: value", then perhaps a block:
//
//	try:      what is tried
//	via:      the entrances: listener, connect, tunnel-h1, tunnel-h2; "all" is all but connect
//	want:     what each request is answered, comma-separated:
//	          "403 REASON"         a refusal, and one request.denied
//	          "502 REASON sent"    a refusal after the intent was recorded
//	          "200"                the upstream's answer; intent and outcome
//	          "200 CODE broken"    an answer that breaks off; intent, and outcome with that error
//	          "400 REASON refused" net/http's own answer; connection.refused
//	          "unparsable"         net/http's own answer to a request that it cannot read: in HTTP/1.1
//	                               "400 not_http refused", in HTTP/2 "reset unrecorded"
//	          "reset * broken"     a request that breaks off when it is under way: intent, and an
//	                               outcome with some error
//	          "closed REASON", "reset REASON", "handshake REASON"   no answer; connection.refused
//	          "403 REASON unrecorded", "400 unrecorded", "reset unrecorded"  an answer without a record
//	conn:     "open" (a valid request that follows must work) or "closed", afterwards
//	hangup:   not empty if the agent hangs up when it has sent what it sends
//	tunnel:   the CONNECT authority; sni: the SNI, "none" for none; tls: "none" for plaintext
//	arrives:  the request lines that the upstream gets; that of "request:" is checked without
//	keeps:    headers that have to arrive; absent: those that must not
//	also:     further records; shows and lacks: text that has to reach the agent, or must not;
//	          trail-lacks: text not recorded
//	rig:      a proxy of the case's own, in a state: see rigs; resolve, dns, allow: its addresses
//	bug:      what the proxy does wrong; the case is skipped
//
// Without conn, the connection has to be open after an answer of Sidekey's or an upstream's that
// was not cut off, and closed after anything else.
//
// The block is one of "raw:", the bytes on the wire; "request:", a request line without version,
// header lines and perhaps a body, which is put in the form that the entrance needs; and "h2:",
// frames (see frames); after "silence:" the agent hangs up without a word. Lines end with CR LF, or with nothing where a backslash ends the line; see
// expand for escapes and names. Before it, "each:" may list rows: the case is run for each, with
// $EACH standing for the row, in which "  &  " begins a new line. What a raw upstream answers is in the section "ID answer".
type attack struct {
	id      string
	keys    map[string]string // but for those that follow
	via     []string
	wants   []want
	kind    string // of payload: "request", "raw", "h2" or "silence"; "" for none
	payload string
	row     string // of the "each" block
	answer  string // what the raw upstream sends for each request; "" for its usual answer
}

// A want is what is expected of one request, or of one connection.
type want struct {
	status  int    // 0: none
	outcome string // "", "closed", "reset" or "handshake"
	reason  string // Sidekey-Refusal, or the error of the outcome, or the reason of the refused connection
	kind    string // "denied", "sent", "broken", "refused" or "unrecorded"

	unparsable bool // otherwise in HTTP/2
}

// at returns the wants as they are for one entrance.
func (a attack) at(via string) attack {
	a.wants = slices.Clone(a.wants)
	for i, w := range a.wants {
		if w.unparsable && via == "tunnel-h2" {
			a.wants[i] = want{outcome: "reset", kind: "unrecorded"}
		}
	}
	return a
}

func (w want) sent() bool { return w.kind == "sent" || w.kind == "broken" }

// answered reports whether the agent gets a refusal of Sidekey's.
func (w want) refusal() string {
	if w.kind == "denied" || w.kind == "sent" || w.kind == "unrecorded" {
		return w.reason
	}
	return ""
}

// records are the labels (see label) of the records that w leaves.
func (w want) records() []string {
	switch w.kind {
	case "denied":
		return []string{"request.denied " + w.reason}
	case "refused":
		return []string{"connection.refused " + w.reason}
	case "sent", "broken":
		if w.reason == "*" { // it depends on who notices first
			return []string{"request.intent", "request.outcome *"}
		}
		return []string{"request.intent", strings.TrimSpace("request.outcome " + w.reason)}
	}
	return nil
}

func parseWant(s string) (w want, err error) {
	words := strings.Fields(s)
	if len(words) == 0 {
		return w, fmt.Errorf("empty want")
	}
	if s = strings.TrimSpace(s); s == "unparsable" {
		return want{status: 400, reason: "not_http", kind: "refused", unparsable: true}, nil
	}
	if w.status, err = strconv.Atoi(words[0]); err != nil {
		w.outcome, w.kind, err = words[0], "refused", nil
		if !slices.Contains([]string{"closed", "reset", "handshake"}, w.outcome) || len(words) > 3 {
			return w, fmt.Errorf("want %q is not understood", s)
		}
		if len(words) == 3 {
			w.kind, words = words[2], words[:2]
		}
		w.reason = strings.Join(words[1:], "")
		if w.reason == "unrecorded" {
			w.kind, w.reason = "unrecorded", ""
		}
		return w, nil
	}
	switch {
	case len(words) == 1:
		w.kind = "sent"
	case len(words) == 2 && words[1] == "unrecorded":
		w.kind = "unrecorded"
	case len(words) == 2:
		w.kind, w.reason = "denied", words[1]
	case len(words) == 3 && slices.Contains([]string{"sent", "broken", "refused", "unrecorded"}, words[2]):
		w.kind, w.reason = words[2], words[1]
	default:
		return w, fmt.Errorf("want %q is not understood", s)
	}
	return w, nil
}

var attackKeys = []string{
	"absent", "allow", "also", "arrives", "bug", "conn", "dns", "hangup", "keeps", "lacks", "max-tls", "never", "resolve", "rig",
	"shows", "sni", "tls", "trail-lacks", "try", "tunnel", "via", "want",
}

var allEntrances = []string{"listener", "tunnel-h1", "tunnel-h2"}

// readAttacks reads one file of the gallery.
func readAttacks(t *testing.T, file string) (out []attack) {
	t.Helper()
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{}
	for _, f := range ar.Files {
		if id, ok := strings.CutSuffix(f.Name, " answer"); ok {
			answers[id] = string(f.Data)
		}
	}
	for _, f := range ar.Files {
		if strings.HasSuffix(f.Name, " answer") {
			continue
		}
		cases, err := parseAttack(f.Name, string(f.Data))
		if err != nil {
			t.Fatalf("%s: %s: %v", filepath.Base(file), f.Name, err)
		}
		for i := range cases {
			cases[i].answer = strings.ReplaceAll(answers[f.Name], "$EACH", cases[i].row)
		}
		delete(answers, f.Name)
		out = append(out, cases...)
	}
	for id := range answers {
		t.Fatalf("%s: an answer to no case: %s", filepath.Base(file), id)
	}
	return out
}

// parseAttack parses one section of a file: one case, or one for each row of its "each" block.
func parseAttack(id, text string) ([]attack, error) {
	a := attack{id: id, keys: map[string]string{}}
	sc, rest := bufio.NewScanner(strings.NewReader(text)), text
	var each []string
	inEach := false
lines:
	for sc.Scan() {
		line := sc.Text()
		rest = rest[min(len(line)+1, len(rest)):]
		switch line {
		case "request:", "raw:", "h2:", "silence:":
			a.kind, a.payload = strings.TrimSuffix(line, ":"), rest
			break lines
		case "each:":
			inEach = true
			continue
		}
		if inEach {
			each = append(each, line)
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		switch {
		case line == "":
			continue
		case !ok || !slices.Contains(attackKeys, key):
			return nil, fmt.Errorf("line %q is not understood", line)
		case a.keys[key] != "":
			return nil, fmt.Errorf("%s is there twice", key)
		}
		a.keys[key] = strings.TrimSpace(value)
	}
	a.via = strings.Fields(strings.ReplaceAll(a.keys["via"], "all", strings.Join(allEntrances, " ")))
	if a.keys["try"] == "" || len(a.via) == 0 {
		return nil, fmt.Errorf("try or via is missing")
	}
	if !inEach {
		each = []string{""}
	}
	return a.expandEach(each, inEach)
}

// expandEach makes a case of each row. A row may end in "  => WANT" where that differs.
func (a attack) expandEach(rows []string, numbered bool) (out []attack, err error) {
	for i, row := range rows {
		if row == "" && numbered {
			continue
		}
		c := a
		value, wants, ok := strings.Cut(row, "  => ")
		if !ok {
			wants = a.keys["want"]
		}
		for w := range strings.SplitSeq(strings.ReplaceAll(wants, "$EACH", value), ",") {
			parsed, err := parseWant(w)
			if err != nil {
				return nil, err
			}
			c.wants = append(c.wants, parsed)
		}
		if numbered {
			c.id = fmt.Sprintf("%s.%d", a.id, i+1)
		}
		value = strings.ReplaceAll(value, "  &  ", "\n")
		c.row = value
		c.payload = strings.ReplaceAll(a.payload, "$EACH", value)
		c.keys = map[string]string{}
		for k, v := range a.keys {
			c.keys[k] = strings.ReplaceAll(v, "$EACH", value)
		}
		out = append(out, c)
	}
	return out, nil
}

// The format is only worth something if a mistake in it is found.
func TestAttackFormat(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"try: x\nvia: all\nwant: 400 bad_request\nrequest:\nGET /\n", ""},
		{"try: x\nvia: all\nwant: closed not_tls\nraw:\nGET /\n", ""},
		{"try: x\nvia: all\nwhat: 400 bad_request\n", `line "what: 400 bad_request" is not understood`},
		{"try: x\nvia: all\nwant: gone\n", `want "gone" is not understood`},
		{"try: x\nvia: all\nwant: 400 a b\n", `want "400 a b" is not understood`},
		{"via: all\nwant: 400 bad_request\n", "try or via is missing"},
		{"try: x\ntry: y\n", "try is there twice"},
		{"try: x\nvia: all\n", "empty want"},
	} {
		_, err := parseAttack("x", tt.text)
		if got := fmt.Sprint(err); err == nil && tt.want != "" || err != nil && got != tt.want {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
		}
	}
	got := string(expand(`a\x00\\$rep(3,x$V)\r\n`, vars{"V": "y"}))
	if want := "a\x00\\xyxyxy\r\n"; got != want {
		t.Errorf("expand: got %q, want %q", got, want)
	}
	if got := string(wireLines("a\nb\\\nc\n")); got != "a\r\nbc\r\n" {
		t.Errorf("wireLines: got %q", got)
	}
}

// attackFiles are the files of the gallery, by name without extension.
func attackFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "attacks", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no attacks: %v, %v", files, err)
	}
	return files
}
