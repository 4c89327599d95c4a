package envsource_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/credential/envsource"
)

var _ credential.Source = (*envsource.Source)(nil)

func TestIssue(t *testing.T) {
	t.Setenv("TOKEN", "of the environment") // must not be read
	src, err := envsource.New("TOKEN", "canary-7f2a")
	if err != nil {
		t.Fatal(err)
	}
	first, err := src.Issue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	first.Value.Wipe() // as a cache does with what it replaced
	second, err := src.Issue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(second.Value.Expose()); got != "canary-7f2a" {
		t.Errorf("value %q after the first was wiped", got)
	}
	if got := second.ExpiresAt.Sub(second.IssuedAt); got != 24*time.Hour {
		t.Errorf("lives for %v, want 24h", got)
	}
	if second.Origin != (credential.Origin{Kind: "env", Path: "TOKEN"}) {
		t.Errorf("origin %+v", second.Origin)
	}
	if s := fmt.Sprintf("%v %+v %#v %v %+v %#v", second, second, second, src, src, src); strings.Contains(s, "canary") {
		t.Errorf("printed: %s", s)
	}
}

func TestNewRefusesEmpty(t *testing.T) {
	if _, err := envsource.New("TOKEN", ""); err == nil || !strings.Contains(err.Error(), "TOKEN") {
		t.Errorf("error %v, want one that names TOKEN", err)
	}
}
