package custody_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/audit/custody"
)

// TestMismatchOnce: what the trail and Vault's log say differently of one issuance is one finding, which
// names each difference once, whether one record of the trail has it or both: that of the call, line 31,
// and that of the issuance, line 32.
func TestMismatchOnce(t *testing.T) {
	none := func(lines []string) []string { return lines }
	const (
		lease  = "aws/creds/user/NOehfoMXxateYHQNpXTkNFGG"
		inside = `"lease_id":"aws/creds/user/`
		path   = `"path":"aws/creds/user"`
		other  = `"path":"aws/creds/other"`
	)
	for _, tt := range []struct {
		name         string
		trail, vault operation
		want         string
	}{
		{"Vault's lease", none, sub(inside, inside+"x", 36), `Vault's log says lease "aws/creds/user/xNOehfoMXxateYHQNpXTkNFGG", the trail "` + lease + `"`},
		{"no lease in Vault's log", none, sub(inside, `"x":"`, 36), `Vault's log says lease nothing, the trail "` + lease + `"`},
		{"Vault's path", none, sub(path, other, 35, 36), `Vault's log says path "aws/creds/other", the trail "aws/creds/user"`},
		{"the call's lease", sub(inside, inside+"x", 31), none, `Vault's log says lease "` + lease + `", the trail "aws/creds/user/xNOehfoMXxateYHQNpXTkNFGG"`},
		{"the issuance's lease", sub(inside, inside+"x", 32), none, `Vault's log says lease "` + lease + `", the trail "aws/creds/user/xNOehfoMXxateYHQNpXTkNFGG"`},
		{"the call's path", sub(path, other, 31), none, `Vault's log says path "aws/creds/user", the trail "aws/creds/other"`},
		{"the issuance's path", sub(path, other, 32), none, `Vault's log says path "aws/creds/user", the trail "aws/creds/other"`},
		{"three leases", sub(inside, inside+"x", 31), sub(inside, inside+"y", 36),
			`Vault's log says lease "aws/creds/user/yNOehfoMXxateYHQNpXTkNFGG", the trail "aws/creds/user/xNOehfoMXxateYHQNpXTkNFGG"; ` +
				`Vault's log says lease "aws/creds/user/yNOehfoMXxateYHQNpXTkNFGG", the trail "` + lease + `"`},
	} {
		s := readSample(t, "hdr")
		s.trail, s.vault = tt.trail(s.trail), tt.vault(s.vault)
		all := s.trace(t, custody.Filter{}).Findings
		found := slices.DeleteFunc(slices.Clone(all), func(f custody.Finding) bool { return f.Code == custody.TrailBroken })
		if len(found) != 1 || found[0].Code != custody.IssuanceMismatch || !strings.HasSuffix(found[0].What, " of aws: "+tt.want+".") {
			t.Errorf("%s: want one %s: %s; findings:%s", tt.name, custody.IssuanceMismatch, tt.want, describe(all))
		}
	}
}
