package main

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// What is taken for a credential. It errs on the side of removing: --keep-env keeps one, and a
// credential that was left in is one that the agent has.
var (
	// A name one of whose words ends in one of these.
	credentialEndings = []string{
		"TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "APIKEY", "SECRETKEY", "ACCESSKEY",
	}
	// A name one of whose words is one of these.
	credentialWords = []string{"PAT", "JWT", "BEARER", "COOKIE", "DSN", "NETRC", "KUBECONFIG", "PGPASSFILE", "ASKPASS"}
	// A name whose last word is one of these.
	credentialLast = []string{"KEY", "AUTH", "PASS", "PWD", "TOKENS"}
	// A name that begins with one of these.
	credentialPrefixes = []string{"VAULT_", "BAO_", "SIDEKEY_", "AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_WEB_IDENTITY", "AWS_CONTAINER_"}
	// Names that lead to credentials, or to an agent that hands them out.
	credentialNames = []string{
		"SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "MYSQL_PWD", "DOCKER_CONFIG", "DATABASE_URL", "REDIS_URL", "MONGO_URL", "MONGODB_URI",
		"GIT_ASKPASS", "VSCODE_GIT_IPC_HANDLE", "DBUS_SESSION_BUS_ADDRESS", "KRB5CCNAME", "GH_CONFIG_DIR", "AWS_CONFIG_FILE", "DOCKER_AUTH_CONFIG",
	}
	harmlessNames = []string{"PWD", "OLDPWD", "XAUTHORITY", "COLORTERM", "NO_AUTH"}
)

// What a credential looks like, wherever it stands in the value.
var credentialValue = regexp.MustCompile(
	`(^|[^A-Za-z0-9])(gh[pousr]_[A-Za-z0-9]{3}|github_pat_|gl(pat|rt|ptt|dt)-|sk-(proj|ant|live|test|or|svcacct)-|sk-[A-Za-z0-9]{20}|[sr]k_(live|test)_|xox[abeoprs]-|xapp-|(AKIA|ASIA)[A-Z0-9]{16}|` +
		`AIza[A-Za-z0-9_-]{30}|ya29\.|hv[sbr]\.|npm_[A-Za-z0-9]{20}|pypi-[A-Za-z0-9]{16}|dckr_pat_|hf_[A-Za-z0-9]{16}|SG\.[A-Za-z0-9_-]{16}|dop_v1_|shp(at|ss|ca)_|lin_api_|ATATT[A-Za-z0-9]|` +
		`AGE-SECRET-KEY-|eyJ[A-Za-z0-9_-]{10,}\.)` +
		`|-----BEGIN [A-Z ]*PRIVATE KEY` +
		`|(?i)(^|[^a-z])(bearer|basic)\s+[a-z0-9+/_.=-]{6}` +
		`|(?i)(^|[^a-z])(password|passwd|pwd|api[-_]?key|access[-_]?token|secret)=[^\s&]` +
		`|^[^\s:/@]+:[^\s/@]+@(tcp|unix)?\(` +
		`|//hooks\.slack\.com/services/`)

// looksLikeCredential reports whether a variable should be kept from an agent.
func looksLikeCredential(name, value string) bool {
	upper := strings.ToUpper(name)
	switch {
	case slices.Contains(harmlessNames, upper):
		return false
	case slices.Contains(credentialNames, upper), credentialValue.MatchString(value), hasUserinfo(value):
		return true
	}
	for _, p := range credentialPrefixes {
		if strings.HasPrefix(upper, p) {
			return true
		}
	}
	if strings.HasSuffix(upper, "CONNECTION_STRING") {
		return true
	}
	words := strings.FieldsFunc(upper, func(r rune) bool { return !unicode.IsLetter(r) })
	for i, word := range words {
		endsLike := func(ending string) bool { return strings.HasSuffix(word, ending) }
		if slices.Contains(credentialWords, word) || slices.ContainsFunc(credentialEndings, endsLike) {
			return true
		}
		if i == len(words)-1 && slices.Contains(credentialLast, word) {
			return !isNumber(value) && !(word == "KEY" && i > 0 && words[i-1] == "PUBLIC")
		}
	}
	return false
}

// hasUserinfo reports whether value is a URL with a password, or with a user name that is long
// enough to be a token.
func hasUserinfo(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.User == nil || u.Host == "" {
		return false
	}
	_, hasPassword := u.User.Password()
	return hasPassword || len(u.User.Username()) >= 16
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// scrub returns environ without what looks like a credential, without what set replaces, and with
// set; removed has the names of what looked like a credential, sorted.
func scrub(environ []string, keep []string, set []variable) (out, removed []string) {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		replaced := slices.ContainsFunc(set, func(v variable) bool { return v.Name == name })
		switch {
		case replaced:
		case !slices.Contains(keep, name) && looksLikeCredential(name, value):
			removed = append(removed, name)
		default:
			out = append(out, kv)
		}
	}
	for _, v := range set {
		out = append(out, v.Name+"="+v.Value)
	}
	slices.Sort(removed)
	return out, removed
}
