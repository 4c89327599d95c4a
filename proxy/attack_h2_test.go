package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2Agent speaks HTTP/2 in a tunnel, as badly as a case wants it.
type h2Agent struct {
	*h1Agent
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	stream  uint32 // the last one
	answers map[uint32]*answer
	ended   map[uint32]bool
	seen    strings.Builder // what the header blocks say
	gone    bool
}

func newH2Agent(c *h1Agent) *h2Agent {
	h := &h2Agent{h1Agent: c, answers: map[uint32]*answer{}, ended: map[uint32]bool{}}
	h.stream--
	h.framer = http2.NewFramer(c.conn, c.br)
	h.framer.AllowIllegalWrites = true
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.encoder = hpack.NewEncoder(&h.block)
	io.WriteString(c.conn, http2.ClientPreface)
	h.framer.WriteSettings()
	return h
}

func (h *h2Agent) send(a attack) (out []answer) {
	if a.kind == "request" {
		h.request(parseRequest(a, h.g.vars))
	} else {
		h.frames(wireless(a.payload), h.g.vars)
	}
	for i := range a.wants {
		out = append(out, h.wait(uint32(2*i+1)))
	}
	return out
}

// wireless drops the empty lines at the end of a block.
func wireless(s string) string { return strings.TrimRight(s, "\n") }

func (h *h2Agent) request(r plainRequest) {
	fields := [][2]string{{":method", r.method}, {":scheme", "https"}, {":authority", h.host}, {":path", r.target}}
	for _, f := range r.fields {
		fields = append(fields, [2]string{strings.ToLower(f[0]), f[1]})
	}
	if r.body != "" {
		fields = append(fields, [2]string{"content-length", strconv.Itoa(len(r.body))})
	}
	h.stream += 2
	h.headers(h.stream, fields, r.body == "", true)
	if r.body != "" {
		h.framer.WriteData(h.stream, true, []byte(r.body))
	}
}

func (h *h2Agent) headers(stream uint32, fields [][2]string, end, whole bool) {
	h.block.Reset()
	for _, f := range fields {
		h.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	rest := bytes.Clone(h.block.Bytes())
	first := rest[:min(len(rest), 16<<10)]
	rest = rest[len(first):]
	h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: whole && len(rest) == 0})
	for len(rest) > 0 {
		piece := rest[:min(len(rest), 16<<10)]
		rest = rest[len(piece):]
		h.framer.WriteContinuation(stream, whole && len(rest) == 0, piece)
	}
}

// frames writes the frames of an "h2:" block. A line that begins with one of the words below is a
// frame; the lines "name: value" after HEADERS, TRAILERS and CONTINUATION are its fields. *N after
// the word repeats the frame.
//
//	HEADERS [end] [open]   of a new stream; end: END_STREAM, open: no END_HEADERS
//	TRAILERS               HEADERS with END_STREAM on the same stream
//	CONTINUATION [open]    on the same stream
//	DATA [end] TEXT
//	RST | PING | PRIORITY | WINDOW N | SETTINGS ID=VALUE | RAW BYTES
func (h *h2Agent) frames(block string, v vars) {
	lines := strings.Split(block, "\n")
	for i := 0; i < len(lines); {
		word, rest, _ := strings.Cut(lines[i], " ")
		word, count, _ := strings.Cut(word, "*")
		times, err := strconv.Atoi(count)
		if err != nil {
			times = 1
		}
		i++
		var fields [][2]string
		for ; i < len(lines) && strings.Contains(lines[i], ":") && (word == "HEADERS" || word == "TRAILERS" || word == "CONTINUATION"); i++ {
			colon := strings.Index(lines[i][1:], ":") + 1
			value := strings.TrimPrefix(lines[i][colon+1:], " ")
			fields = append(fields, [2]string{string(expand(lines[i][:colon], v)), string(expand(value, v))})
		}
		for range times {
			if err := h.frame(word, rest, fields, v); err != nil {
				return // the proxy has had enough
			}
		}
	}
}

func (h *h2Agent) frame(word, rest string, fields [][2]string, v vars) error {
	end, open := strings.Contains(rest, "end"), strings.Contains(rest, "open")
	switch word {
	case "HEADERS":
		h.stream += 2
		h.headers(h.stream, fields, end, !open)
	case "TRAILERS":
		h.headers(h.stream, fields, true, true)
	case "CONTINUATION":
		h.block.Reset()
		for _, f := range fields {
			h.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		return h.framer.WriteContinuation(h.stream, !open, h.block.Bytes())
	case "DATA":
		text, last := strings.CutPrefix(rest, "end")
		return h.framer.WriteData(h.stream, last, expand(strings.TrimPrefix(text, " "), v))
	case "RST":
		return h.framer.WriteRSTStream(h.stream, http2.ErrCodeCancel)
	case "PING":
		return h.framer.WritePing(false, [8]byte{})
	case "PRIORITY":
		return h.framer.WritePriority(h.stream, http2.PriorityParam{})
	case "WINDOW":
		n, _ := strconv.ParseUint(rest, 10, 32)
		return h.framer.WriteWindowUpdate(0, uint32(n))
	case "SETTINGS":
		id, value, _ := strings.Cut(rest, "=")
		n, _ := strconv.ParseUint(id, 10, 16)
		val, _ := strconv.ParseUint(value, 10, 32)
		return h.framer.WriteSettings(http2.Setting{ID: http2.SettingID(n), Val: uint32(val)})
	case "RAW":
		_, err := h.conn.Write(expand(rest, v))
		return err
	default:
		panic("no such frame: " + word)
	}
	return nil
}

// wait reads frames until the stream has its answer.
func (h *h2Agent) wait(stream uint32) answer {
	for !h.ended[stream] && !h.gone {
		f, err := h.framer.ReadFrame()
		if err != nil {
			if _, ok := err.(http2.StreamError); ok {
				continue
			}
			h.gone = true
			break
		}
		h.take(f)
	}
	if a := h.answers[stream]; a != nil {
		if !h.ended[stream] {
			a.broken = true
		}
		return *a
	}
	return answer{outcome: "closed"}
}

func (h *h2Agent) take(f http2.Frame) {
	id := f.Header().StreamID
	a := h.answers[id]
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		for _, field := range f.Fields {
			fmt.Fprintf(&h.seen, "%s: %s\n", field.Name, field.Value)
		}
		if status, err := strconv.Atoi(f.PseudoValue("status")); err == nil {
			a = &answer{status: status, header: http.Header{}}
			for _, field := range f.RegularFields() {
				a.header.Add(field.Name, field.Value)
			}
			h.answers[id] = a
		}
		h.ended[id] = f.StreamEnded()
	case *http2.DataFrame:
		h.ended[id] = f.StreamEnded()
		if a != nil {
			a.body += string(f.Data())
		}
		h.framer.WriteWindowUpdate(0, max(1, f.Length))
		h.framer.WriteWindowUpdate(id, max(1, f.Length))
	case *http2.RSTStreamFrame:
		switch {
		case a == nil:
			h.answers[id] = &answer{outcome: "reset"}
		case !h.ended[id]:
			a.broken = true
		}
		h.ended[id] = true
	case *http2.SettingsFrame:
		if !f.IsAck() {
			h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			h.framer.WritePing(true, f.Data)
		}
	}
}

func (h *h2Agent) ask(r plainRequest) answer {
	h.request(r)
	return h.wait(h.stream)
}

func (h *h2Agent) follow() answer { return h.ask(plainRequest{method: "GET", target: "/v1/followup"}) }

func (h *h2Agent) closed() bool {
	for !h.gone {
		if _, err := h.framer.ReadFrame(); err != nil {
			if _, ok := err.(http2.StreamError); !ok {
				h.gone = true
			}
		}
	}
	return h.h1Agent.closed()
}

func (h *h2Agent) got() string { return h.h1Agent.got() + h.seen.String() }
