package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sidekey/sidekey/credential"
)

// A wrapped is a SecretID that came response-wrapped. Only the login under way uses it, and
// there is one at a time.
type wrapped struct {
	secretID hidden // empty until it is unwrapped
	tried    bool   // an attempt to unwrap it got no reply, and may have used up the token
}

// secretID returns the SecretID to log in with.
func (s *Session) secretID(ctx context.Context) (string, error) {
	if !s.auth.SecretIDWrapped {
		return readFile(s.auth.SecretIDFile)
	}
	if id := s.wrapped.secretID.expose(); id != "" {
		return id, nil
	}
	word, err := readFile(s.auth.SecretIDFile)
	if err != nil {
		return "", err
	}
	token := hide(word)
	if err := s.inspect(ctx, token); err != nil {
		return "", err
	}
	k := call{
		what: "unwrap the SecretID", method: http.MethodPost, path: "sys/wrapping/unwrap",
		correlation: s.client.correlation(uuid.NewString()), token: token, body: struct{}{},
	}
	r, err := s.client.do(ctx, k)
	if err != nil {
		s.wrapped.tried = s.wrapped.tried || errors.Is(err, credential.ErrUnavailable)
		return "", s.used(err)
	}
	var id string
	if json.Unmarshal(r.Data["secret_id"], &id) != nil || id == "" || strings.ContainsFunc(id, notGraphic) {
		return "", k.refused("what the token in %s wrapped is not a SecretID", s.auth.SecretIDFile)
	}
	s.wrapped.secretID = hide(id)
	var (
		uses int64
		ttl  seconds
	)
	_ = json.Unmarshal(r.Data["secret_id_num_uses"], &uses) // 0 if it is not told: no limit is known
	_ = json.Unmarshal(r.Data["secret_id_ttl"], &ttl)
	if uses > 0 || ttl > 0 {
		s.log.Warn().Int64("secret_id_num_uses", uses).Dur("secret_id_ttl_ms", time.Duration(ttl)).
			Msg("the unwrapped secret id is limited, logins will fail when it has ended")
	}
	return id, nil
}

// inspect checks that the token wraps what was asked of the AppRole for a SecretID. Otherwise
// someone could put a token of their own in the place of one that they have used.
func (s *Session) inspect(ctx context.Context, token hidden) error {
	k := call{
		what: "look up the wrapping token", method: http.MethodPost, path: "sys/wrapping/lookup",
		correlation: s.client.correlation(uuid.NewString()), body: map[string]string{"token": token.expose()},
	}
	r, err := s.client.do(ctx, k)
	if err != nil {
		return s.used(err)
	}
	var made string
	_ = json.Unmarshal(r.Data["creation_path"], &made) // empty if there is none
	path := made
	if ns := strings.Trim(s.client.namespace, "/"); ns != "" {
		path = strings.TrimPrefix(path, ns+"/")
	}
	role, ok := strings.CutPrefix(path, s.auth.mount()+"/role/")
	role, ends := strings.CutSuffix(role, "/secret-id")
	if ok && ends && role != "" && !strings.Contains(role, "/") {
		return nil
	}
	f := k.refused("the token in %s was made at %s, not at %s/role/ROLE/secret-id", s.auth.SecretIDFile, quote(made), s.auth.mount())
	f.hint = "unless the delivery of the SecretID is set up wrongly, someone has put this token there in the place of the right one"
	return f
}

// used says what it means that Vault does not know the wrapping token.
func (s *Session) used(err error) error {
	var f *failure
	if !errors.As(err, &f) || f.status != http.StatusBadRequest && f.status != http.StatusForbidden {
		return err
	}
	f.why += ": the wrapping token in " + s.auth.SecretIDFile + " has expired or was used already: possibly intercepted"
	f.hint = "if its TTL is not over, and no earlier start of this session used it, someone else has unwrapped the SecretID: " +
		"destroy that SecretID, find out who read the file, and deliver a new one"
	if s.wrapped.tried {
		f.hint = "an attempt of this session to unwrap it got no reply and may have used it up; " + f.hint
	}
	return f
}
