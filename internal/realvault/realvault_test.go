package realvault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/internal/realvault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// verdict is a test that remembers how it was ended.
type verdict struct {
	testing.TB
	skipped, failed string
}

func (v *verdict) Helper() {}

func (v *verdict) Failed() bool { return v.failed != "" }

func (v *verdict) Skipf(format string, args ...any) {
	v.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// TestNeverSilentlySkipped: without a binary the tests are skipped and say how to run them; with
// one that does not work they fail.
func TestNeverSilentlySkipped(t *testing.T) {
	script := filepath.Join(t.TempDir(), "vaultd")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho broken >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, binary, skipped, failed string }{
		{"unset", "", "make test-vault", ""},
		{"not there", "/nonexistent/vaultd", "", "/nonexistent/vaultd"},
		{"does not start", script, "", "broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(realvault.Binary, tt.binary)
			v := &verdict{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				realvault.Start(v, realvault.Options{})
			}()
			<-done
			if !strings.Contains(v.skipped, tt.skipped) || !strings.Contains(v.failed, tt.failed) ||
				(v.skipped == "") != (tt.skipped == "") || (v.failed == "") != (tt.failed == "") {
				t.Errorf("skipped %q, failed %q", v.skipped, v.failed)
			}
		})
	}
}

// TestRealVaultOutages holds what the other packages' outage tests rely on.
func TestRealVaultOutages(t *testing.T) {
	t.Parallel()
	s := realvault.Start(t, realvault.Options{})
	s.KV(t, "x", map[string]any{"field": "value"})
	read := func() int {
		status, _ := s.Call(t, "GET", "secret/data/x", s.RootToken, nil)
		return status
	}
	s.Seal(t)
	if got := read(); got != 503 {
		t.Errorf("sealed: status %d", got)
	}
	s.Unseal(t)
	if got := read(); got != 200 {
		t.Errorf("unsealed: status %d", got)
	}
	s.Down(t)
	s.Up(t)
	if got := read(); got != 200 {
		t.Errorf("up again: status %d", got)
	}
	s.Stop(t)
	s.Cont(t)
	if got := read(); got != 200 {
		t.Errorf("going on: status %d", got)
	}
}

func TestRealVaultTLS(t *testing.T) {
	t.Parallel()
	s := realvault.Start(t, realvault.Options{TLS: true})
	if !strings.HasPrefix(s.Addr, "https://") {
		t.Errorf("address %s", s.Addr)
	}
	if got := s.Read(t, "auth/token/lookup-self"); got["path"] != "auth/token/create" {
		t.Errorf("lookup-self: %v", got)
	}
}

func TestRealVaultPostgres(t *testing.T) {
	t.Parallel()
	s := realvault.Start(t, realvault.Options{})
	db := realvault.Postgres(t)
	s.DatabaseRole(t, db, "reader", "60s", "60s")
	user := s.Read(t, "database/creds/reader")
	name, password := fmt.Sprint(user["username"]), fmt.Sprint(user["password"])
	if err := db.Login(t.Context(), name, password); err != nil {
		t.Error(err)
	}
	if err := db.Login(t.Context(), name, "wrong"); err == nil {
		t.Error("logged in with a wrong password")
	}
	for _, id := range s.Leases(t, "") {
		s.Must(t, "PUT", "sys/leases/revoke/"+id, s.RootToken, nil)
	}
	if roles := db.Roles(t); len(roles) != 0 {
		t.Errorf("roles %v are left", roles)
	}
}
