package realvault

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Database is one running PostgreSQL, on a Unix socket only. Roles log in with a password
// (scram-sha-256). Its methods are safe for concurrent use.
type Database struct {
	Dir       string // of the socket: the "host" of a connection URL
	Superuser string
	Password  string

	bin string
}

// Programs is the name of the environment variable that may hold the directory of PostgreSQL's
// programs, which tools/install-postgres.sh prints. Without it they are looked for.
const Programs = "SIDEKEY_POSTGRES"

// Postgres starts a PostgreSQL that is stopped when the test ends. If there is none the test
// fails: it is not skipped.
func Postgres(t testing.TB) *Database {
	t.Helper()
	bin, err := postgresBin()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: only its owner can enter that, and the path of a socket must be short.
	dir, err := os.MkdirTemp("", "sidekey-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	db := &Database{Dir: dir, Superuser: "root", Password: "pg-" + rand.Text(), bin: bin}
	as := unprivileged(t)
	passwordFile := filepath.Join(dir, "password")
	if err := os.WriteFile(passwordFile, []byte(db.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	if as.Credential != nil {
		for _, path := range []string{dir, passwordFile} {
			if err := os.Chown(path, int(as.Credential.Uid), int(as.Credential.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", db.Superuser, "--auth=scram-sha-256",
		"--pwfile="+passwordFile, "--no-sync", "--locale=C", "--encoding=UTF8")
	initdb.SysProcAttr, initdb.Dir = as, "/"
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	db.start(t, data, as)
	return db
}

// start starts the server below a shell that ends it when this process ends, even if that is
// killed: the shell then reads the end of its standard input.
func (db *Database) start(t testing.TB, data string, as *syscall.SysProcAttr) {
	t.Helper()
	const script = `"$@" <&- & server=$!; cat >/dev/null; kill -INT "$server"; wait "$server"`
	cmd := exec.Command("sh", "-c", script, "sh", filepath.Join(db.bin, "postgres"), "-D", data, "-k", db.Dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300", "-c", "log_statement=none")
	log := new(lockedBuffer)
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout, cmd.Stderr = as, "/", log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // the status is the shell's
		if t.Failed() {
			t.Logf("PostgreSQL's own log:\n%s", log)
		}
	})
	Eventually(t, "PostgreSQL", func() bool { return db.Login(t.Context(), db.Superuser, db.Password) == nil })
}

// Login logs in to the database and reports why that was not possible. It is what an upstream
// that checks a database credential does.
func (db *Database) Login(ctx context.Context, username, password string) error {
	_, err := db.psql(ctx, username, password, "SELECT 1")
	return err
}

// Roles returns the names of all roles that can log in, but for the superuser.
func (db *Database) Roles(t testing.TB) []string {
	t.Helper()
	out, err := db.psql(t.Context(), db.Superuser, db.Password,
		"SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

func (db *Database) psql(ctx context.Context, username, password, query string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(db.bin, "psql"), "--no-psqlrc", "--no-password", "-qAt",
		"-h", db.Dir, "-U", username, "-d", "postgres", "-c", query)
	cmd.Env = []string{"PGPASSWORD=" + password, "PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = 10 * time.Second // a busy machine reads late what psql wrote
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("psql: %v: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.String(), nil
}

// postgresBin returns the directory of PostgreSQL's programs: the one that the environment names,
// Debian's, or the one on the PATH.
func postgresBin() (string, error) {
	if dir := os.Getenv(Programs); dir != "" {
		return dir, nil
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, dir := range dirs {
		if all(dir, "initdb", "postgres", "psql") {
			return dir, nil
		}
	}
	return "", errors.New("there is no PostgreSQL here: run `bash tools/install-postgres.sh`")
}

func all(dir string, programs ...string) bool {
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return false
		}
	}
	return true
}

// unprivileged says as whom PostgreSQL runs: it refuses to as root.
func unprivileged(t testing.TB) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Fatalf("PostgreSQL does not run as root, and there is no one else: %v", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
