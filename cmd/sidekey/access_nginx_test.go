package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekey/sidekey/internal/mitmca"
)

// accessConf is an nginx that lets in who has the credential, and logs as docs/audit.md says (DOCUMENTED)
// and in JSON. api.test is logged, quiet.test is not.
const accessConf = `daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log;
events {}
http {
	DOCUMENTED
	log_format sidekey_json escape=json '{"time":"$time_iso8601","remote_addr":"$remote_addr","request_method":"$request_method",'
	                   '"request_uri":"$request_uri","status":"$status","http_user_agent":"$http_user_agent",'
	                   '"http_x_request_id":"$http_x_request_id"}';
	log_format both escape=json '{"msec":$msec,"request_method":"$request_method","uri":"$uri","request_uri":"$request_uri",'
	                   '"status":$status,"http_user_agent":"$http_user_agent"}';
	log_format own_id escape=json '{"msec":$msec,"request_id":"$request_id","http_x_request_id":"$http_x_request_id",'
	                   '"request":"$request","status":$status}';
	client_body_temp_path DIR/tmp-body;
	proxy_temp_path DIR/tmp-proxy;
	fastcgi_temp_path DIR/tmp-fastcgi;
	uwsgi_temp_path DIR/tmp-uwsgi;
	scgi_temp_path DIR/tmp-scgi;
	server {
		listen 127.0.0.1:PORT ssl http2;
		server_name api.test;
		ssl_certificate DIR/api.test.crt;
		ssl_certificate_key DIR/api.test.key;
		access_log DIR/access.log sidekey;
		access_log DIR/access.json sidekey_json;
		access_log DIR/both.json both;
		access_log DIR/own_id.json own_id;
		location / { return 200 "open\n"; }
		location /items/ {
			if ($http_authorization != "Bearer CREDENTIAL") { return 401; }
			return 200 "let in\n";
		}
		location = /items/missing { return 404; }
		location = /items/empty { return 204; }
		location = /items/moved { return 302 /items/1; }
		location = /items/broken { return 503; }
		location = /items/private { return 401; }
		location /files/ { root DIR; }
		location = /files/slow { root DIR; limit_rate 200; }
	}
	server {
		listen 127.0.0.1:PORT ssl http2;
		server_name quiet.test;
		ssl_certificate DIR/quiet.test.crt;
		ssl_certificate_key DIR/quiet.test.key;
		access_log off;
		location / { return 200 "quiet\n"; }
	}
}
`

// accessFile is the name of the file below /files; accessFilePath is its path as a URL has it.
const (
	accessFile     = `a b"c'(é)~!$&*+,=:@[x]{y}|^%.txt`
	accessFilePath = `/files/a%20b%22c'(%C3%A9)~!$&*+,=:@%5Bx%5D%7By%7D%7C%5E%25.txt`
)

// A webServer is a process of nginx.
type webServer struct {
	dir    string // its prefix; the logs stand in it
	port   string
	cmd    *exec.Cmd
	output lockedBuffer
	exited chan error
}

// startNginx runs nginx in a directory of its own until the test ends or stop is called.
func startNginx(t *testing.T, binary, credential string) *webServer {
	t.Helper()
	w := &webServer{dir: t.TempDir(), exited: make(chan error, 1)}
	ca, err := mitmca.New(mitmca.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "ca.crt", ca.CertificatePEM())
	for _, host := range []string{"api.test", "quiet.test"} {
		w.leaf(t, ca, host)
	}
	if err := os.Mkdir(filepath.Join(w.dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, filepath.Join("files", accessFile), []byte("a file\n"))
	w.write(t, filepath.Join("files", "slow"), bytes.Repeat([]byte("slow\n"), 60))
	if w.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	format := regexp.MustCompile(`(?s)log_format sidekey '.*?;`).FindString(readLog(t, "../../docs/audit.md"))
	if format == "" {
		t.Fatal("docs/audit.md has no log_format")
	}
	conf := strings.NewReplacer("DOCUMENTED", format, "DIR", w.dir, "PORT", w.port, "CREDENTIAL", credential).Replace(accessConf)
	w.write(t, "nginx.conf", []byte(conf))
	w.cmd = exec.Command(binary, "-p", w.dir, "-c", filepath.Join(w.dir, "nginx.conf"), "-e", filepath.Join(w.dir, "error.log"))
	w.cmd.Stdout, w.cmd.Stderr = &w.output, &w.output
	if err := w.cmd.Start(); err != nil {
		t.Fatalf("start nginx: %v", err)
	}
	go func() { w.exited <- w.cmd.Wait() }()
	t.Cleanup(func() { w.stop(t) })
	if !poll(func() bool {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+w.port, time.Second)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}) {
		t.Fatalf("nginx did not start:\n%s", w.output.String())
	}
	return w
}

// leaf writes the certificate of host and its key.
func (w *webServer) leaf(t *testing.T, ca *mitmca.CA, host string) {
	t.Helper()
	leaf, err := ca.Leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain bytes.Buffer
	for _, der := range leaf.Certificate {
		pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	w.write(t, host+".crt", chain.Bytes())
	w.write(t, host+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

func (w *webServer) write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stop has nginx finish what it is at, after which its logs are whole. It can be called again.
func (w *webServer) stop(t *testing.T) {
	t.Helper()
	w.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case err := <-w.exited:
		w.exited <- err
		if err != nil {
			t.Errorf("nginx: %v\n%s", err, w.output.String())
		}
	case <-time.After(patience):
		w.cmd.Process.Kill()
		t.Errorf("nginx is still there %v after SIGQUIT", patience)
	}
}
