package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"

	hclog "github.com/hashicorp/go-hclog"
	authjwt "github.com/hashicorp/vault-plugin-auth-jwt"
	authkube "github.com/hashicorp/vault-plugin-auth-kubernetes"
	secretskube "github.com/hashicorp/vault-plugin-secrets-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/aws"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/ssh"
	"github.com/hashicorp/vault/builtin/logical/totp"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// A vaultServer is Vault's core, the storage below it, which outlives it, and the listener before it.
type vaultServer struct {
	addr      string // with the real port once it has listened
	cert      *tls.Certificate
	rootToken string
	audit     string
	logger    hclog.Logger

	phys   physical.Backend
	unseal []byte
	core   *vault.Core // nil while stopped
	http   *http.Server
}

func newLogger(level string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(level), Output: os.Stderr})
}

func (v *vaultServer) url() string {
	if v.cert != nil {
		return "https://" + v.addr
	}
	return "http://" + v.addr
}

func (v *vaultServer) keyHex() string { return hex.EncodeToString(v.unseal) }

// obey carries signals out until one of them ends the process.
func (v *vaultServer) obey(signals <-chan os.Signal) error {
	for sig := range signals {
		switch sig {
		case syscall.SIGUSR1:
			if err := v.down(); err != nil {
				return err
			}
		case syscall.SIGUSR2:
			if err := v.up(); err != nil {
				return err
			}
		default:
			return v.down()
		}
	}
	return nil
}

// up starts what down stopped; the first time, it makes the storage as well.
func (v *vaultServer) up() error {
	if v.core != nil {
		return nil
	}
	ln, err := net.Listen("tcp", v.addr)
	if err != nil {
		return err
	}
	v.addr = ln.Addr().String()
	fresh := v.phys == nil
	if fresh {
		if v.phys, err = inmem.NewInmem(nil, v.logger); err != nil {
			return err
		}
	}
	if v.core, err = v.newCore(); err != nil {
		return err
	}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core: v.core, ListenerConfig: &configutil.Listener{Address: v.addr},
	})
	if fresh {
		err = v.initialize(handler)
	} else {
		err = v.openSeal()
	}
	if err != nil {
		return err
	}
	if v.cert != nil {
		ln = tls.NewListener(ln, &tls.Config{
			Certificates: []tls.Certificate{*v.cert}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequestClientCert, // as Vault's own listener does: the auth method verifies it
			NextProtos: []string{"h2", "http/1.1"},
		})
	}
	v.http = &http.Server{Handler: handler, ErrorLog: v.logger.StandardLogger(nil)}
	go func() { _ = v.http.Serve(ln) }()
	return nil
}

func (v *vaultServer) down() error {
	if v.core == nil {
		return nil
	}
	err := errors.Join(v.http.Close(), v.core.Shutdown())
	v.core = nil
	return err
}

func (v *vaultServer) newCore() (*vault.Core, error) {
	return vault.NewCore(&vault.CoreConfig{
		Physical: v.phys, StorageType: "inmem", DisableMlock: true, Logger: v.logger, BuiltinRegistry: databases{},
		RedirectAddr:  v.url(),
		AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory, "cert": cert.Factory, "jwt": authjwt.Factory,
			"kubernetes": authkube.Factory, "userpass": userpass.Factory,
		},
		LogicalBackends: map[string]logical.Factory{
			"kv": kv.Factory, "transit": transit.Factory, "pki": pki.Factory, "ssh": ssh.Factory,
			"totp": totp.Factory, "database": database.Factory, "aws": aws.Factory, "kubernetes": secretskube.Factory,
		},
	})
}

// initialize makes a new Vault on empty storage, with a root token of a known id, as dev mode does.
func (v *vaultServer) initialize(handler http.Handler) error {
	init, err := v.core.Initialize(context.Background(), &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
	})
	if err != nil {
		return err
	}
	v.unseal = init.SecretShares[0]
	if err := v.openSeal(); err != nil {
		return err
	}
	token := map[string]any{"id": v.rootToken, "policies": []string{"root"}, "no_parent": true}
	if err := call(handler, init.RootToken, "auth/token/create", token); err != nil {
		return err
	}
	if v.audit != "" {
		device := map[string]any{"type": "file", "options": map[string]string{"file_path": v.audit}}
		if err := call(handler, v.rootToken, "sys/audit/file", device); err != nil {
			return err
		}
	}
	mount := map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}
	return call(handler, v.rootToken, "sys/mounts/secret", mount)
}

func (v *vaultServer) openSeal() error {
	ok, err := v.core.Unseal(bytes.Clone(v.unseal)) // it clears what it is given
	if err == nil && !ok {
		err = errors.New("still sealed")
	}
	return err
}

// call makes one write to Vault, without a network.
func call(handler http.Handler, token, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req := httptest.NewRequest(http.MethodPost, "/v1/"+path, bytes.NewReader(b))
	req.Header.Set("X-Vault-Token", token)
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, req)
	if rec.Code/100 != 2 {
		return fmt.Errorf("%s: status %d: %s", path, rec.Code, rec.Body)
	}
	return nil
}

// databases is the registry of the one database plugin that is built in.
type databases struct{}

const postgresPlugin = "postgresql-database-plugin"

// Contains implements Vault's BuiltinRegistry, as do the methods that follow.
func (databases) Contains(name string, kind consts.PluginType) bool {
	return kind == consts.PluginTypeDatabase && name == postgresPlugin
}

func (d databases) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if d.Contains(name, kind) {
		return postgresql.New, true
	}
	return nil, false
}

func (databases) Keys(kind consts.PluginType) []string {
	if kind == consts.PluginTypeDatabase {
		return []string{postgresPlugin}
	}
	return nil
}

func (d databases) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, d.Contains(name, kind)
}

func (databases) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
