package custody_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/audit/custody"
)

// A world is a Vault with audit devices, and the sidecars that call it. Time passes as it is told to.
type world struct {
	t        testing.TB
	rnd      *rand.Rand
	now      time.Time
	headers  string // "clear", "hashed" or "none"
	devices  []*device
	sessions []*sidecar
	access   []string // lines of the upstream's access log, nginx's
	turn     int
	segment  int64 // bytes that are signed at once
}

// A device is an audit device: it hashes with a key of its own.
type device struct {
	key   string
	lines []string
	calls []*vaultCall // of which each line is
}

type memory struct{ bytes.Buffer }

func (*memory) Sync() error  { return nil }
func (*memory) Close() error { return nil }

// A token is a Vault token, and how Vault's log shows it.
type token struct {
	value, accessor, name string
	metadata              map[string]string
}

// A sidecar is a session under way.
type sidecar struct {
	*world
	session audit.Session
	trail   *memory
	log     *audit.Log
	token   *token
	parent  *token
	live    []*value
	conn    int
}

// A value is an issuance.
type value struct {
	id, credential, path, lease string
}

func newWorld(t testing.TB, seed uint64, devices int, headers string) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC), headers: headers, segment: 20 << 10}
	for i := range devices {
		w.devices = append(w.devices, &device{key: fmt.Sprint("salt", seed, i)})
	}
	return w
}

// pass lets up to most of time pass.
func (w *world) pass(most time.Duration) {
	w.now = w.now.Add(time.Duration(1 + w.rnd.Int64N(int64(most))))
}

func (w *world) uuid() string {
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", w.rnd.Uint32(), w.rnd.Uint32()>>16, w.rnd.Uint32()>>20, w.rnd.Uint32()>>20, w.rnd.Uint64()>>16)
}

func (w *world) newToken(name string, metadata map[string]string) *token {
	return &token{"hvs." + w.uuid(), w.uuid(), name, metadata}
}

func (d *device) hash(s string) string {
	m := hmac.New(sha256.New, []byte(d.key))
	m.Write([]byte(s))
	return "hmac-sha256:" + hex.EncodeToString(m.Sum(nil))
}

// A vaultCall is one call as Vault sees it.
type vaultCall struct {
	id, op, path, corr string
	by                 *token // nil for none
	gives              *token // the token that it issues
	lease              string
	failed             bool
	from               string
	shared             bool // a trail says that Vault answered it
}

func (c *vaultCall) authOf(d *device, t *token) map[string]any {
	a := map[string]any{"client_token": d.hash(t.value), "accessor": d.hash(t.accessor), "display_name": t.name, "entity_id": "e-" + t.name, "token_type": "service"}
	if t.metadata != nil {
		a["metadata"] = t.metadata
	}
	return a
}

// entry writes one line to a device.
func (w *world) entry(d *device, c *vaultCall, kind string) {
	request := map[string]any{
		"id": c.id, "operation": c.op, "path": c.path, "remote_address": c.from, "remote_port": 4000 + len(c.id),
		"namespace": map[string]any{"id": "root"}, "mount_point": strings.SplitAfter(c.path, "/")[0],
	}
	if c.corr != "" && w.headers == "clear" {
		request["headers"] = map[string]any{"x-correlation-id": []string{c.corr}, "user-agent": []string{"sidekey"}}
	}
	if c.corr != "" && w.headers == "hashed" {
		request["headers"] = map[string]any{"x-correlation-id": []string{d.hash(c.corr)}}
	}
	line := map[string]any{"time": w.now.Format(time.RFC3339Nano), "type": kind, "request": request}
	if c.by != nil {
		request["client_token"] = d.hash("external " + c.by.value)
		if !c.failed {
			request["client_token_accessor"] = d.hash(c.by.accessor)
			line["auth"] = c.authOf(d, c.by)
		}
	}
	if c.failed {
		line["error"] = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
	}
	if kind == "response" {
		response := map[string]any{"mount_type": "any"}
		if c.lease != "" {
			response["secret"] = map[string]any{"lease_id": c.lease}
		}
		if c.gives != nil {
			response["auth"] = c.authOf(d, c.gives)
			if c.by == nil {
				line["auth"] = c.authOf(d, c.gives)
			}
		}
		line["response"] = response
	}
	b, err := json.Marshal(line)
	if err != nil {
		w.t.Fatal(err)
	}
	d.lines, d.calls = append(d.lines, string(b)), append(d.calls, c)
}

// logs writes a line to the devices whose turn it is: to all of them, or to one after another.
func (w *world) logs(c *vaultCall, kind string) {
	if w.turn++; len(w.devices) > 1 && w.turn%3 > 0 {
		w.entry(w.devices[w.turn%len(w.devices)], c, kind)
		return
	}
	for _, d := range w.devices {
		w.entry(d, c, kind)
	}
}

// serve has Vault serve a call that took a while.
func (w *world) serve(c *vaultCall) {
	if c.id == "" {
		c.id = w.uuid()
	}
	if c.from == "" {
		c.from = "10.0.0.7"
	}
	w.pass(2 * time.Millisecond)
	w.logs(c, "request")
	w.pass(20 * time.Millisecond)
	w.logs(c, "response")
	w.pass(2 * time.Millisecond)
}

// others has somebody else call Vault.
func (w *world) others() {
	w.serve(&vaultCall{op: "update", path: "sys/policies/acl/x", by: &token{value: "root", accessor: "root", name: "token"}, from: "10.9.9.9"})
}

// start begins a session.
func (w *world) start(role string) *sidecar {
	s := &sidecar{world: w, trail: &memory{}, session: audit.Session{ID: w.uuid() + ".0a1b2c3d", Role: role, RequestedBy: "ada", Attribution: audit.Asserted}}
	var err error
	s.log, err = audit.New(audit.Config{Sink: s.trail, Session: s.session, Pod: audit.Pod{UID: "pod-" + role, Name: role, Namespace: "agents"}, Now: func() time.Time { return w.now }, SegmentBytes: w.segment})
	if err != nil {
		w.t.Fatal(err)
	}
	s.append(audit.Record{Event: audit.SessionStarted, Version: "1"})
	w.sessions = append(w.sessions, s)
	return s
}

func (s *sidecar) append(r audit.Record) uint64 {
	ref, err := s.log.Append(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref.Seq
}

func (s *sidecar) correlation(id string) string {
	seq, head := s.log.Anchor()
	return fmt.Sprintf("sk1.%s.%d.%.16s", id, seq, head)
}

// record records a call that Vault answered, or did not.
func (s *sidecar) record(c *vaultCall, method string, status int, began time.Time) {
	src := &audit.Source{Kind: "vault", Path: c.path, CorrelationID: c.corr}
	if status == 200 {
		src.RequestID, src.LeaseID = c.id, c.lease
	}
	r := audit.Record{Event: audit.VaultCalled, Method: method, Status: status, Source: src, DurationMS: float64(s.now.Sub(began).Microseconds()) / 1000}
	if status == 0 {
		r.Error = "no_answer"
	}
	s.append(r)
}

// call makes a call that Vault answers.
func (s *sidecar) call(method string, status int, c *vaultCall) *vaultCall {
	began := s.now
	c.shared = true
	if c.corr == "" {
		c.corr = s.correlation(s.uuid())
	}
	s.serve(c)
	s.record(c, method, status, began)
	return c
}

func (s *sidecar) login() {
	t := s.newToken("approle", map[string]string{"role_name": s.session.Role, "session_id": strings.TrimSuffix(s.session.ID, ".0a1b2c3d")})
	s.call("POST", 200, &vaultCall{op: "update", path: "auth/approle/login", gives: t})
	s.parent, s.token = t, t
	if s.rnd.IntN(2) == 0 {
		return
	}
	child := s.newToken("token-sidekey", map[string]string{"agent_role": s.session.Role, "session_id": s.session.ID, "requested_by": "ada", "pod_uid": "pod-" + s.session.Role})
	s.call("POST", 200, &vaultCall{op: "update", path: "auth/token/create/sidekey-session", by: t, gives: child})
	s.token = child
}

// wrapped unwraps what a login needs: Vault answers with the id of the request that was wrapped.
func (s *sidecar) wrapped() {
	wrap := &vaultCall{op: "update", path: "auth/approle/role/tester/secret-id", by: &token{value: "root", accessor: "root", name: "token"}}
	s.serve(wrap)
	began := s.now
	c := &vaultCall{op: "update", path: "sys/wrapping/unwrap", by: s.newToken("", nil), corr: s.correlation(s.uuid())}
	s.serve(c)
	c.id = wrap.id
	s.record(c, "POST", 200, began)
}

// issue issues a credential, after as many attempts that fail as it happens.
func (s *sidecar) issue() {
	v := &value{id: s.uuid(), credential: "kv", path: "secret/data/agents/x"}
	corr := s.correlation(v.id)
	for s.rnd.IntN(4) == 0 {
		s.attempt(&vaultCall{op: "read", path: v.path, by: s.token, corr: corr})
	}
	if s.rnd.IntN(2) == 0 {
		v.credential, v.path = "db", "database/creds/reader"
		v.lease = v.path + "/" + s.uuid()
	}
	c := s.call("GET", 200, &vaultCall{op: "read", path: v.path, by: s.token, corr: corr, lease: v.lease})
	s.append(audit.Record{
		Event: audit.CredentialIssued, Credential: v.credential, Issuance: v.id, IssuedAt: s.now, ExpiresAt: s.now.Add(time.Hour), Fingerprint: "hmac-sha256:00",
		Source: &audit.Source{Kind: "vault", Path: v.path, RequestID: c.id, CorrelationID: c.corr, LeaseID: v.lease},
	})
	s.live = append(s.live, v)
}

// attempt is a call that comes to nothing.
func (s *sidecar) attempt(c *vaultCall) {
	began := s.now
	switch s.rnd.IntN(4) {
	case 0: // refused
		c.failed = true
		s.call("GET", 403, c)
	case 1: // answered, and the answer was lost
		s.serve(c)
		s.record(c, "GET", 0, began)
	case 2: // never arrived
		s.pass(time.Second)
		s.record(c, "GET", 0, began)
	case 3: // something before Vault has no time
		s.pass(time.Second)
		s.record(c, "GET", 503, began)
	}
	c.failed = false
	s.pass(300 * time.Millisecond)
}

func (s *sidecar) revoke() {
	v := s.live[0]
	s.live = s.live[1:]
	reason := "discarded"
	if v.lease != "" {
		reason = "revoked"
		s.call("PUT", 204, &vaultCall{op: "update", path: "sys/leases/revoke/" + v.lease, by: s.token})
	}
	s.append(audit.Record{Event: audit.CredentialRevoked, Credential: v.credential, Issuance: v.id, Reason: reason})
}

// use has the agent use a credential, or ask for something else.
func (s *sidecar) use() {
	s.conn++
	r := audit.Record{Event: audit.RequestIntent, Conn: fmt.Sprint(s.conn), Method: "GET", Scheme: "https", Host: "api.test", Port: 443, Path: "/{x}", Route: "r"}
	switch s.rnd.IntN(6) {
	case 0:
		r.Event, r.Route, r.Path, r.Reason, r.Status = audit.RequestDenied, "", "/etc", "path_not_allowed", 403
		s.append(r)
		return
	case 1:
	default:
		v := s.live[s.rnd.IntN(len(s.live))]
		r.Credential, r.Issuance = v.credential, v.id
		r.RequestID, r.PathSent = s.uuid(), fmt.Sprint("/", s.rnd.IntN(1000))
	}
	seq := s.append(r)
	s.pass(50 * time.Millisecond)
	if s.rnd.IntN(10) == 0 {
		return // killed, as far as anybody knows
	}
	status := []int{200, 200, 200, 404, 500}[s.rnd.IntN(5)]
	if r.RequestID != "" {
		s.access = append(s.access, fmt.Sprintf(`10.0.0.7 - - [%s] "GET %s?q=1 HTTP/1.1" %d 5 "-" "curl sidekey/%s" "%s"`, s.now.Format("02/Jan/2006:15:04:05 -0700"), r.PathSent, status, r.RequestID, r.RequestID))
	}
	if r.Issuance != "" && s.rnd.IntN(20) == 0 {
		s.append(audit.Record{Event: audit.SecretReflected, Conn: r.Conn, Host: r.Host, Route: r.Route, Credential: r.Credential, Issuance: r.Issuance, Detail: "body"})
	}
	r.Event, r.Intent, r.Status, r.DurationMS, r.Attempts = audit.RequestOutcome, seq, status, 1, 1
	s.append(r)
}

// step is whatever happens next.
func (s *sidecar) step() {
	s.pass(3 * time.Second)
	switch n := s.rnd.IntN(10); {
	case s.token == nil:
		if s.rnd.IntN(2) == 0 {
			s.wrapped()
		}
		s.login()
	case len(s.live) == 0 || n == 0:
		s.issue()
	case n == 1 && len(s.live) > 1:
		s.revoke()
	case n == 2 && s.rnd.IntN(3) == 0: // a rotation
		old, parent := s.token, s.parent
		s.login()
		s.giveUp(old, parent)
	case n == 3:
		s.others()
	default:
		s.use()
	}
}

func (s *sidecar) giveUp(t, parent *token) {
	s.call("POST", 204, &vaultCall{op: "update", path: "auth/token/revoke-self", by: t})
	if parent != t {
		s.call("POST", 204, &vaultCall{op: "update", path: "auth/token/revoke-self", by: parent})
	}
}

func (s *sidecar) end() {
	for len(s.live) > 0 {
		s.revoke()
	}
	s.giveUp(s.token, s.parent)
	s.append(audit.Record{Event: audit.SessionEnded, Reason: "stopped"})
	if err := s.log.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// run has n sessions take steps by turns, and end.
func (w *world) run(n, steps int) {
	for i := range n {
		w.start(fmt.Sprint("role", i))
	}
	for range steps {
		w.sessions[w.rnd.IntN(n)].step()
	}
	for _, s := range w.sessions {
		for s.token == nil || len(s.live) == 0 {
			s.step()
		}
		s.use()
		w.pass(3 * time.Second)
		s.end()
		w.pass(3 * time.Second)
	}
}

// A evidence is what is traced: the text of files.
type evidence struct {
	trails, vault []string
	access        string
}

func (w *world) evidence() evidence {
	e := evidence{access: strings.Join(w.access, "\n") + "\n"}
	for _, s := range w.sessions {
		e.trails = append(e.trails, s.trail.String())
	}
	for _, d := range w.devices {
		e.vault = append(e.vault, strings.Join(d.lines, "\n")+"\n")
	}
	return e
}

func (e evidence) config(now time.Time) custody.Config {
	cfg := custody.Config{Now: now}
	for i, text := range e.trails {
		cfg.Trails = append(cfg.Trails, []audit.File{{Name: fmt.Sprintf("trail%d.jsonl", i), Reader: strings.NewReader(text)}})
	}
	for i, text := range e.vault {
		cfg.VaultLogs = append(cfg.VaultLogs, audit.File{Name: fmt.Sprintf("vault%d.log", i), Reader: strings.NewReader(text)})
	}
	if e.access != "" {
		cfg.AccessLogs = []audit.File{{Name: "access.log", Reader: strings.NewReader(e.access)}}
	}
	return cfg
}

func trace(t testing.TB, cfg custody.Config) *custody.Report {
	t.Helper()
	r, err := custody.Trace(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteText(io.Discard, custody.TextOptions{Uses: true}); err != nil {
		t.Error(err)
	}
	return r
}

// describe lists findings for a failure.
func describe(all []custody.Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "\n%s %s: %s (%s)", f.Code, f.Where, f.What, f.Hint)
	}
	return b.String()
}
