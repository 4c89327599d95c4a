package custody

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sidekey/sidekey/audit"
)

// maxVaultLine bounds a line of Vault's log, in bytes. A request to Vault has at most 32 MiB.
const maxVaultLine = 64 << 20

// outOfOrder is by how much a line of one file may be older than the line before it.
const outOfOrder = time.Second

// hashedPrefix is what the hash of a value begins with.
const hashedPrefix = "hmac-sha256:"

// correlationHeader is in lower case, as Vault's log has it.
const correlationHeader = "x-correlation-id"

// A line is what is read of one line of Vault's log.
type line struct {
	Time    time.Time    `json:"time"`
	Type    string       `json:"type"`
	Error   string       `json:"error"`
	Auth    lineAuth     `json:"auth"`
	Request *lineRequest `json:"request"`

	Response *struct {
		Auth   *lineAuth       `json:"auth"`
		Data   json.RawMessage `json:"data"`
		Secret struct {
			LeaseID string `json:"lease_id"`
		} `json:"secret"`
	} `json:"response"`
}

type lineAuth struct {
	ClientToken string            `json:"client_token"`
	Accessor    string            `json:"accessor"`
	DisplayName string            `json:"display_name"`
	EntityID    string            `json:"entity_id"`
	Metadata    map[string]string `json:"metadata"`
}

type lineRequest struct {
	ID                  string              `json:"id"`
	Operation           string              `json:"operation"`
	Path                string              `json:"path"`
	ClientToken         string              `json:"client_token"`
	ClientTokenAccessor string              `json:"client_token_accessor"`
	Headers             map[string][]string `json:"headers"`
	MountPoint          string              `json:"mount_point"`
	RemoteAddress       string              `json:"remote_address"`
	RemotePort          int                 `json:"remote_port"`
	Namespace           struct {
		ID   string `json:"id"`
		Path string `json:"path"`
	} `json:"namespace"`
}

// A vaultLog is the union of the files of Vault's log.
type vaultLog struct {
	find   func(Finding)
	inputs []Input
	pairs  []*pair // in the order in which they were read, then by time
	byID   map[string]*pair
	words  interner
	metas  map[string]map[string]string // by how they read

	tokens    map[string]string // by accessor
	accessors map[string]string // by token

	hashed   int // entries whose correlation id is hashed
	nameless int // entries without an id
}

func newVaultLog(find func(Finding)) *vaultLog {
	return &vaultLog{find: find, byID: map[string]*pair{}, words: interner{}, metas: map[string]map[string]string{}, tokens: map[string]string{}, accessors: map[string]string{}}
}

// A logFile is a file of Vault's log while it is read.
type logFile struct {
	name   string
	index  int
	line   int
	newest time.Time
}

// read adds one file.
func (v *vaultLog) read(f audit.File) error {
	in := bufio.NewReaderSize(f, 256<<10)
	file := &logFile{name: f.Name, index: len(v.inputs)}
	v.inputs = append(v.inputs, Input{Name: f.Name})
	var buf []byte
	for {
		text, whole, err := nextLine(in, buf[:0], maxVaultLine)
		buf = text
		if err == io.EOF && len(text) == 0 {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read %s: %w", f.Name, err)
		}
		file.line++
		v.line(file, text, whole)
	}
}

var errLongLine = errors.New("a line is too long")

// nextLine appends the next line without its newline to buf. Whole says that it had one.
func nextLine(in *bufio.Reader, buf []byte, limit int) (text []byte, whole bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(buf)+len(part) > limit {
			return buf, false, errLongLine
		}
		buf = append(buf, part...)
		switch {
		case err == nil:
			return buf[:len(buf)-1], true, nil
		case err != bufio.ErrBufferFull:
			return buf, false, err
		}
	}
}

func (v *vaultLog) broken(file *logFile, at time.Time, what, hint string) {
	v.find(Finding{Code: VaultLogBroken, Time: at.UTC(), Where: place(file.name, file.line), What: what, Hint: hint})
}

// line adds one line of a file.
func (v *vaultLog) line(file *logFile, text []byte, whole bool) {
	if len(bytes.TrimSpace(text)) == 0 && whole {
		return
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil || l.Request == nil || l.Time.IsZero() || l.Type != "request" && l.Type != "response" {
		what, hint := "A line of Vault's log is not an entry of an audit log.", "give the file of a file audit device in JSON, without what a log shipper puts around the lines"
		if !whole {
			what, hint = "Vault's log ends in a part of a line.", "if Vault was writing it, read the file again; else the rest was lost or cut off"
		}
		v.broken(file, time.Time{}, what, hint)
		return
	}
	l.Time = l.Time.UTC()
	v.inputs[file.index].saw(l.Time)
	if late := file.newest.Sub(l.Time); late > outOfOrder {
		v.broken(file, l.Time, fmt.Sprintf("Vault's log is out of order: an entry is %s older than the line before it.", late.Round(time.Millisecond)),
			"lines were moved or their times edited, unless Vault's clock was set back")
	}
	file.newest = l.Time
	h := v.half(file, &l)
	if odd := v.odd(h); odd != "" {
		v.broken(file, l.Time, fmt.Sprintf("An entry of Vault's log contradicts others: %s.", odd), "it was edited, or the ones before were")
	}
	v.add(file, h)
}

// half takes what is used of a line.
func (v *vaultLog) half(file *logFile, l *line) *half {
	w, r := v.words.word, l.Request
	h := &half{
		at: l.Time, file: file.index, name: file.name, line: file.line, id: r.ID, response: l.Type == "response", error: w(l.Error),
		said: said{
			Path: w(r.Path), Operation: w(r.Operation), Namespace: w(r.Namespace.ID + " " + r.Namespace.Path), Mount: w(r.MountPoint),
			Address: w(r.RemoteAddress), Port: r.RemotePort, Headers: w(flat(r.Headers)),
			Token: w(r.ClientToken), Accessor: w(r.ClientTokenAccessor),
			Caller: v.caller(&l.Auth),
		},
	}
	h.metadata = v.metadata(h.Caller.Metadata, l.Auth.Metadata)
	if values := r.Headers[correlationHeader]; len(values) > 0 {
		h.corr = values[0]
		if strings.HasPrefix(h.corr, hashedPrefix) {
			v.hashed++
			h.corr = ""
		}
	}
	if l.Response != nil {
		h.lease = l.Response.Secret.LeaseID
		h.refused = bytes.HasPrefix(l.Response.Data, []byte("{")) && bytes.Contains(l.Response.Data, []byte(`"error":`))
		if a := l.Response.Auth; a != nil {
			h.issued = keys(v.words, "", *a)
			h.given = v.caller(a)
		}
	}
	return h
}

func (v *vaultLog) caller(a *lineAuth) caller {
	w := v.words.word
	return caller{Token: w(a.ClientToken), Accessor: w(a.Accessor), Name: w(a.DisplayName), Entity: w(a.EntityID), Metadata: w(flat(a.Metadata))}
}

// metadata returns one copy of m, which reads as text.
func (v *vaultLog) metadata(text string, m map[string]string) map[string]string {
	if text == "" {
		return nil
	}
	if v.metas[text] == nil {
		v.metas[text] = m
	}
	return v.metas[text]
}

// flat writes a map as one comparable string.
func flat[V any](m map[string]V) string {
	if len(m) == 0 {
		return ""
	}
	b, err := json.Marshal(m) // in the order of the keys
	if err != nil {
		return ""
	}
	return string(b)
}
