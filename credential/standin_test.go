package credential_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// standIn is a source whose issuances, v1, v2 and so on, live for ttl. It can fail and be slow, and
// notices when it is asked twice at a time.
type standIn struct {
	ttl   time.Duration
	delay time.Duration
	now   func() time.Time // nil: time.Now

	mu        sync.Mutex
	err       error // of Issue
	revokeErr error
	revoking  time.Duration // how long Revoke takes
	calls     int           // of Issue, failed ones too
	underWay  int
	overlaps  int
	issued    int
	ends      map[string]time.Time // of what was issued and not revoked
	revoked   []string             // values that were revoked before they ended, in order
	revokes   int                  // calls of Revoke
	starts    []time.Time          // of the calls that brought an issuance
}

func (s *standIn) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

func (s *standIn) Issue(ctx context.Context, _ string) (*credential.Issuance, error) {
	s.mu.Lock()
	s.calls++
	if s.underWay++; s.underWay > 1 {
		s.overlaps++
	}
	s.mu.Unlock()
	start := s.clock()
	err := wait(ctx, s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underWay--
	if err = cmpErr(err, s.err); err != nil {
		return nil, err
	}
	s.issued++
	s.starts = append(s.starts, start)
	value := fmt.Sprintf("v%d", s.issued)
	if s.ends == nil {
		s.ends = map[string]time.Time{}
	}
	s.ends[value] = start.Add(s.ttl)
	return &credential.Issuance{
		Value:    credential.NewSecret([]byte(value)),
		User:     credential.NewSecret([]byte("user")),
		IssuedAt: start, ExpiresAt: start.Add(s.ttl),
	}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stand-in: %v: %w", ctx.Err(), credential.ErrUnavailable)
	}
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *standIn) Revoke(ctx context.Context, iss *credential.Issuance) error {
	s.mu.Lock()
	err, takes := s.revokeErr, s.revoking
	s.revokes++
	s.mu.Unlock()
	if err := cmpErr(wait(ctx, takes), err); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value := string(iss.Value.Expose())
	if end, ok := s.ends[value]; ok && s.clock().Before(end) {
		s.revoked = append(s.revoked, value)
	}
	delete(s.ends, value)
	return nil
}

func (s *standIn) fail(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.err = err }

func (s *standIn) failRevoke(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.revokeErr = err }

func (s *standIn) slow(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.delay = d }

func (s *standIn) asked() int { s.mu.Lock(); defer s.mu.Unlock(); return s.calls }

func (s *standIn) counts() (issued, revoked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued, len(s.revoked)
}

var (
	errDown    = fmt.Errorf("down: %w", credential.ErrUnavailable)
	errRefused = fmt.Errorf("no: %w", credential.ErrRefused)
)

// book records issuances and can refuse to.
type book struct {
	mu       sync.Mutex
	err      error
	slow     time.Duration
	issued   []string
	replaces []string
	last     *credential.Issuance
	revoked  []error          // in order
	ends     map[string]error // by id
	mistakes []string
}

func (b *book) Issued(iss *credential.Issuance) error {
	time.Sleep(b.slow)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issued = append(b.issued, iss.ID)
	b.replaces, b.last = append(b.replaces, iss.Replaces), iss
	if iss.ID == "" || iss.Credential != "api" {
		b.mistakes = append(b.mistakes, "an issuance was recorded without its names")
	}
	return b.err
}

func (b *book) Revoked(iss *credential.Issuance, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.ends[iss.ID]; ok {
		b.mistakes = append(b.mistakes, "the end of an issuance was recorded twice")
	}
	if b.ends == nil {
		b.ends = map[string]error{}
	}
	b.ends[iss.ID] = err
	b.revoked = append(b.revoked, err)
}

func (b *book) ended() []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]error(nil), b.revoked...)
}

// check holds after Close: each issuance has one end, and the source was never asked twice at a
// time.
func (b *book) check(src *standIn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, m := range b.mistakes {
		errs = append(errs, errors.New(m))
	}
	if len(b.ends) != len(b.issued) && b.err == nil {
		errs = append(errs, fmt.Errorf("%d issuances and %d ends were recorded", len(b.issued), len(b.ends)))
	}
	if src.overlaps > 0 {
		errs = append(errs, fmt.Errorf("%d calls to the source while another was under way", src.overlaps))
	}
	return errors.Join(errs...)
}

// acquire acquires an issuance, which must be want.
func acquire(t *testing.T, c *credential.Cache, want string) (release func()) {
	t.Helper()
	_, release = acquired(t, c, want)
	return release
}

func acquired(t *testing.T, c *credential.Cache, want string) (*credential.Issuance, func()) {
	t.Helper()
	iss, release, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	if got := string(iss.Value.Expose()); got != want {
		t.Fatalf("Acquire = %s, want %s", got, want)
	}
	if !time.Now().Before(iss.ExpiresAt) {
		t.Fatal("Acquire handed out an expired issuance")
	}
	return iss, release
}

// bubble runs f with a cache before a stand-in, on a clock of its own, and closes the cache.
func bubble(t *testing.T, ttl, delay time.Duration, f func(*testing.T, *credential.Cache, *standIn, *book)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		src, rec := &standIn{ttl: ttl, delay: delay}, &book{}
		c := credential.NewCache(credential.CacheConfig{Name: "api", Source: src, Recorder: rec})
		f(t, c, src, rec)
		c.Close(t.Context())
		if err := rec.check(src); err != nil {
			t.Error(err)
		}
	})
}

// run has c kept up until the test ends.
func run(t *testing.T, c *credential.Cache) {
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil { // the context ended just before
			t.Errorf("Run: %v", err)
		}
	})
}
