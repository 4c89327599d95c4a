package vault

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// verify checks that the metadata of a login does not contradict what the session says of
// itself.
func (s *Session) verify(t *token) error {
	k := s.loginCall()
	for _, key := range slices.Sorted(maps.Keys(s.expect)) {
		want := s.expect[key]
		got, ok := t.metadata[key]
		switch {
		case ok && got != want:
			f := k.refused("Vault says that %s is %s, and this session says that it is %s", quote(key), quote(got), quote(want))
			f.hint = "the login belongs to another pod or session, or this session was told something wrong of itself"
			return f
		case !ok && slices.Contains(s.require, key):
			f := k.refused("Vault says nothing of %s, which is required", quote(key))
			f.hint = "map the claim with claim_mappings of the role, and list it in bound_claims, so that no token without it is accepted"
			return f
		}
	}
	return nil
}

// makeChild makes a child of t, with the session's metadata, and makes it the token of t.
func (s *Session) makeChild(ctx context.Context, t *token) error {
	k := call{
		what: "make the session's token with role " + s.tokenRole, method: http.MethodPost,
		path: "auth/token/create/" + s.tokenRole, token: t.value,
		correlation: s.client.correlation(uuid.NewString()),
	}
	if t.batch {
		f := k.refused("the login brought a batch token, which cannot make a child")
		f.hint = "set token_type=service on the login's role, or do without the session's token role"
		return f
	}
	// Whether the child has the default policy is the token role's to say: without it, the
	// child may not revoke itself, and ends with its parent.
	body := map[string]any{"renewable": false, "display_name": "sidekey"}
	if len(s.meta) > 0 {
		body["meta"] = s.meta
	}
	asked := s.instant()
	if !t.life.never() { // for the case that the role makes orphans, which do not end with their parent
		body["ttl"] = strconv.Itoa(int((t.life.until(asked.wall)+time.Second-1)/time.Second)) + "s"
	}
	k.body = body
	r, err := s.client.do(ctx, k)
	if err != nil {
		return adviseChild(err, k.path)
	}
	child, err := k.minted(r, asked)
	if err != nil {
		return err
	}
	t.adopt(child)
	return nil
}

// quote quotes the first 80 bytes of a text that someone else wrote.
func quote(s string) string { return strconv.Quote(s[:min(len(s), 80)]) }
