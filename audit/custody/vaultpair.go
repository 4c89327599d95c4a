package custody

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A pair is one call as Vault's log has it: the entries of its request and of its response.
type pair struct {
	req, resp *half
	tokens    []string // the keys of the token that called, on every device
	issued    []string // the keys of the token that the call issued
	target    *target  // what it was joined to
	owner     *session // whose it is, if that is known
	also      []twin   // the entries that further files have of it
}

// A twin is an entry that stands in another file, too.
type twin struct {
	file, line int
	response   bool
}

// A half is one line of Vault's log.
type half struct {
	at       time.Time
	file     int
	name     string
	line     int
	id       string
	response bool
	said
	corr     string
	metadata map[string]string
	error    string

	// Of a response only.
	lease   string
	refused bool // its data is an error
	issued  []string
	given   caller // the token that was issued
}

// A said is what both entries of a call state alike.
type said struct {
	Path, Operation, Namespace, Mount, Address string
	Port                                       int
	Headers                                    string
	Token, Accessor                            string // hashed; each device has a key of its own
	Caller                                     caller
}

// A caller is the token that called; the request of a login has none.
type caller struct{ Token, Accessor, Name, Entity, Metadata string }

func (h *half) where() string { return place(h.name, h.line) }

// keys are by what a token is known on one device. The hash of a token that a request carries differs
// from the one under which Vault knows it; the accessor connects the two.
func keys(words interner, carried string, auth lineAuth) []string {
	var all []string
	for _, k := range [...][2]string{{"c", carried}, {"t", auth.ClientToken}, {"a", auth.Accessor}} {
		if k[1] != "" {
			all = append(all, words.word(k[0]+k[1]))
		}
	}
	return all
}

// add adds a line to its pair.
func (v *vaultLog) add(file *logFile, h *half) {
	if h.id == "" {
		v.nameless++
		v.pairs = append(v.pairs, v.hold(new(pair), h))
		return
	}
	p := v.byID[h.id]
	if p == nil {
		p = new(pair)
		v.byID[h.id] = p
		v.pairs = append(v.pairs, p)
	}
	same := p.req
	if h.response {
		same = p.resp
	}
	switch {
	case same != nil && same.file == h.file:
		v.copied(file, h, same.line)
		return
	case same != nil:
		if i := slices.IndexFunc(p.also, func(t twin) bool { return t.file == h.file && t.response == h.response }); i >= 0 {
			v.copied(file, h, p.also[i].line)
			return
		}
		p.also = append(p.also, twin{h.file, h.line, h.response})
		v.compare(same, h)
	case !h.response && p.resp != nil && p.resp.file == h.file:
		v.broken(file, h.at, fmt.Sprintf("The request %s stands after its response, at %s.", h.id, p.resp.where()), "lines were moved")
	}
	v.hold(p, h)
}

// copied reports an entry that its file has at an earlier line, too.
func (v *vaultLog) copied(file *logFile, h *half, first int) {
	v.broken(file, h.at, fmt.Sprintf("Vault's log has the %s of request %s twice in one file.", h.kind(), h.id),
		"a line was copied; the first stands at "+place(h.name, first))
}

func (h *half) kind() string {
	if h.response {
		return "response"
	}
	return "request"
}

// hold adds h to p, the first of its kind as that which is looked at.
func (v *vaultLog) hold(p *pair, h *half) *pair {
	switch {
	case h.response && p.resp == nil:
		p.resp = h
	case !h.response && p.req == nil:
		p.req = h
	}
	c := h.Caller
	p.tokens = join(p.tokens, keys(v.words, h.Token, lineAuth{ClientToken: c.Token, Accessor: c.Accessor}))
	p.tokens = join(p.tokens, keys(v.words, "", lineAuth{Accessor: h.Accessor}))
	p.issued = join(p.issued, h.issued)
	return p
}

func join(to, from []string) []string {
	for _, s := range from {
		if !slices.Contains(to, s) {
			to = append(to, s)
		}
	}
	return to
}

// compare checks that two devices say the same of one entry.
func (v *vaultLog) compare(a, b *half) {
	diff := differences(a, b)
	if a.error != b.error {
		diff = append(diff, "error")
	}
	if a.lease != b.lease {
		diff = append(diff, "lease_id")
	}
	if apart := a.at.Sub(b.at).Abs(); apart > outOfOrder {
		diff = append(diff, "time")
	}
	if len(diff) > 0 {
		v.find(Finding{
			Code: VaultLogBroken, Time: b.at, Where: b.where(),
			What: fmt.Sprintf("Two files of Vault's log disagree on the %s %s: %s.", a.kind(), a.id, strings.Join(diff, ", ")),
			Hint: "one of the two was edited; the other stands at " + a.where(),
		})
	}
}

// differences names what a and b do not say alike.
func differences(a, b *half) []string {
	var diff []string
	add := func(differ bool, name string) {
		if differ {
			diff = append(diff, name)
		}
	}
	device := a.file == b.file // else the hashes are of two keys
	add(a.Path != b.Path, "request.path")
	add(a.Operation != b.Operation, "request.operation")
	add(a.Namespace != b.Namespace, "request.namespace")
	add(a.Mount != b.Mount, "request.mount_point")
	add(a.Address != b.Address, "request.remote_address")
	add(a.Port != b.Port, "request.remote_port")
	add(a.Headers != b.Headers && (device || unhashed(a.Headers) != unhashed(b.Headers)), "request.headers")
	add(device && a.Token != b.Token, "request.client_token")
	add(device && a.Accessor != b.Accessor, "request.client_token_accessor")
	if a.response != b.response && a.Caller == (caller{}) {
		add(b.Caller != (caller{}) && b.Caller != b.given, "auth") // a login is of the token that it brings
		return diff
	}
	add(device && a.Caller.Token != b.Caller.Token, "auth.client_token")
	add(device && a.Caller.Accessor != b.Caller.Accessor, "auth.accessor")
	add(a.Caller.Name != b.Caller.Name, "auth.display_name")
	add(a.Caller.Entity != b.Caller.Entity, "auth.entity_id")
	add(a.Caller.Metadata != b.Caller.Metadata, "auth.metadata")
	return diff
}

// unhashed leaves the hashes out of what a line says.
func unhashed(s string) string { return hashes.ReplaceAllString(s, hashedPrefix) }

var hashes = regexp.MustCompile(hashedPrefix + "[0-9a-f]+")

// odd says what in a line contradicts itself, or what other lines of the device say: a token has one
// accessor.
func (v *vaultLog) odd(h *half) string {
	if h.Accessor != "" && h.Caller.Accessor != "" && h.Accessor != h.Caller.Accessor {
		return "request.client_token_accessor is not auth.accessor"
	}
	for _, c := range [...]caller{h.Caller, h.given} {
		if c.Token == "" || c.Accessor == "" {
			continue
		}
		if token := v.tokens[c.Accessor]; token != "" && token != c.Token {
			return "the token's accessor is another token's in an earlier line"
		}
		if accessor := v.accessors[c.Token]; accessor != "" && accessor != c.Accessor {
			return "the token has another accessor in an earlier line"
		}
		v.tokens[c.Accessor], v.accessors[c.Token] = c.Token, c.Accessor
	}
	return ""
}

// either returns the response, else the request.
func (p *pair) either() *half {
	if p.resp != nil {
		return p.resp
	}
	return p.req
}

func (p *pair) at() time.Time { return p.either().at }

// corr is the correlation id that the pair has in clear.
func (p *pair) corr() string {
	if p.resp != nil && p.resp.corr != "" {
		return p.resp.corr
	}
	if p.req != nil {
		return p.req.corr
	}
	return ""
}

// failed reports whether Vault refused the call, and whether that is certain: a value that is read may
// have a field that looks like an error.
func (p *pair) failed() (failed, certain bool) {
	h := p.either()
	return h.error != "" || h.refused, h.error != "" || !h.refused
}

// entry is the pair for a report.
func (p *pair) entry() *VaultEntry {
	h := p.either()
	ns := strings.Fields(h.Namespace)
	e := &VaultEntry{
		Time: h.at, RequestID: h.id, Operation: h.Operation, Path: h.Path, DisplayName: h.Caller.Name, EntityID: h.Caller.Entity,
		Metadata: h.metadata, RemoteAddress: h.Address, CorrelationID: p.corr(), LeaseID: h.lease, Error: h.error, Where: h.where(),
	}
	if len(ns) > 1 {
		e.Namespace = ns[1]
	}
	return e
}
