package vault

import (
	"fmt"
	"net/http"
	"strings"
)

// explain adds to the failure of k what an operator may do about it. r is the reply, if any.
func (src *source) explain(k call, r *reply, err error) error {
	f, ok := err.(*failure) // of k itself: a login that failed has other causes
	if !ok {
		return err
	}
	told := *f // f may be shared
	capability := "read"
	if k.method != http.MethodGet {
		capability = "update"
	}
	switch f.status {
	case http.StatusBadRequest:
		told.hint = "the role or key that the path ends in may not exist, or the data not fit it"
	case http.StatusForbidden:
		told.hint = fmt.Sprintf("the session's Vault policy needs path %q { capabilities = [%q] }", k.path, capability)
	case http.StatusNotFound:
		if version := deleted(r); version > 0 {
			told.why += fmt.Sprintf(": version %d is deleted", version)
			return &told
		}
		told.hint = "there is nothing at the path"
		if k.method == http.MethodGet && !strings.Contains(k.path, "/data/") {
			told.hint += "; KV version 2 is read at MOUNT/data/..."
		}
	case http.StatusMethodNotAllowed:
		told.hint = "the path is not to be written"
		if k.method == http.MethodGet {
			told.hint = "the path is not to be read; it may want method: write"
		}
	}
	return &told
}

// deleted returns the version of KV version 2 that r says is deleted or destroyed; 0 if none.
func deleted(r *reply) int {
	if r == nil {
		return 0
	}
	if fields, version := r.fields(); fields == nil {
		return version
	}
	return 0
}
