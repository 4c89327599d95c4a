package main

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Names that usually hold a credential, or lead to one. They are matched against the name's words,
// so that MONKEY is no KEY.
var (
	credentialWords = []string{
		"TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "CREDENTIAL", "CREDENTIALS",
		"APIKEY", "PAT", "JWT", "BEARER", "COOKIE", "AUTH", "DSN", "NETRC", "KUBECONFIG", "PGPASSWORD", "PGPASSFILE",
	}
	credentialPairs = []string{
		"API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "SECRET_KEY", "SIGNING_KEY", "ENCRYPTION_KEY", "DEPLOY_KEY", "SERVICE_KEY",
		"ACCOUNT_KEY", "MASTER_KEY", "SSH_KEY", "CONNECTION_STRING", "DATABASE_URL", "REDIS_URL", "MONGO_URL", "MONGODB_URI",
	}
	credentialPrefixes = []string{"VAULT_", "BAO_", "SIDEKEY_", "AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_WEB_IDENTITY", "AWS_CONTAINER_"}
	credentialNames    = []string{"SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "MYSQL_PWD", "DOCKER_CONFIG"}
	harmlessNames      = []string{"PWD", "OLDPWD", "XAUTHORITY", "COLORTERM"}
)

// What a credential looks like whatever its variable is called.
var credentialValue = regexp.MustCompile(
	`^(gh[pousr]_|github_pat_|glpat-|sk-|sk_live_|rk_live_|xox[abeoprs]-|xapp-|AKIA|ASIA|AIza|ya29\.|hv[sbr]\.|npm_|pypi-|dckr_pat_|eyJ[A-Za-z0-9_-]{10,}\.)|-----BEGIN [A-Z ]*PRIVATE KEY`)

// looksLikeCredential reports whether a variable should be kept from an agent.
func looksLikeCredential(name, value string) bool {
	upper := strings.ToUpper(name)
	if slices.Contains(harmlessNames, upper) {
		return false
	}
	if slices.Contains(credentialNames, upper) || credentialValue.MatchString(value) {
		return true
	}
	for _, p := range credentialPrefixes {
		if strings.HasPrefix(upper, p) {
			return true
		}
	}
	for _, p := range credentialPairs {
		if strings.Contains("_"+upper+"_", "_"+p+"_") {
			return true
		}
	}
	for word := range strings.SplitSeq(upper, "_") {
		if slices.Contains(credentialWords, word) {
			return true
		}
	}
	u, err := url.Parse(value)
	if err != nil || u.User == nil {
		return false
	}
	_, hasPassword := u.User.Password()
	return hasPassword
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
