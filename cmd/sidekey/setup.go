package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/sidekey/sidekey/audit"
	"github.com/sidekey/sidekey/credential"
	"github.com/sidekey/sidekey/internal/config"
	"github.com/sidekey/sidekey/internal/mitmca"
	"github.com/sidekey/sidekey/policy"
	"github.com/sidekey/sidekey/proxy"
	"github.com/sidekey/sidekey/vault"
)

// A setup is a checked configuration: everything that can be wrong before the first listener
// opens has been looked at.
type setup struct {
	cfg         *config.Config
	policyFile  string
	killFile    string // "" if the policy is not in a directory
	policy      *policy.Policy
	policyFiles map[string][]byte // what it was read from, by path
	systemRoots []byte            // PEM
	ca          *mitmca.CA
	vault       *vault.Session
	binder      *binder
	bound       *bound
	sink        audit.Sink
	otlpRoots   *x509.CertPool // verify the OTLP endpoint
	session     audit.Session
	pod         audit.Pod
	claims      map[string]string // what the process knows of itself, by the name that Vault's metadata has for it

	protected *protected
	recorder  lateRecorder
	anchor    func() (seq uint64, head string)
	onLogin   func(vault.Login)
	onCall    func(vault.Call)
}

// prepare hardens the process, since it reads what credentials come from, and checks cfg and all that
// it names. Its error is a [policy.Mistakes] with everything that is wrong, unless the process cannot be
// hardened.
func prepare(cfg *config.Config, p process, log zerolog.Logger) (*setup, error) {
	if err := harden(); err != nil {
		return nil, failed(err)
	}
	env := environment(p.environ)
	s := &setup{cfg: cfg, anchor: func() (uint64, string) { return 0, "" }, onLogin: func(vault.Login) {}, onCall: func(vault.Call) {}}
	ms := mistakes{where: cfg.Where}
	s.loadPolicy(&ms)
	s.checkCADir(&ms)
	s.checkAdmin(&ms)
	s.loadRoots(&ms, env)
	s.identify(&ms, env)
	s.newVault(&ms, log)
	s.checkOTLP(&ms)
	s.protected = newProtected(cfg, env)
	if s.policy != nil {
		ms.Mistakes = append(ms.Mistakes, s.protected.forbiddenRoutes(s.policy)...)
	}
	upstream := s.upstream(&ms)
	if s.policy != nil && len(ms.Mistakes) == 0 {
		s.binder = &binder{
			vault: s.vault, lookup: env.lookup, recorder: &s.recorder, upstream: upstream,
			session: policy.Session{ID: s.session.ID, Role: s.session.Role, RequestedBy: s.session.RequestedBy},
		}
		var err error
		s.bound, err = s.binder.bind(s.policy)
		ms.add("", "", err)
		s.ca, err = mitmca.New(mitmca.Config{PermitIPs: addressesOf(s.policy)})
		ms.add("", "", err)
	}
	if len(ms.Mistakes) == 0 {
		var err error
		s.sink, err = audit.OpenSink(cfg.Audit.Path, cfg.Audit.Keep)
		ms.add("audit.path", "name a file in a directory that exists, - for standard output, or unix:PATH of a socket that is read", err)
	}
	if len(ms.Mistakes) > 0 {
		return nil, mistake(ms.Mistakes)
	}
	return s, nil
}

// mistakes collects what is wrong. where tells the place of a key of the config.
type mistakes struct {
	policy.Mistakes
	where func(key string) string
}

// add notes err under a key of the config; an error that is a list of mistakes is taken over.
func (ms *mistakes) add(key, hint string, err error) {
	if err == nil {
		return
	}
	if more, ok := errors.AsType[policy.Mistakes](err); ok {
		ms.Mistakes = append(ms.Mistakes, more...)
		return
	}
	ms.Mistakes = append(ms.Mistakes, policy.Mistake{Where: ms.where(key), Path: key, Msg: err.Error(), Hint: hint})
}

func (s *setup) loadPolicy(ms *mistakes) {
	s.policyFile = s.cfg.Policy
	if info, err := os.Stat(s.policyFile); err == nil && info.IsDir() {
		if s.cfg.Role == "" {
			ms.add("role", "say --role NAME", fmt.Errorf("%s is a directory, and no role says which policy in it is meant", s.policyFile))
			return
		}
		s.killFile = filepath.Join(s.policyFile, "kill")
		s.policyFile = filepath.Join(s.policyFile, s.cfg.Role+".yaml")
	}
	pol, files, err := loadPolicy(s.policyFile)
	if err != nil {
		ms.add("policy", "name a policy file, or a directory that holds one for the role", err)
		return
	}
	if s.cfg.Role != "" && pol.Role() != s.cfg.Role {
		ms.add("role", "", fmt.Errorf("the process is for role %q and %s is for role %q", s.cfg.Role, s.policyFile, pol.Role()))
	}
	s.cfg.Role = pol.Role()
	ms.Mistakes = append(ms.Mistakes, failedTests(pol)...)
	s.policy, s.policyFiles = pol, files
}

// failedTests returns the tests of pol that fail.
func failedTests(pol *policy.Policy) (ms policy.Mistakes) {
	for _, t := range pol.RunTests() {
		if !t.OK {
			ms = append(ms, policy.Mistake{Where: t.Where, Path: "tests", Msg: "test fails: " + t.Request + ": want " + t.Want + ", got " + t.Got})
		}
	}
	return ms
}

// forbiddenRoutes returns the routes that lead to Vault or the Kubernetes API.
func (p *protected) forbiddenRoutes(pol *policy.Policy) (ms policy.Mistakes) {
	for _, r := range pol.Routes() {
		if p.names(r.Host, r.Port) {
			ms = append(ms, policy.Mistake{Where: r.Where, Path: "host", Msg: "an agent is never let through to Vault or the Kubernetes API", Hint: "remove the route"})
		}
	}
	return ms
}

func (s *setup) checkCADir(ms *mistakes) {
	info, err := os.Stat(s.cfg.CADir)
	switch {
	case err != nil:
		ms.add("ca.dir", "make the directory; ca.crt and bundle.crt are written into it", err)
	case !info.IsDir():
		ms.add("ca.dir", "", fmt.Errorf("%s is not a directory", s.cfg.CADir))
	default:
		f, err := os.CreateTemp(s.cfg.CADir, ".sidekey-*")
		if err != nil {
			ms.add("ca.dir", "let the process write there", fmt.Errorf("%s is not writable", s.cfg.CADir))
			return
		}
		f.Close()
		os.Remove(f.Name())
	}
}

func (s *setup) checkAdmin(ms *mistakes) {
	if s.cfg.Admin != "" {
		ms.add("admin", "name a socket in a directory that exists and that only the sidecar mounts", checkSocketPath(s.cfg.Admin))
	}
}

func (s *setup) loadRoots(ms *mistakes, env environment) {
	roots, _, err := mitmca.SystemRoots(env.get)
	ms.add("", "install the CA certificates of the system, or set SSL_CERT_FILE", err)
	s.systemRoots = roots
}

func (s *setup) newVault(ms *mistakes, log zerolog.Logger) {
	v := s.cfg.Vault
	if v == nil {
		return
	}
	cfg := vault.Config{
		Address: v.Address, Namespace: v.Namespace,
		Auth: vault.Auth{
			Method: v.Auth.Method, Mount: v.Auth.Mount, Role: v.Auth.Role, TokenFile: v.Auth.TokenFile,
			RoleID: v.Auth.RoleID, RoleIDFile: v.Auth.RoleIDFile,
			SecretIDFile: v.Auth.SecretIDFile, SecretIDWrapped: v.Auth.SecretIDWrapped,
			CertFile: v.Auth.CertFile, KeyFile: v.Auth.KeyFile,
		},
		SessionTokenRole: v.SessionTokenRole, Meta: s.tokenMeta(),
		Expect: s.claims, Require: v.Auth.Verify,
		OnLogin:     func(l vault.Login) { s.onLogin(l) },
		OnCall:      func(c vault.Call) { s.onCall(c) },
		Correlation: s.correlation,
		Log:         log.With().Str("part", "vault").Logger(),
	}
	checkLoginFiles(ms, v.Auth)
	if v.CAFile != "" {
		pem, err := os.ReadFile(v.CAFile)
		ms.add("vault.ca_file", "", err)
		cfg.CACertPEM = pem
	}
	var err error
	s.vault, err = vault.New(cfg)
	if err != nil && len(ms.Mistakes) == 0 {
		ms.add("vault", "", err)
	}
}

// checkLoginFiles looks at the files that logging in will read. A file of a method that is not the
// configured one may stand in a layer below.
func checkLoginFiles(ms *mistakes, a config.Auth) {
	check := func(key, path string) {
		if path != "" {
			ms.add("vault.auth."+key, "name a file that holds nothing else", checkWord(path))
		}
	}
	switch a.Method {
	default:
		check("token_file", a.TokenFile)
	case "approle":
		check("role_id_file", a.RoleIDFile)
		check("secret_id_file", a.SecretIDFile)
	case "cert":
		if _, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile); err != nil {
			ms.add("vault.auth.cert_file", "name a certificate and its key, both in PEM", errors.New(certificateMistake(err)))
		}
	}
}

// certificateMistake says what is wrong with a certificate and its key. Only what names a file is
// repeated: other texts may quote what stands in one.
func certificateMistake(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Error()
	}
	return "the certificate and the key are not a pair in PEM"
}

// correlation is what Vault's own audit log keeps of a call: the issuance, and how far our trail
// had come, so that Vault's clock stamps our chain.
func (s *setup) correlation(id string) string {
	seq, head := s.anchor()
	return fmt.Sprintf("sk1.%s.%d.%.16s", id, seq, head)
}

// checkOTLP looks at the files that sending copies of the trail takes.
func (s *setup) checkOTLP(ms *mistakes) {
	o := s.cfg.Audit.OTLP
	if o.TokenFile != "" {
		ms.add("audit.otlp.token_file", "name a file that holds nothing else", checkWord(o.TokenFile))
	}
	pem, err := s.systemRoots, error(nil)
	if o.CAFile != "" {
		pem, err = os.ReadFile(o.CAFile)
	}
	s.otlpRoots = x509.NewCertPool()
	if err == nil && !s.otlpRoots.AppendCertsFromPEM(pem) && o.CAFile != "" {
		err = fmt.Errorf("%s holds no PEM certificate", o.CAFile)
	}
	ms.add("audit.otlp.ca_file", "", err)
}

// checkWord checks a file that holds one word: a token, an id. What is in it stays there.
func checkWord(path string) error {
	const most = 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	defer clear(b)
	switch words := bytes.Fields(b); {
	case err != nil:
		return err
	case len(b) > most:
		return fmt.Errorf("%s is larger than 64 KiB", path)
	case len(words) == 0:
		return fmt.Errorf("%s is empty", path)
	case len(words) > 1:
		return fmt.Errorf("%s holds more than one word", path)
	}
	return nil
}

func (s *setup) upstream(ms *mistakes) proxy.UpstreamConfig {
	u := proxy.UpstreamConfig{AllowCIDRs: s.cfg.Upstream.AllowCIDRs, Resolve: s.cfg.Upstream.Resolve}
	u.Never = s.protected.covers
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.systemRoots)
	if path := s.cfg.Upstream.CAFile; path != "" {
		pem, err := os.ReadFile(path)
		if err == nil && !pool.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s holds no PEM certificate", path)
		}
		ms.add("upstream.ca_file", "", err)
	}
	u.Roots = pool
	return u
}

// addressesOf returns the IP addresses that the policy's routes name.
func addressesOf(pol *policy.Policy) []netip.Addr {
	var out []netip.Addr
	for _, r := range pol.Routes() {
		if a, err := netip.ParseAddr(r.Host); err == nil && r.Scheme == "https" {
			out = append(out, a)
		}
	}
	return out
}

// A lateRecorder stands for the trail while it is not open yet: caches are bound, and checked,
// before the trail is opened. Until then it refuses.
type lateRecorder struct{ r atomic.Pointer[trail] }

func (l *lateRecorder) set(t *trail) { l.r.Store(t) }

func (l *lateRecorder) Issued(iss *credential.Issuance) error {
	if t := l.r.Load(); t != nil {
		return t.Issued(iss)
	}
	return errors.New("the trail is not open yet")
}

func (l *lateRecorder) Revoked(iss *credential.Issuance, err error) {
	if t := l.r.Load(); t != nil {
		t.Revoked(iss, err)
	}
}
