package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sidekey/sidekey/vault/vaulttest"
)

// cmdVault starts the stand-in for Vault, or does something to it:
//
//	vault [-tls] [-ttl DURATION]   start; DURATION is that of a lease of github/token/tester
//	vault down|up|seal             drop connections, answer again, answer 503
//	vault deny PREFIX              answer 403 below PREFIX
//	vault fail STATUS              answer the next request with STATUS
//	vault leases|tokens            print how many there are
//	vault requests|metadata        print the requests, or the metadata of each one's token
//
// Starting sets $VAULT_ADDR (and $VAULT_CA), writes the files vault-token, secret-id, wrapped, jwt,
// client.crt and client.key, and makes secret/data/agents/tester/api with api_key=$CANARY, and the
// paths github/token/tester (read) and cloud/sts/tester (written with role=reader) with
// token=$CANARY-1, $CANARY-2, ...
func cmdVault(ts *testscript.TestScript, args []string) {
	st := storyOf(ts)
	if st.vault == nil {
		startVault(ts, st, args)
		return
	}
	switch strings.Join(args, " ") {
	case "down":
		st.vault.SetDown(true)
	case "up":
		st.vault.SetDown(false)
		st.vault.Unseal()
	case "seal":
		st.vault.Seal()
	case "leases":
		live, revoked := st.vault.Leases()
		fmt.Fprintf(ts.Stdout(), "live=%d revoked=%d\n", len(live), len(revoked))
	case "tokens":
		fmt.Fprintf(ts.Stdout(), "live=%d\n", st.vault.LiveTokens())
	case "requests":
		for _, r := range st.vault.Requests() {
			fmt.Fprintf(ts.Stdout(), "%d %s %s correlation=%t\n", r.Status, r.Operation, r.Path, r.CorrelationID != "")
		}
	case "metadata":
		for _, r := range st.vault.Requests() {
			fmt.Fprint(ts.Stdout(), r.Operation, " ", r.Path)
			for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
				fmt.Fprint(ts.Stdout(), " ", key, "=", r.Metadata[key])
			}
			fmt.Fprintln(ts.Stdout())
		}
	default:
		if len(args) != 2 {
			ts.Fatalf("vault: unknown: %q", args)
		}
		changeVault(ts, st.vault, args[0], args[1])
	}
}

func changeVault(ts *testscript.TestScript, v *vaulttest.Server, how, what string) {
	switch how {
	case "deny":
		v.Deny(what)
	case "fail":
		status, err := strconv.Atoi(what)
		ts.Check(err)
		v.FailNext(status)
	default:
		ts.Fatalf("vault: unknown: %s %s", how, what)
	}
}

func startVault(ts *testscript.TestScript, st *story, args []string) {
	ttl := time.Hour
	var cfg vaulttest.Config
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-tls":
			cfg.TLS = true
		case args[i] == "-ttl" && i+1 < len(args):
			i++
			d, err := time.ParseDuration(args[i])
			ts.Check(err)
			ttl = d
		default:
			ts.Fatalf("vault: unknown: %q", args)
		}
	}
	v, err := vaulttest.New(cfg)
	ts.Check(err)
	ts.Defer(v.Close)
	st.vault = v
	addLogins(ts, v, st.canary)
	addEngines(ts, v, st.canary, ttl)
	ts.Setenv("VAULT_ADDR", v.URL())
	if cfg.TLS {
		ts.Check(os.WriteFile(ts.MkAbs("vault-ca.crt"), v.CACertPEM(), 0o644))
		ts.Setenv("VAULT_CA", ts.MkAbs("vault-ca.crt"))
	}
}

// addLogins sets up the ways to log in. What the metadata says of a JWT's login is what podinfo in
// the stories says.
func addLogins(ts *testscript.TestScript, v *vaulttest.Server, canary string) {
	jwt, secretID := "jwt-"+canary, "secret-id-"+canary
	v.AddKubernetesRole("kubernetes", "tester", jwt, time.Hour)
	v.AddAppRole("approle", "tester-role-id", secretID, time.Hour)
	v.AddJWTRole("jwt", jwt, vaulttest.Role{Name: "tester", TTL: time.Hour, Metadata: map[string]string{
		"role": "tester", "pod_uid": "pod-7", "namespace": "agents", "session_id": "run-7", "requested_by": "alice@example.com",
	}})
	v.AddJWTRole("jwt-short", jwt, vaulttest.Role{Name: "tester", TTL: 3 * time.Second})
	v.AddTokenRole(vaulttest.Role{Name: "sidekey-session", TTL: time.Hour})
	certPEM, keyPEM, leaf, err := clientPair()
	ts.Check(err)
	v.AddCertRole("cert", leaf, vaulttest.Role{Name: "tester", TTL: time.Hour})
	for name, content := range map[string]string{
		"vault-token": v.AddToken(time.Hour) + "\n", "secret-id": secretID + "\n", "jwt": jwt + "\n", "client.crt": certPEM, "client.key": keyPEM,
		"wrapped": v.Wrap("auth/approle/role/tester/secret-id", map[string]any{"secret_id": secretID}, time.Hour) + "\n",
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(content), 0o600))
	}
}

// roleSession is what a policy's "{role}/{session}/{requested_by}" comes to in a session run-7 for
// "ann <ann@x>", but for the slashes, which the policy says itself.
var roleSession = regexp.MustCompile(`^tester/run-7\.[0-9a-f]{8}/ann__ann@x_$`)

// addEngines sets up what is read and written for credentials.
func addEngines(ts *testscript.TestScript, v *vaulttest.Server, canary string, ttl time.Duration) {
	v.PutKV("secret/data/agents/tester/api", map[string]any{"api_key": canary})
	numbered := func(n int) string { return fmt.Sprintf("%s-%d", canary, n) }
	v.AddDynamic("github/token/tester", ttl, func(n int) map[string]string { return map[string]string{"token": numbered(n)} })
	v.AddWrite("cloud/sts/tester", ttl, func(n int, data map[string]any) map[string]any {
		if name := fmt.Sprint(data["role_session_name"]); data["role"] != "reader" || !roleSession.MatchString(name) {
			return map[string]any{"errors": "no role"}
		}
		return map[string]any{"token": numbered(n)}
	})
	_, err := v.AddPKI("pki", "tester", vaulttest.PKI{TTL: time.Hour, Lease: true})
	ts.Check(err)
	_, err = v.AddTransitKey("transit", "tester", "ecdsa-p256")
	ts.Check(err)
}

// clientPair makes a client certificate and its key, both in PEM, and the certificate in DER.
func clientPair() (certPEM, keyPEM string, der []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tester"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	keyDER, keyErr := x509.MarshalPKCS8PrivateKey(key)
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certPEM, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), der, errors.Join(err, keyErr)
}
