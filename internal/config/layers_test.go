package config_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/policy"
)

// flagsOf returns the flags of serve after a command line.
func flagsOf(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.Flags(fs)
	fs.String("config", "", "not a setting")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const minimal = "role: file\npolicy: p\nca: {dir: d}\n"

func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		name string
		file string
		env  string // separated by spaces
		args string
		want string
	}{
		{"default", "", "", "", "info"},
		{"file over default", "log_level: warn", "", "", "warn"},
		{"env over default", "", "SIDEKEY_LOG_LEVEL=error", "", "error"},
		{"env over file", "log_level: warn", "SIDEKEY_LOG_LEVEL=error", "", "error"},
		{"flag over env", "log_level: warn", "SIDEKEY_LOG_LEVEL=error", "--log-level=debug", "debug"},
		{"flag over file", "log_level: warn", "", "--log-level=debug", "debug"},
		{"flag with its default", "log_level: warn", "", "--log-level=info", "info"},
		{"flag not given", "log_level: warn", "", "--role=r", "warn"},
		{"env without value", "log_level: warn", "SIDEKEY_LOG_LEVEL=", "", "warn"},
		{"env of others", "log_level: warn", "LOG_LEVEL=error XSIDEKEY_LOG_LEVEL=error sidekey_log_level=error", "", "warn"},
		{"the file's name", "", "SIDEKEY_CONFIG=/etc/sidekey.yaml", "--config=x", "info"},
	} {
		got, err := config.Load(write(t, minimal+tt.file), strings.Fields(tt.env), flagsOf(t, strings.Fields(tt.args)...))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got.LogLevel != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got.LogLevel, tt.want)
		}
	}
}

// A list and a map of one layer replace those of the layer below, and a flag may empty a text.
func TestLayersReplace(t *testing.T) {
	path := write(t, minimal+`
session: {id: file, requested_by: file}
audit: {sync: true}
upstream: {allow_cidrs: [10.0.0.0/8], resolve: {a.example.com: 10.0.0.1, b.example.com: 10.0.0.2}}
`)
	env := []string{
		"SIDEKEY_UPSTREAM_ALLOW_CIDRS=192.168.0.0/16, fd00::/8",
		"SIDEKEY_UPSTREAM_RESOLVE=c.example.com=10.0.0.3,d.example.com=fd00::1",
		"SIDEKEY_AUDIT_SYNC=false",
	}
	got, err := config.Load(path, env, flagsOf(t, "--session-id="))
	if err != nil {
		t.Fatal(err)
	}
	if got.Session.ID != "" || got.Session.RequestedBy != "file" || got.Audit.Sync {
		t.Errorf("got %+v, sync %t", got.Session, got.Audit.Sync)
	}
	want := config.Upstream{
		AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fd00::/8")},
		Resolve:    map[string]netip.Addr{"c.example.com": netip.MustParseAddr("10.0.0.3"), "d.example.com": netip.MustParseAddr("fd00::1")},
	}
	if diff := cmp.Diff(want, got.Upstream, equateAddrs); diff != "" {
		t.Errorf("upstream (-want +got):\n%s", diff)
	}
}

// Every key as a variable, and nothing else.
func TestEnvOnly(t *testing.T) {
	got, err := config.Load("", []string{
		"PATH=/bin",
		"SIDEKEY_ROLE=r",
		"SIDEKEY_POLICY=p",
		"SIDEKEY_LISTEN=127.0.0.2:1",
		"SIDEKEY_OPS=off",
		"SIDEKEY_ADMIN=as",
		"SIDEKEY_CA_DIR=d",
		"SIDEKEY_SESSION_ID=i",
		"SIDEKEY_SESSION_REQUESTED_BY=a=b c",
		"SIDEKEY_SESSION_PODINFO=pi",
		"SIDEKEY_SESSION_TTL=1h",
		"SIDEKEY_VAULT_ADDRESS=http://[::1]:8200",
		"SIDEKEY_VAULT_NAMESPACE=n",
		"SIDEKEY_VAULT_CA_FILE=vc",
		"SIDEKEY_VAULT_SESSION_TOKEN_ROLE=st",
		"SIDEKEY_VAULT_AUTH_METHOD=approle",
		"SIDEKEY_VAULT_AUTH_MOUNT=m",
		"SIDEKEY_VAULT_AUTH_ROLE=",
		"SIDEKEY_VAULT_AUTH_TOKEN_FILE=",
		"SIDEKEY_VAULT_AUTH_ROLE_ID=ri",
		"SIDEKEY_VAULT_AUTH_ROLE_ID_FILE=",
		"SIDEKEY_VAULT_AUTH_SECRET_ID_FILE=si",
		"SIDEKEY_VAULT_AUTH_SECRET_ID_WRAPPED=true",
		"SIDEKEY_VAULT_AUTH_CERT_FILE=",
		"SIDEKEY_VAULT_AUTH_KEY_FILE=",
		"SIDEKEY_VAULT_AUTH_VERIFY=pod_name, namespace",
		"SIDEKEY_UPSTREAM_CA_FILE=uc",
		"SIDEKEY_UPSTREAM_ALLOW_CIDRS=",
		"SIDEKEY_UPSTREAM_RESOLVE=",
		"SIDEKEY_AUDIT_PATH=a",
		"SIDEKEY_AUDIT_SYNC=true",
		"SIDEKEY_AUDIT_SEGMENT=1MiB",
		"SIDEKEY_AUDIT_KEEP=7",
		"SIDEKEY_CONNECT_REFUSAL=early",
		"SIDEKEY_DRAIN_GRACE=1m",
		"SIDEKEY_LOG_LEVEL=warn",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Role: "r", Policy: "p", Listen: "127.0.0.2:1", Admin: "as", CADir: "d",
		Session: config.Session{ID: "i", RequestedBy: "a=b c", TTL: time.Hour, PodInfo: "pi"},
		Vault: &config.Vault{Address: "http://[::1]:8200", Namespace: "n", CAFile: "vc", SessionTokenRole: "st", Auth: config.Auth{
			Method: "approle", Mount: "m", RoleID: "ri", SecretIDFile: "si", SecretIDWrapped: true, Verify: []string{"pod_name", "namespace"},
		}},
		Upstream:    config.Upstream{CAFile: "uc"},
		Audit:       config.Audit{Path: "a", Sync: true, Segment: 1 << 20, Keep: 7},
		RefuseEarly: true, DrainGrace: time.Minute, LogLevel: "warn",
	}
	if diff := cmp.Diff(want, got, equateAddrs, cmpopts.EquateEmpty(), ignorePlaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every flag, and nothing else.
func TestFlagsOnly(t *testing.T) {
	args := []string{
		"--role=r", "--policy=p", "--listen=[::1]:3128", "--ops=127.0.0.1:0", "--admin=as", "--ca-dir=d",
		"--session-id=i", "--requested-by=a b", "--podinfo=pi", "--session-ttl=1h",
		"--vault-address=https://vault", "--vault-namespace=n", "--vault-ca-file=vc", "--vault-session-token-role=st",
		"--vault-auth-method=kubernetes", "--vault-auth-mount=m", "--vault-auth-role=vr", "--vault-token-file=t",
		"--audit=a", "--connect-refusal=early", "--drain-grace=1m", "--log-level=warn",
	}
	flags := flagsOf(t, args...)
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Changed && f.Name != "config" {
			t.Errorf("--%s is not tested", f.Name)
		}
	})
	got, err := config.Load("", nil, flags)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Role: "r", Policy: "p", Listen: "[::1]:3128", Ops: "127.0.0.1:0", Admin: "as", CADir: "d",
		Session:     config.Session{ID: "i", RequestedBy: "a b", TTL: time.Hour, PodInfo: "pi"},
		Vault:       &config.Vault{Address: "https://vault", Namespace: "n", CAFile: "vc", SessionTokenRole: "st", Auth: config.Auth{Method: "kubernetes", Mount: "m", Role: "vr", TokenFile: "t"}},
		Audit:       config.Audit{Path: "a", Segment: 64 << 20},
		RefuseEarly: true, DrainGrace: time.Minute, LogLevel: "warn",
	}
	if diff := cmp.Diff(want, got, equateAddrs, cmpopts.EquateEmpty(), ignorePlaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The help shows the defaults that hold.
func TestFlagDefaults(t *testing.T) {
	var args []string
	flagsOf(t).VisitAll(func(f *pflag.Flag) {
		if f.DefValue != "" {
			args = append(args, "--"+f.Name+"="+f.DefValue)
		}
		if f.Usage == "" {
			t.Errorf("--%s has no usage", f.Name)
		}
	})
	if len(args) == 0 {
		t.Fatal("no flag has a default")
	}
	path := write(t, minimal)
	want, err := config.Load(path, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path, nil, flagsOf(t, args...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equateAddrs, ignorePlaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// One row is one wrong layer over a file that is right.
func TestWrongLayer(t *testing.T) {
	const vault = "vault: {address: 'https://v', auth: {method: kubernetes, role: r, token_file: t}}"
	for _, tt := range []struct {
		file, env, arg string
		want           []string // prefixes of the report, then after " ... " what else is in it
	}{
		{"", "SIDEKEY_LISTEN=10.0.0.1:3128", "", []string{`env SIDEKEY_LISTEN: listen: "10.0.0.1:3128" is reachable ... write a loopback address, such as 127.0.0.1:3128`}},
		{"", "", "--listen=[::ffff:127.0.0.1]:1", []string{`flag --listen: listen: ... write 127.0.0.1:1`}},
		{"", "", "--listen=[::1%lo]:1", []string{`flag --listen: listen: "[::1%lo]:1" has a zone`}},
		{"", "", "--listen=127.0.0.1:03128", []string{`flag --listen: ... write 127.0.0.1:3128`}},
		{"", "", "--listen=127.0.0.1:65536", []string{`flag --listen: listen: "127.0.0.1:65536" is not an IP address and a port`}},
		{"", "", "--role=", []string{`flag --role: role: "" is not a role`}},
		{"", "", "--role=-a", []string{`flag --role: `}},
		{"", "", "--role=" + strings.Repeat("a", 64), []string{`flag --role: `}},
		{"", "", "--session-ttl=0s", []string{"flag --session-ttl: session.ttl: the time span must be greater than zero"}},
		{"", "", "--session-ttl=1us", []string{`flag --session-ttl: session.ttl: "1us" is not a time span`}},
		{"", "", "--session-ttl=", []string{`flag --session-ttl: session.ttl: "" is not a time span`}},
		{"", "", "--session-id=" + strings.Repeat("a", 129), []string{"flag --session-id: "}},
		{"", "", "--requested-by=" + strings.Repeat("a", 257), []string{"flag --requested-by: session.requested_by: the text is longer than 256 bytes"}},
		{"", "SIDEKEY_SESSION_REQUESTED_BY=\xff", "", []string{"env SIDEKEY_SESSION_REQUESTED_BY: "}},
		{"", "SIDEKEY_POLICY=\xff", "", []string{"env SIDEKEY_POLICY: policy: the path "}},
		{"", "SIDEKEY_AUDIT_SEGMENT=64MB", "", []string{`env SIDEKEY_AUDIT_SEGMENT: audit.segment: "64MB" is not a size that is possible here`}},
		{"", "SIDEKEY_AUDIT_SEGMENT=1KiB", "", []string{`env SIDEKEY_AUDIT_SEGMENT: audit.segment: "1KiB" is not a size that is possible here`}},
		{"", "SIDEKEY_AUDIT_KEEP=-1", "", []string{`env SIDEKEY_AUDIT_KEEP: audit.keep: -1 is less than zero`}},
		{"", "SIDEKEY_AUDIT_KEEP=all", "", []string{`env SIDEKEY_AUDIT_KEEP: audit.keep: "all" is not a number`}},
		{"", "SIDEKEY_AUDIT_OTLP_ENDPOINT=http://otel.example.com:4318", "", []string{"env SIDEKEY_AUDIT_OTLP_ENDPOINT: audit.otlp.endpoint: http would send the records in clear ... write https://otel.example.com:4318"}},
		{"", "SIDEKEY_AUDIT_OTLP_ENDPOINT=grpc://otel:4317", "", []string{`env SIDEKEY_AUDIT_OTLP_ENDPOINT: audit.otlp.endpoint: "grpc" is neither https nor http`}},
		{"", "SIDEKEY_AUDIT_OTLP_ENDPOINT=otel:4317", "", []string{"env SIDEKEY_AUDIT_OTLP_ENDPOINT: audit.otlp.endpoint: the endpoint is not an absolute URL"}},
		{"", "SIDEKEY_AUDIT_OTLP_ENDPOINT=https://user:pass@otel", "", []string{"env SIDEKEY_AUDIT_OTLP_ENDPOINT: audit.otlp.endpoint: a user, a query or a fragment"}},
		{"", "SIDEKEY_AUDIT_OTLP_CA_FILE=/c", "", []string{"env SIDEKEY_AUDIT_OTLP_CA_FILE: audit.otlp.ca_file: there is no audit.otlp.endpoint"}},
		{"", "SIDEKEY_AUDIT_SYNC=1", "", []string{`env SIDEKEY_AUDIT_SYNC: audit.sync: "1" is neither true nor false`}},
		{"", "SIDEKEY_UPSTREAM_ALLOW_CIDRS=10.0.0.1/8,x", "", []string{
			"env SIDEKEY_UPSTREAM_ALLOW_CIDRS: upstream.allow_cidrs: ... write 10.0.0.0/8",
			`env SIDEKEY_UPSTREAM_ALLOW_CIDRS: upstream.allow_cidrs: "x" is not an address range`,
		}},
		{"", "SIDEKEY_UPSTREAM_RESOLVE=a,b=10.0.0.1,b=10.0.0.2", "", []string{
			`env SIDEKEY_UPSTREAM_RESOLVE: upstream.resolve: "a" has no =`,
			`env SIDEKEY_UPSTREAM_RESOLVE: upstream.resolve: the host "b" is there twice`,
		}},
		{"", "SIDEKEY_LISTN=x", "", []string{"env SIDEKEY_LISTN: unknown variable\n\thint: did you mean SIDEKEY_LISTEN?"}},
		{"", "SIDEKEY_LISTN=", "", []string{"env SIDEKEY_LISTN: unknown variable"}},
		{"", "SIDEKEY_VAULT_TOKEN=s3cret", "", []string{"env SIDEKEY_VAULT_TOKEN: unknown variable"}},
		{"", "SIDEKEY_ADMIN=/run/admin.sock", "", nil},
		{"", "SIDEKEY_UPSTREAM_PROXY=", "", []string{"env SIDEKEY_UPSTREAM_PROXY: not supported yet in this version"}},
		{"", "SIDEKEY_CA_STATE=", "", []string{"env SIDEKEY_CA_STATE: not supported yet in this version"}},
		{"", "SIDEKEY_SERVICE_PORT_OPS=3129", "", []string{"env SIDEKEY_SERVICE_PORT_OPS: unknown variable ... enableServiceLinks: false"}},
		{"", "SIDEKEY_X_PORT_3129_TCP_ADDR=10.0.0.1", "", []string{"env SIDEKEY_X_PORT_3129_TCP_ADDR: unknown variable ... enableServiceLinks: false"}},
		{vault, "SIDEKEY_VAULT_ADDRESS=https://vault.example.com:0", "", []string{"env SIDEKEY_VAULT_ADDRESS: vault.address: port "}},
		{vault, "", "--vault-address=https://vault.example.com/", []string{"flag --vault-address: vault.address: ... write https://vault.example.com"}},
		{vault, "", "--vault-address=http://localhost.example.com", []string{"flag --vault-address: vault.address: http would send the token in clear"}},
		{vault, "", "--vault-address=http://localhost:8200", nil},
		// A mistake that a later layer hides is still one.
		{"listen: x", "SIDEKEY_LISTEN=y", "--listen=127.0.0.1:1", []string{`$FILE:4:9: listen: "x"`, `env SIDEKEY_LISTEN: listen: "y"`}},
		// The layer that brings Vault in is where the rest is asked for.
		{"", "SIDEKEY_VAULT_NAMESPACE=n", "", []string{
			"env SIDEKEY_VAULT_NAMESPACE: vault.namespace: the key vault.address is missing",
			"env SIDEKEY_VAULT_NAMESPACE: vault.namespace: the key vault.auth.method is missing\n\thint: write vault: {auth: {method: kubernetes}}, or",
		}},
		{"", "", "--vault-address=https://v", []string{"flag --vault-address: vault.address: the key vault.auth.method is missing"}},
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=approle", "", []string{
			"env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: the method approle needs vault.auth.role_id or ",
			"env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: the method approle needs vault.auth.secret_id_file",
		}},
		{vault, "SIDEKEY_VAULT_AUTH_SECRET_ID_FILE=s", "", []string{"env SIDEKEY_VAULT_AUTH_SECRET_ID_FILE: vault.auth.secret_id_file: the method kubernetes has no use for it"}},
		{vault, "", "--vault-auth-role=", []string{"$FILE:4:"}},
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=jwt", "", nil},
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=jtw", "", []string{`env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: "jtw" is not one of ... did you mean jwt?`}},
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=cert", "--vault-address=http://127.0.0.1:1", []string{
			"env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: the method cert needs vault.auth.cert_file",
			"env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: the method cert needs vault.auth.key_file",
			"env SIDEKEY_VAULT_AUTH_METHOD: vault.auth.method: the method cert needs an https address",
		}},
		{vault, "SIDEKEY_VAULT_AUTH_SECRET_ID_WRAPPED=true", "", []string{"env SIDEKEY_VAULT_AUTH_SECRET_ID_WRAPPED: vault.auth.secret_id_wrapped: the method kubernetes has no use for it"}},
		{vault, "SIDEKEY_VAULT_AUTH_SECRET_ID_WRAPPED=false", "", nil},
		{vault, "SIDEKEY_VAULT_AUTH_VERIFY=pod_uid,,pod_uid", "", []string{
			`env SIDEKEY_VAULT_AUTH_VERIFY: vault.auth.verify: "" is not one of `,
			`env SIDEKEY_VAULT_AUTH_VERIFY: vault.auth.verify: "pod_uid" is there twice`,
		}},
		{vault, "", "--vault-session-token-role=..", []string{`flag --vault-session-token-role: vault.session_token_role: ".." is not a token role`}},
		{vault, "", "--vault-address=https://vault.example.com/v1/", []string{`flag --vault-address: vault.address: the address has a path, "/v1/" ... write https://vault.example.com; Sidekey adds /v1`}},
		{vault, "", "--vault-address=https://vault.example.com/v1?a", []string{`flag --vault-address: vault.address: a user, a path, a query or a fragment has no place`}},
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=token", "--vault-auth-role=r", []string{"flag --vault-auth-role: vault.auth.role: the method token has no use for it"}},
		// The file's role is below the variable's method.
		{vault, "SIDEKEY_VAULT_AUTH_METHOD=token", "", nil},
	} {
		path := write(t, minimal+tt.file)
		var env []string
		if tt.env != "" {
			env = []string{tt.env}
		}
		var args []string
		if tt.arg != "" {
			args = []string{tt.arg}
		}
		_, err := config.Load(path, env, flagsOf(t, args...))
		got := mistakes(t, err)
		same := slices.EqualFunc(got, tt.want, func(m policy.Mistake, want string) bool {
			begin, rest, _ := strings.Cut(strings.Replace(want, "$FILE", path, 1), " ... ")
			return strings.HasPrefix(m.String(), begin) && strings.Contains(m.String(), rest)
		})
		if !same {
			t.Errorf("%q %q %q:\n%v\nwant %q", tt.file, tt.env, tt.arg, got, tt.want)
		}
		if strings.Contains(got.Error(), "s3cret") {
			t.Errorf("%q: the value of an unknown variable is in the report", tt.env)
		}
	}
}

// The order of a report does not depend on that of the environment.
func TestOrder(t *testing.T) {
	env := []string{"SIDEKEY_X=1", "SIDEKEY_LOG_LEVEL=x", "SIDEKEY_A=1", "SIDEKEY_LISTEN=x"}
	want := []string{"$FILE:1:1", "$FILE:1:1", "$FILE:1:5", "env SIDEKEY_A", "env SIDEKEY_LISTEN", "env SIDEKEY_LOG_LEVEL", "env SIDEKEY_X", "flag --drain-grace", "flag --listen"}
	path := write(t, "ca: {}\n")
	flags := flagsOf(t, "--listen=x", "--drain-grace=x")
	for range 2 {
		_, err := config.Load(path, env, flags)
		var got []string
		for _, m := range mistakes(t, err) {
			got = append(got, strings.Replace(m.Where, path, "$FILE", 1))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		slices.Reverse(env)
	}
}

func TestNothingGiven(t *testing.T) {
	_, err := config.Load("", nil, nil)
	var got []string
	for _, m := range mistakes(t, err) {
		got = append(got, m.String())
	}
	want := []string{
		"config: the key role is missing\n\thint: write role: pr-reviewer, or set SIDEKEY_ROLE or --role",
		"config: the key policy is missing\n\thint: write policy: /etc/sidekey/policy, or set SIDEKEY_POLICY or --policy",
		"config: the key ca.dir is missing\n\thint: write ca: {dir: /run/sidekey-ca}, or set SIDEKEY_CA_DIR or --ca-dir",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhere(t *testing.T) {
	path := write(t, minimal)
	cfg, err := config.Load(path, []string{"SIDEKEY_AUDIT_PATH=x"}, flagsOf(t, "--log-level=debug"))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"role": path + ":1:7", "audit.path": "env SIDEKEY_AUDIT_PATH", "log_level": "flag --log-level", "ops": "config"} {
		if got := cfg.Where(key); got != want {
			t.Errorf("Where(%s) = %q, want %q", key, got, want)
		}
	}
}
