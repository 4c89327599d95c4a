package custody

import (
	"cmp"
	"fmt"
	"time"

	"github.com/sidekey/sidekey/audit"
)

// Config says what to trace. Trails is required; every other field has a usable zero value.
type Config struct {
	// Trails are audit trails; each is one or several files, one after another, the oldest first.
	Trails [][]audit.File

	// VaultLogs are files of Vault's audit log, in any order: of several devices, whose union is the
	// log, and of any time. None means that nothing is looked for in Vault.
	VaultLogs []audit.File

	// AccessLogs are access logs of upstreams.
	AccessLogs []audit.File

	// AccessFormat is [AccessNginx], the default, or [AccessJSON].
	AccessFormat string

	// AccessKeys say under which key of [AccessJSON] a field stands, where it is none of the usual
	// ones. Fields are time, method, path, request ("GET /path HTTP/1.1"), status, request_id, user_agent
	// and remote; a dot in a key goes into an object.
	AccessKeys map[string]string

	// Partial says that the beginning of a trail may be missing, because it was deleted with its age.
	Partial bool

	// Now is what "not expired" means. Zero means time.Now().
	Now time.Time

	// Skew is how far the clocks of Vault and of upstreams may be from the sidecar's. Zero means 5 s.
	Skew time.Duration

	// Filter says what the report holds of what was traced.
	Filter Filter
}

func (c Config) skew() time.Duration { return cmp.Or(c.Skew, 5*time.Second) }

// A tracer is one run of [Trace].
type tracer struct {
	cfg    Config
	report *Report
	trails *trails
	vault  *vaultLog
	skew   time.Duration

	targets     []*target
	claims      map[string]claim // by key of a token
	lastSession *session
	unseen      int // calls that Vault's log lacks and need not have
	blind       []span
	strangers   int             // entries whose anchors no given trail has
	paths       map[string]bool // of credentials
}

// Trace reads everything that cfg names and joins it. The error says which file cannot be read, or what
// is wrong in cfg; what is wrong in a file is a [Finding]. The report is the caller's.
func Trace(cfg Config) (*Report, error) {
	t := &tracer{cfg: cfg, skew: cfg.skew(), report: &Report{Generated: cfg.Now.UTC()}}
	if cfg.Now.IsZero() {
		t.report.Generated = time.Now().UTC()
	}
	// Vault's log first: what it has by then, a trail that is still written has when it is read.
	t.vault = newVaultLog(t.find)
	for _, f := range cfg.VaultLogs {
		if err := t.vault.read(f); err != nil {
			return nil, err
		}
	}
	access, err := newAccessLog(cfg)
	if err != nil {
		return nil, err
	}
	for _, f := range cfg.AccessLogs {
		if err := access.read(f); err != nil {
			return nil, err
		}
	}
	t.trails = newTrails(t.find, cfg.Partial)
	for _, files := range cfg.Trails {
		if err := t.trails.read(files); err != nil {
			return nil, err
		}
	}
	t.report.Trails, t.report.VaultLogs, t.report.AccessLogs = t.trails.inputs, t.vault.inputs, access.inputs
	t.join()
	t.joinAccess(access)
	t.end()
	t.finish()
	return t.report, nil
}

// find adds a finding.
func (t *tracer) find(f Finding) { t.report.Findings = append(t.report.Findings, f) }

// note adds a note; a count of 0 leaves it out.
func (t *tracer) note(count int, what, mend string) {
	if count > 0 {
		t.report.Notes = append(t.report.Notes, Note{What: what, Count: count, Mend: mend})
	}
}

// join joins the trails with Vault's log and checks both ways.
func (t *tracer) join() {
	vaulted := 0
	for _, s := range t.trails.sessions {
		t.targets = append(t.targets, s.targets()...)
	}
	for _, target := range t.targets {
		if target.iss != nil {
			vaulted++
		}
	}
	t.checkOwnAnchors()
	if len(t.cfg.VaultLogs) == 0 {
		t.note(len(t.targets), fmt.Sprintf("no audit log of Vault was given: %d calls, %d of which issued something, could not be looked for", len(t.targets), vaulted),
			"give Vault's audit log with --vault-audit FILE")
		t.reportAnchors()
		return
	}
	t.joinByID()
	t.findBlind()
	t.joinByCorrelation()
	t.joinByPlace()
	for _, target := range t.targets {
		t.checkJoin(target)
	}
	t.checkHalves()
	t.checkReverse()
	t.reportAnchors()
}

// finish puts the report together.
func (t *tracer) finish() {
	for _, s := range t.trails.sessions {
		t.report.Sessions = append(t.report.Sessions, s.Session)
	}
	t.cfg.Filter.apply(t.report)
	if len(t.report.Sessions) == 0 && len(t.trails.sessions) > 0 {
		t.note(len(t.trails.sessions), fmt.Sprintf("the filter leaves nothing of the %d sessions in the trails, so this is no proof that all is well", len(t.trails.sessions)), "give --session the whole id, or what comes before its last dot")
	}
	t.report.count()
	t.report.sort()
}
