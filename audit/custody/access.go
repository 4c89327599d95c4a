package custody

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sidekey/sidekey/audit"
)

// The formats of access logs.
const (
	// AccessNginx is nginx's combined format, followed by the request id in quotes:
	//
	//	log_format sidekey '$remote_addr - $remote_user [$time_local] "$request" $status '
	//	                   '$body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_request_id"';
	//
	// Without the last field only the User-Agent can name a use. Values have to be escaped, as they are
	// unless log_format says escape=none: then who chooses a value can write what follows it, too.
	AccessNginx = "nginx"

	// AccessJSON is one JSON object a line; see [Config.AccessKeys].
	AccessJSON = "json"
)

// maxAccessLine bounds a line of an access log, in bytes.
const maxAccessLine = 1 << 20

// An access is a line of an access log.
type access struct {
	Access
	file  int
	id    string // of the request; "" if it names none
	token bool   // the id stands in a product token of ours in the User-Agent, which agents cannot forge
}

// An accessLog is what access logs have of requests that have an id.
type accessLog struct {
	parse  func(text []byte) (accessFields, bool)
	inputs []Input
	lines  []*access
	bad    int // lines that cannot be read
	badAt  string
	words  interner
}

// accessFields is what is read of one line.
type accessFields struct {
	time                                 time.Time
	method, path, remote, agent, request string // request is the request's id
	status                               int
}

func newAccessLog(cfg Config) (*accessLog, error) {
	a := &accessLog{words: interner{}}
	switch cfg.AccessFormat {
	case "", AccessNginx:
		a.parse = parseNginx
	case AccessJSON:
		keys, err := accessKeys(cfg.AccessKeys)
		if err != nil {
			return nil, err
		}
		a.parse = keys.parse
	default:
		return nil, fmt.Errorf("%q is no format of access logs: it is %s or %s", cfg.AccessFormat, AccessNginx, AccessJSON)
	}
	return a, nil
}

// read adds one file.
func (a *accessLog) read(f audit.File) error {
	in := bufio.NewReaderSize(f, 256<<10)
	a.inputs = append(a.inputs, Input{Name: f.Name})
	var buf []byte
	for n := 1; ; n++ {
		text, _, err := nextLine(in, buf[:0], maxAccessLine)
		buf = text
		if err == io.EOF && len(text) == 0 {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read %s: %w", f.Name, err)
		}
		a.line(text, len(a.inputs)-1, n)
	}
}

func (a *accessLog) line(text []byte, file, n int) {
	in := &a.inputs[file]
	f, ok := a.parse(text)
	if !ok || f.time.IsZero() {
		if a.bad++; a.bad == 1 {
			a.badAt = place(in.Name, n)
		}
		return
	}
	in.saw(f.time)
	l := &access{file: file, id: productOf(f.agent)}
	if l.token = l.id != ""; !l.token {
		l.id = f.request
	}
	if l.id == "" || l.id == "-" {
		return
	}
	l.Access = Access{
		Time: f.time.UTC(), Method: a.words.word(f.method), Path: a.words.word(pathOf(f.path)), Status: f.status,
		Remote: a.words.word(f.remote), Where: place(in.Name, n),
	}
	a.lines = append(a.lines, l)
}

// productOf returns the id that the product token of ours in a User-Agent carries (RFC 9110 section
// 10.1.5); "" if there is none.
func productOf(agent string) string {
	for word := range strings.FieldsSeq(agent) {
		id, ok := strings.CutPrefix(word, "sidekey/")
		if ok && len(id) >= 8 && len(id) <= 128 {
			return id
		}
	}
	return ""
}

// pathOf cuts a request target down to its path.
func pathOf(target string) string {
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		target = "/"
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			target = rest[i:]
		}
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// nginxTime is how $time_local reads.
const nginxTime = "02/Jan/2006:15:04:05 -0700"

// parseNginx reads a line of [AccessNginx]. Who asks chooses the user's name, in which nginx escapes quotes
// and backslashes, but neither spaces nor brackets. So the first quote is the one that opens the request,
// and the time is what stands in brackets right before it: whatever looks like a time, or like the
// beginning of one, further left is a part of the name.
func parseNginx(text []byte) (f accessFields, ok bool) {
	s := string(text)
	f.remote, s, _ = strings.Cut(s, " ")
	_, s, ok = strings.Cut(s, " [")
	if !ok {
		return f, false
	}
	head, s := untilQuote(s)
	if i := strings.LastIndex(head, " ["); i >= 0 {
		head = head[i+len(" ["):]
	}
	at, ok := strings.CutSuffix(head, "] ")
	if !ok {
		return f, false
	}
	var err error
	if f.time, err = time.Parse(nginxTime, at); err != nil {
		return f, false
	}
	request, s := untilQuote(s)
	f.method, f.path = requestLine(request)
	if _, err := fmt.Sscanf(s, "%d", &f.status); err != nil {
		return f, false
	}
	var quotes []string
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			break
		}
		var q string
		q, s = untilQuote(s[i+1:])
		quotes = append(quotes, q)
	}
	if len(quotes) > 1 {
		f.agent = quotes[1]
	}
	if len(quotes) > 2 {
		f.request = quotes[2]
	}
	return f, true
}

// untilQuote returns what stands before the next quote that is not escaped, and what follows it.
func untilQuote(s string) (quoted, rest string) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// requestLine takes the method and the target of "GET /path HTTP/1.1".
func requestLine(s string) (method, target string) {
	words := strings.Fields(s)
	if len(words) < 2 {
		return "", ""
	}
	return words[0], words[1]
}
