package vault_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekey/sidekey/credential"
)

// probed counts the questions for Vault's health that come over the faulty server.
func probed(n *atomic.Int32, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/sys/health" {
			n.Add(1)
			if r.Header.Get("X-Vault-Token") != "" || r.Header.Get("X-Vault-Namespace") != "" {
				w.WriteHeader(400)
				return
			}
		}
		next(w, r)
	}
}

// A Vault that is only slow is left to answer, and is not asked for its health all the time.
func TestSlowCallsAreNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		var probes atomic.Int32
		f.set(probed(&probes, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/sys/health" {
				time.Sleep(4500 * time.Millisecond)
			}
			srv.ServeHTTP(w, r)
		}))
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		begin := time.Now()
		login(t, s)
		issue(t, kv(s))
		if took := time.Since(begin); took != 9*time.Second {
			t.Errorf("took %v, want 9s", took)
		}
		if n := probes.Load(); n < 6 || n > 8 {
			t.Errorf("asked for the health %d times in 9s, want once a second after the first", n)
		}
		synctest.Wait()
		n := probes.Load()
		time.Sleep(time.Minute)
		if probes.Load() != n {
			t.Error("asked for the health with no call under way")
		}
	})
}

// A Vault that is too slow, its health too, and now and then is not: logins must get through.
func TestUnsteadyVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		var probes atomic.Int32
		f.set(probed(&probes, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/sys/health" {
				time.Sleep(4 * time.Second)
			} else if probes.Load()%2 == 1 {
				time.Sleep(1500 * time.Millisecond)
			}
			srv.ServeHTTP(w, r)
		}))
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		if err := s.Login(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second) // until the server has noticed which calls were given up
	})
}

// A call that began while Vault was gone is cut off when it is back.
func TestHangingCallIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := stand(t, time.Hour)
		var f faulty
		s := openOver(t, serve(t, f.over(srv)), appRole(t, "http://127.0.0.1:8200"))
		login(t, s)
		f.set(hang)
		begin := time.Now()
		time.AfterFunc(2500*time.Millisecond, func() { f.set(nil) })
		issue(t, kv(s))
		if took := time.Since(begin); took < 2500*time.Millisecond || took > 4*time.Second {
			t.Errorf("took %v, want 2.5s and a little", took)
		}
		f.set(hang)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := kv(s).Issue(ctx, "id")
		wantError(t, err, credential.ErrUnavailable, "no answer in time")
	})
}
