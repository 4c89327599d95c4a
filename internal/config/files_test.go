package config_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/policy"
)

// Each file in testdata/*.bad.yaml ends in its mistakes, in order: "# want: LINE:COLUMN TEXT",
// where TEXT is part of the report and \n and \t stand for themselves.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := config.Load(file, nil, nil)
			got := mistakes(t, err)
			want := wants(t, file)
			for i, m := range got {
				if i >= len(want) {
					t.Errorf("not wanted: %v", m)
					continue
				}
				at, text, _ := strings.Cut(want[i], " ")
				if m.Where != file+":"+at || !strings.Contains(m.String(), text) {
					t.Errorf("got  %v\nwant %s", m, want[i])
				}
			}
			if len(got) < len(want) {
				t.Errorf("not found: %q", want[len(got):])
			}
		})
	}
}

func wants(t *testing.T, file string) []string {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(src)) {
		if text, ok := strings.CutPrefix(line, "# want: "); ok {
			text = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t").Replace(strings.TrimSuffix(text, "\n"))
			want = append(want, text)
		}
	}
	if len(want) == 0 {
		t.Fatalf("%s says nothing of its mistakes", file)
	}
	return want
}

// mistakes returns err as what Load promises.
func mistakes(t *testing.T, err error) policy.Mistakes {
	t.Helper()
	var ms policy.Mistakes
	if err != nil && !errors.As(err, &ms) {
		t.Fatalf("Load: %T is not policy.Mistakes: %v", err, err)
	}
	return ms
}

// equateAddrs compares addresses by value: their fields are not exported.
var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// ignorePlaces leaves out where a value came from; [config.Config.Where] tells.
var ignorePlaces = cmpopts.IgnoreUnexported(config.Config{})

func defaults() *config.Config {
	return &config.Config{
		Role:       "pr-reviewer",
		Policy:     "policy.yaml",
		Listen:     "127.0.0.1:3128",
		Ops:        "0.0.0.0:3129",
		CADir:      "/run/sidekey-ca",
		Session:    config.Session{TTL: 8 * time.Hour},
		Audit:      config.Audit{Path: "-", Segment: 64 << 20},
		DrainGrace: 20 * time.Second,
		LogLevel:   "info",
	}
}

func TestGoodFiles(t *testing.T) {
	empty := defaults()
	empty.Vault = &config.Vault{Address: "http://127.0.0.1:8200", Auth: config.Auth{Method: "token", TokenFile: "/t"}}
	jwt, cert := defaults(), defaults()
	jwt.Vault = &config.Vault{Address: "https://vault.example.com", SessionTokenRole: "sidekey-session", Auth: config.Auth{
		Method: "jwt", Role: "pr-reviewer", TokenFile: "/t", Verify: []string{"pod_uid", "session_id"},
	}}
	cert.Vault = &config.Vault{Address: "https://vault.example.com", Auth: config.Auth{Method: "cert", Role: "pr", CertFile: "/c", KeyFile: "/k"}}
	for _, tt := range []struct {
		file string
		want *config.Config
	}{
		{"vault-jwt.yaml", jwt},
		{"vault-cert.yaml", cert},
		{"minimal.yaml", defaults()},
		{"empty-values.yaml", empty},
		{"full.yaml", &config.Config{
			Role:    "pr-reviewer",
			Policy:  "/etc/sidekey/policy",
			Listen:  "[::1]:0",
			Admin:   "/run/sidekey/admin.sock",
			CADir:   "/run/sidekey-ca",
			Session: config.Session{ID: "Pod.1_a-b", RequestedBy: "Åsa <asa@example.com>", TTL: 90 * time.Minute, PodInfo: "/etc/podinfo"},
			Vault: &config.Vault{
				Address:          "https://vault.vault.svc:8200",
				Namespace:        "team/a",
				CAFile:           "/etc/sidekey/vault.crt",
				SessionTokenRole: "sidekey-session",
				Auth: config.Auth{
					Method: "approle", Mount: "login/approle", RoleIDFile: "/run/role_id",
					SecretIDFile: "/run/secret_id", SecretIDWrapped: true, Verify: []string{"requested_by"},
				},
			},
			Upstream: config.Upstream{
				AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
				Resolve: map[string]netip.Addr{
					"api.internal.example.com": netip.MustParseAddr("10.1.2.3"),
					"git_1.example.com":        netip.MustParseAddr("fd00::1"),
				},
				CAFile: "/etc/sidekey/upstream.crt",
			},
			Audit: config.Audit{Path: "/var/log/audit.jsonl", Sync: true, Segment: 64 << 20, OTLP: config.OTLP{
				Endpoint: "https://otel.example.com:4318/logs", CAFile: "/etc/sidekey/otel.crt", TokenFile: "/run/otel-token",
			}},
			RefuseEarly: true,
			DrainGrace:  500 * time.Millisecond,
			LogLevel:    "debug",
		}},
	} {
		got, err := config.Load(filepath.Join("testdata", tt.file), nil, nil)
		if err != nil {
			t.Errorf("Load(%s): %v", tt.file, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, equateAddrs, cmpopts.EquateEmpty(), ignorePlaces); diff != "" {
			t.Errorf("Load(%s) (-want +got):\n%s", tt.file, diff)
		}
	}
}

// The examples that people start from must load.
func TestExamples(t *testing.T) {
	if _, err := config.Load("../../examples/compose/config/config.yaml", nil, nil); err != nil {
		t.Error(err)
	}
	manifest, err := os.Open("../../examples/kubernetes/pr-reviewer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	found := 0
	for docs := yaml.NewDecoder(manifest); ; {
		var object struct{ Data map[string]string }
		if err := docs.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if text, ok := object.Data["config.yaml"]; ok {
			found++
			if _, err := config.Load(write(t, text), nil, nil); err != nil {
				t.Error(err)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d ConfigMaps hold a config.yaml, want 1", found)
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, []byte(strings.Repeat("#", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(dir, "gone.yaml")
	for _, tt := range []struct{ path, where, msg string }{
		{gone, gone, "no such file"},
		{dir, dir, "is a directory"},
		{large, large + ":1:1", "larger than"},
	} {
		// Nothing else is reported: what is missing may be in the file.
		_, err := config.Load(tt.path, nil, nil)
		ms := mistakes(t, err)
		if len(ms) != 1 || ms[0].Where != tt.where || !strings.Contains(ms[0].Msg, tt.msg) {
			t.Errorf("Load(%s) = %v, want one mistake at %s: %s", tt.path, err, tt.where, tt.msg)
		}
	}
}

// A password in the address must not get into the report.
func TestAddressNotRepeated(t *testing.T) {
	const canary = "c4n4ry"
	for _, address := range []string{
		"https://u:" + canary + "@vault.example.com",
		"https://u:1/" + canary + "@vault.example.com",
		"https://12:1" + canary + "/@vault.example.com",
		"ftp://u:" + canary + "@vault.example.com",
		"https://u:%zz" + canary + "@vault.example.com",
		canary,
	} {
		_, err := config.Load("", []string{"SIDEKEY_VAULT_ADDRESS=" + address}, nil)
		ms := mistakes(t, err)
		if report := fmt.Sprint(ms); strings.Contains(report, canary) || !strings.Contains(report, "env SIDEKEY_VAULT_ADDRESS: vault.address: ") {
			t.Errorf("Load with the address %q:\n%s", address, report)
		}
	}
}
