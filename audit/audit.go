// Package audit keeps the trail of a session: what was issued, asked, denied and sent, in an
// order that cannot be changed afterwards without it showing.
//
// # Form
//
// A trail is text, one JSON object a line, in printable ASCII:
//
//	{"seq":1,"time":"2026-11-22T10:00:00.000000000Z","prev":"<64 hex>","hash":"<64 hex>",
//	 "event":"session.started","session":{...},"pod":{...},"policy":{"generation":1,"sha256":"..."},...}
//
// (without the line break). The hash of a record is the SHA-256 over its line, without the
// newline, in which the 64 characters of the hash are replaced by zeros. Prev is the hash of the
// record before it; seq counts from 1. A session is a chain of its own: its first record has 64
// zeros as prev. A file may hold several sessions one after another.
//
// A [SegmentSigned] signs the record before it with an Ed25519 key (RFC 8032) that the [Log] makes, that
// never leaves its memory, and whose public half stands in the [SessionStarted]. What is signed is the
// text "sidekey segment v1", the session's id, the seq and the hash of that record, each ended by a
// newline.
//
// # What it proves
//
// [Verify] finds a record that was changed, left out, put in or moved; and what was signed cannot have
// been written anew by anybody who had the files only. It cannot find that the last records of a trail
// were cut off, nor a trail that was written anew from its start, with a key of its own: for that,
// compare with a [Log.Anchor] kept elsewhere. Sidekey puts anchors into Vault's audit log.
package audit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrSink means that the sink did not take a record. The action that the record is about must
// not go ahead.
var ErrSink = errors.New("audit sink failed")

// ErrClosed means that the log was closed.
var ErrClosed = errors.New("audit log closed")

// ErrLate means that a record was not written because its [Record.NotAfter] had come.
var ErrLate = errors.New("too late to be recorded")

// The levels of a session's attribution, the lowest first.
const (
	Asserted      = "asserted"       // whoever started the process says so
	Kubernetes    = "kubernetes"     // the pod's labels or annotations say so, whose changes the Kubernetes audit log has
	VaultVerified = "vault-verified" // Vault says so of the login
)

// level ranks attributions; an unknown one is the lowest.
func level(attribution string) int {
	return slices.Index([]string{Asserted, Kubernetes, VaultVerified}, attribution)
}

// A Session names who a trail is about. Requester and role are what the operator said; Attribution
// says how far that can be trusted: [Asserted], [Kubernetes] or [VaultVerified].
type Session struct {
	// ID is required: at most 128 of the characters A-Z a-z 0-9 - . _ ~. It must be new for each
	// [Log], because [Verify] takes a second chain with the same id for a forgery.
	ID          string `json:"id,omitempty"`
	Role        string `json:"role,omitempty"`
	RequestedBy string `json:"requested_by,omitempty"`
	Attribution string `json:"attribution,omitempty"`
}

func (s *Session) clean() {
	for _, p := range [...]*string{&s.ID, &s.Role, &s.RequestedBy, &s.Attribution} {
		*p = visible(*p)
	}
}

// A Pod names where a session runs. Every field may be empty.
type Pod struct {
	Namespace      string `json:"namespace,omitempty"`
	Name           string `json:"name,omitempty"`
	UID            string `json:"uid,omitempty"`
	Node           string `json:"node,omitempty"`
	ServiceAccount string `json:"service_account,omitempty"`
}

func (p *Pod) clean() {
	for _, s := range [...]*string{&p.Namespace, &p.Name, &p.UID, &p.Node, &p.ServiceAccount} {
		*s = visible(*s)
	}
}

// A Policy names the policy that was in force when a record was made.
type Policy struct {
	// Generation counts loaded policies from 1; 0 means that none was loaded yet.
	Generation uint64 `json:"generation"`

	// SHA256 is the hash of the policy file in hex.
	SHA256 string `json:"sha256"`
}

// Config says where a trail goes and whom it is about.
type Config struct {
	// Sink is required. The [Log] owns it from then on and closes it.
	Sink Sink

	// Sync makes every Append wait until the sink's Sync returned. Without it what was appended
	// outlives the process but not the machine.
	Sync bool

	// SegmentBytes is after how many bytes a segment of the chain ends: it is signed with a
	// [SegmentSigned], and a sink that is a file which [OpenSink] opened goes on in a new file. What
	// the end of a session leaves, and Close, is signed too. Zero means [DefaultSegment].
	SegmentBytes int64

	// Problem is told what the operator should know and no caller of Append can be told: that a file
	// could not be rotated, and the trail goes on in the old one, or that a sink panicked. It must
	// return soon. Nil means that no one is told.
	Problem func(error)

	// Posted is told what became of each record that was given to [Log.Post]: it was written, or was
	// not, with an error as Append has it. It may be called concurrently, and must return soon. Nil
	// means that no one is told.
	Posted func(Event, error)

	// Session is required; see its ID.
	Session Session

	// Pod is optional.
	Pod Pod

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// A Ref points to a record that was appended.
type Ref struct {
	Seq uint64
	urn string // of the session
}

// ID returns "urn:sidekey:<session id>:<seq>", which may be shown to the agent, or "" if nothing was
// appended.
func (r Ref) ID() string {
	if r.Seq == 0 {
		return ""
	}
	return r.urn + strconv.FormatUint(r.Seq, 10)
}

// A Log appends to a trail. It is safe for concurrent use.
type Log struct {
	sink    Sink
	rotate  rotator // nil if the sink does not
	problem func(error)
	posted  func(Event, error)
	id      string   // the session's
	rewind  rewinder // nil if what reached the sink cannot be taken back
	sync    bool
	now     func() time.Time
	urn     string
	pod     Pod
	entries sync.Pool // of *entry

	raising sync.Mutex // one SetAttribution at a time
	session Session    // as the newest record has it; guarded by raising

	mu       sync.Mutex
	policy   []byte            // replaced, never changed
	policies map[uint64][]byte // by generation
	head     position
	next     *batch   // the one that Append may join; nil if there is none
	spare    []*entry // for the entries of a batch to come
	armed    bool     // flush will be called
	closed   bool

	batches sync.WaitGroup // begun and not settled
	closing sync.Once
	failure error // what closing said

	// writing holds one token while a leader writes, and guards the rest. It is a channel and no
	// mutex so that a test in a synctest bubble can wait for Append.
	writing chan struct{}
	context []byte // session and pod; replaced, never changed
	buf     []byte
	size    int64 // of the file, where rewind is not nil
	segment segment
	broken  error
}

// New returns a log that starts a chain of its own at the end of cfg.Sink. It writes nothing; the
// first record should be a [SessionStarted]. The error says what is wrong with cfg.
func New(cfg Config) (*Log, error) {
	if cfg.Sink == nil {
		return nil, errors.New("open the audit log: no sink")
	}
	if !validID(cfg.Session.ID) {
		return nil, fmt.Errorf("open the audit log: session id %.140q is not 1 to 128 of A-Z a-z 0-9 - . _ ~", cfg.Session.ID)
	}
	cfg.Session.clean()
	cfg.Pod.clean()
	context, err := encodeContext(newEncoder(), cfg.Session, cfg.Pod)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %v", err)
	}
	seg, err := newSegment(cfg.SegmentBytes)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: make a key: %v", err)
	}
	l := &Log{
		sink:     cfg.Sink,
		problem:  cfg.Problem,
		posted:   cfg.Posted,
		id:       cfg.Session.ID,
		segment:  seg,
		sync:     cfg.Sync,
		now:      cfg.Now,
		urn:      "urn:sidekey:" + cfg.Session.ID + ":",
		session:  cfg.Session,
		pod:      cfg.Pod,
		context:  context,
		policies: map[uint64][]byte{},
		head:     position{hash: noDigest},
		writing:  make(chan struct{}, 1),
		entries:  sync.Pool{New: func() any { return newEntry() }},
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.problem == nil {
		l.problem = func(error) {}
	}
	if l.posted == nil {
		l.posted = func(Event, error) {}
	}
	l.rotate, _ = cfg.Sink.(rotator)
	if f, ok := cfg.Sink.(rewinder); ok {
		if size, err := f.Seek(0, io.SeekEnd); err == nil {
			l.rewind, l.size = f, size
		}
	}
	l.SetPolicy(0, "")
	return l, nil
}

// validID keeps ids to the unreserved characters of RFC 3986 section 2.3, so that a [Ref] is a
// URN (RFC 8141) without escapes and cannot be mistaken for another one.
func validID(id string) bool {
	return id != "" && len(id) <= 128 && strings.Trim(id,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") == ""
}

// keptPolicies is how many policies a record can still name; a request that began under an older one
// names the one in force.
const keptPolicies = 4096

// SetPolicy says which policy the records appended from now on were made under, unless they name an
// earlier one. Generations go up. sha256 is in hex.
func (l *Log) SetPolicy(generation uint64, sha256 string) {
	b, err := newEncoder().encode(Policy{generation, visible(sha256)})
	if err != nil {
		panic(err) // a number and a string always encode
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.policy = b
	l.policies[generation] = b
	if generation > keptPolicies {
		delete(l.policies, generation-keptPolicies)
	}
}

// Anchor returns the last record's sequence number and hash (64 hex characters). Kept elsewhere,
// they prove later that the trail up to there is the one that was written. Before the first
// record they are 0 and 64 zeros.
func (l *Log) Anchor() (seq uint64, head string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.seq, string(l.head.hash[:])
}

// Close waits for the records being appended, signs what is not signed yet, then syncs and closes the
// sink. Every Append after that fails with [ErrClosed]. The error wraps [ErrSink]; further calls return
// the same.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.flush()
		l.batches.Wait()
		l.writing <- struct{}{}
		unsigned := l.signRest()
		<-l.writing
		if err := errors.Join(unsigned, l.sink.Sync(), l.sink.Close()); err != nil {
			l.failure = fmt.Errorf("close the audit log: %w: %v", ErrSink, err)
		}
	})
	return l.failure
}
