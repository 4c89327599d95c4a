package credential_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

func TestCacheCloseRevokesEverything(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		acquire(t, c, "v1") // never released
		c.Close(t.Context())
		if _, n := src.counts(); n != 1 {
			t.Errorf("revoked %d, want 1", n)
		}
		if _, _, err := c.Acquire(t.Context()); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Acquire after Close = %v, want ErrClosed", err)
		}
	})
}

// A value that arrives after Close is revoked, not lost.
func TestCacheCloseDuringCall(t *testing.T) {
	bubble(t, time.Minute, time.Second, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		done := make(chan error)
		go func() { _, _, err := c.Acquire(t.Context()); done <- err }()
		synctest.Wait()
		c.Close(t.Context())
		if err := <-done; !errors.Is(err, credential.ErrClosed) {
			t.Errorf("Acquire = %v, want ErrClosed", err)
		}
		if s := c.Status(); s.Held {
			t.Errorf("after Close: %+v", s)
		}
		if issued, revoked := src.counts(); issued != 1 || revoked != 1 {
			t.Errorf("issued %d, revoked %d, want 1 and 1", issued, revoked)
		}
	})
}

// Who waits when the session ends is told at once; the source gets until ctx ends.
func TestCloseBoundsAHangingCall(t *testing.T) {
	bubble(t, time.Minute, time.Hour, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		done := make(chan error, 1)
		go func() { _, _, err := c.Acquire(t.Context()); done <- err }()
		synctest.Wait()
		began := time.Now()
		go func() {
			if err := <-done; !errors.Is(err, credential.ErrClosed) || time.Since(began) != 0 {
				t.Errorf("Acquire = %v after %v, want ErrClosed at once", err, time.Since(began))
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if left := c.Close(ctx); len(left) != 0 || time.Since(began) != 2*time.Second {
			t.Errorf("Close = %v after %v, want nothing after 2 s", left, time.Since(began))
		}
	})
}

// Revocations that hang, in the background or of Close itself, end with its context, and what they
// were for is what is left behind.
func TestCloseReturnsWhatIsLeft(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		v1, release1 := acquired(t, c, "v1")
		v2, release2 := reissued(t, c, v1, "v2")
		src.revoking = time.Hour
		release1()
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		left := c.Close(ctx)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("Close took %v, want 2 s", took)
		}
		if len(left) != 2 || left[0] != v1 && left[1] != v1 || left[0] != v2 && left[1] != v2 {
			t.Errorf("Close = %v, want v1 and v2", left)
		}
		release2()
		if again := c.Close(t.Context()); len(again) != 2 {
			t.Errorf("second Close = %v, want the same", again)
		}
	})
}

// A second Close bounds the first, and tells what that could not revoke.
func TestCloseBoundsAnother(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		v1, release := acquired(t, c, "v1")
		release()
		src.revoking = time.Hour
		began := time.Now()
		go c.Close(context.Background())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if left := c.Close(ctx); len(left) != 1 || left[0] != v1 || time.Since(began) != 2*time.Second {
			t.Errorf("Close = %v after %v, want v1 after 2s", left, time.Since(began))
		}
	})
}

// Revocations that failed during the session count, unless the source made up for it.
func TestCloseKnowsEarlierFailures(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		recover bool
		wait    time.Duration
		want    int
	}{
		{"refused", errRefused, true, 0, 1},
		{"refused and expired", errRefused, true, time.Hour, 0},
		{"unavailable", errDown, false, 0, 2},
		{"unavailable for a while", errDown, true, 0, 0},
		{"unavailable until it expired", errDown, false, time.Hour, 0},
	} {
		bubble(t, 10*time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
			iss, release := acquired(t, c, "v1")
			_, again := reissued(t, c, iss, "v2")
			again()
			src.failRevoke(tt.err)
			release()
			time.Sleep(time.Second)
			if tt.recover {
				src.failRevoke(nil)
			}
			time.Sleep(tt.wait)
			if left := c.Close(t.Context()); len(left) != tt.want {
				t.Errorf("%s: %d left, want %d", tt.name, len(left), tt.want)
			}
		})
	}
}

// What a request still carries is revoked by Close, and its bytes stay until the request is done.
func TestCloseWipesAfterTheLastUse(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		release2 := acquire(t, c, "v1")
		c.Close(t.Context())
		release2()
		if got := string(iss.Value.Expose()); got != "v1" {
			t.Errorf("value %q while a request carries it", got)
		}
		release()
		if got := string(iss.Value.Expose()); got != "\x00\x00" {
			t.Errorf("value %q after the last release", got)
		}
	})
}

// The hole between Acquire and the record of the use: a use is recorded before the end of its
// issuance is, or not at all.
func TestRecordUse(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		defer release()
		full := errors.New("disk full")
		if err := iss.RecordUse(func() error { return full }); err != full {
			t.Errorf("RecordUse = %v, want what record returned", err)
		}
		recording, recorded := make(chan struct{}), make(chan error)
		go func() {
			recorded <- iss.RecordUse(func() error {
				close(recording)
				time.Sleep(time.Second)
				if n := len(rec.ended()); n != 0 {
					t.Error("the end was recorded before the use")
				}
				return nil
			})
		}()
		<-recording
		closed := make(chan struct{})
		go func() { c.Close(t.Context()); close(closed) }()
		synctest.Wait()
		if _, n := src.counts(); n != 1 {
			t.Error("the revocation waits for the record")
		}
		if err := iss.RecordUse(mustNotRecord(t)); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("RecordUse = %v, want ErrClosed", err)
		}
		if err := <-recorded; err != nil {
			t.Error(err)
		}
		<-closed
		if err := iss.RecordUse(mustNotRecord(t)); !errors.Is(err, credential.ErrClosed) {
			t.Errorf("RecordUse = %v, want ErrClosed", err)
		}
	})
}

// A use that takes longer to record than its issuance lives must not be.
func TestRecordUseTakesTooLong(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		defer release()
		left := time.Until(iss.ExpiresAt)
		for _, tt := range []struct {
			took time.Duration
			want error
		}{{left / 2, nil}, {left / 2, credential.ErrExpired}} {
			if err := iss.RecordUse(func() error { time.Sleep(tt.took); return nil }); !errors.Is(err, tt.want) {
				t.Errorf("RecordUse = %v, want %v", err, tt.want)
			}
		}
	})
}

func TestRecordUseOfAnExpiredOne(t *testing.T) {
	bubble(t, time.Minute, 0, func(t *testing.T, c *credential.Cache, src *standIn, rec *book) {
		iss, release := acquired(t, c, "v1")
		defer release()
		time.Sleep(58 * time.Second)
		if err := iss.RecordUse(func() error { return nil }); err != nil {
			t.Errorf("RecordUse = %v before the expiry", err)
		}
		time.Sleep(2 * time.Second)
		if err := iss.RecordUse(mustNotRecord(t)); !errors.Is(err, credential.ErrExpired) {
			t.Errorf("RecordUse = %v, want ErrExpired", err)
		}
	})
}

func mustNotRecord(t *testing.T) func() error {
	return func() error { t.Error("recorded"); return nil }
}
