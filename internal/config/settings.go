package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// A setting is one key of the configuration.
type setting struct {
	key      string // from the top of the file, such as "vault.auth.method"
	form     form
	fallback string // the default, as one would write it; "" is the form's zero value
	flag     string // without dashes; "" if there is none
	usage    string // of the flag
}

// settings are all keys, in the order in which a file is best read.
var settings = []setting{
	{"role", text(checkRole), "", "role", "the agent's `ROLE`"},
	{"policy", text(checkPath), "", "policy", "policy `FILE`, or a directory that holds ROLE.yaml"},
	{"listen", text(checkListen), "127.0.0.1:3128", "listen", "loopback `ADDRESS:PORT` for the agent's requests"},
	{"ops", text(checkOps), "0.0.0.0:3129", "ops", "`ADDRESS:PORT` for probes and metrics, or off"},
	{"admin", text(checkSocket), "", "admin", "`PATH` of the unix socket for status, the session's end and the kill switch"},
	{"ca.dir", text(checkPath), "", "ca-dir", "`DIRECTORY` to write the CA's certificates to"},
	{"session.id", text(checkSessionID), "", "session-id", "what others call the session; its `ID` begins with this"},
	{"session.requested_by", text(checkRequester), "", "requested-by", "`WHO` the session runs for"},
	{"session.podinfo", text(checkPathOrNone), "", "podinfo", "`DIRECTORY` of a downward API volume with the pod's labels and annotations"},
	{"session.ttl", span(), "8h", "session-ttl", "`TIME` after which the session ends"},
	{"vault.address", text(checkVaultAddress), "", "vault-address", "Vault's base `URL`"},
	{"vault.namespace", text(checkGraphic), "", "vault-namespace", "Vault `NAMESPACE`"},
	{"vault.ca_file", text(checkPathOrNone), "", "vault-ca-file", "PEM `FILE` to verify Vault against instead of the system's roots"},
	{"vault.session_token_role", text(checkTokenRole), "", "vault-session-token-role", "token `ROLE` to make the session's own token with"},
	{"vault.auth.method", text(choice(methodNames()...)), "", "vault-auth-method", "login `METHOD`: token, approle, kubernetes, jwt or cert"},
	{"vault.auth.mount", text(checkMount), "", "vault-auth-mount", "`PATH` where the method is mounted (default its name)"},
	{"vault.auth.role", text(checkGraphic), "", "vault-auth-role", "Vault `ROLE` to log in as"},
	{"vault.auth.token_file", text(checkPathOrNone), "", "vault-token-file", "`FILE` with the token to log in with"},
	{"vault.auth.role_id", text(checkGraphic), "", "", ""},
	{"vault.auth.role_id_file", text(checkPathOrNone), "", "", ""},
	{"vault.auth.secret_id_file", text(checkPathOrNone), "", "", ""},
	{"vault.auth.secret_id_wrapped", boolean(), "false", "", ""},
	{"vault.auth.cert_file", text(checkPathOrNone), "", "", ""},
	{"vault.auth.key_file", text(checkPathOrNone), "", "", ""},
	{"vault.auth.verify", words(claims...), "", "", ""},
	{"upstream.allow_cidrs", prefixes(), "", "", ""},
	{"upstream.resolve", addresses(), "", "", ""},
	{"upstream.ca_file", text(checkPathOrNone), "", "", ""},
	{"audit.path", text(checkPath), "-", "audit", "`FILE` to append audit records to, unix:PATH of a socket, or - for stdout"},
	{"audit.sync", boolean(), "false", "", ""},
	{"audit.segment", size(64 << 10), "64MiB", "", ""},
	{"audit.keep", count(), "0", "", ""},
	{"audit.otlp.endpoint", text(checkEndpoint), "", "", ""},
	{"audit.otlp.ca_file", text(checkPathOrNone), "", "", ""},
	{"audit.otlp.token_file", text(checkPathOrNone), "", "", ""},
	{"connect_refusal", text(choice(refuseServed, refuseEarly)), refuseServed, "connect-refusal", "`WHERE` an unknown host is refused: served or early"},
	{"drain_grace", span(), "20s", "drain-grace", "`TIME` that running requests may take after SIGTERM"},
	{"log_level", text(choice("debug", "info", "warn", "error")), "info", "log-level", "least `LEVEL` to log: debug, info, warn or error"},
}

// planned are the keys of docs/design.md that this version does not know what to do with.
// Ignoring one would leave its reader with a protection that is not there.
var planned = []string{"ca.state", "upstream.proxy"}

const (
	refuseServed = "served"
	refuseEarly  = "early"
)

const envPrefix = "SIDEKEY_"

// envConfig stands for --config. It says where the file is, not what is in it.
const envConfig = envPrefix + "CONFIG"

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Flags defines the flags that [Load] reads on fs. They take any text: Load says what is wrong
// with it, together with everything else that is wrong.
func Flags(fs *pflag.FlagSet) { Defaults(nil).Flags(fs) }

// Flags is like the function, and shows the defaults of d.
func (d Defaults) Flags(fs *pflag.FlagSet) {
	for _, s := range settings {
		if s.flag != "" {
			fs.String(s.flag, d.of(s), s.usage)
		}
	}
}

func (d Defaults) of(s setting) string {
	if own, ok := d[s.key]; ok {
		return own
	}
	return s.fallback
}
