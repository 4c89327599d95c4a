package realvault

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// AWS stands for the part of AWS's IAM and STS that Vault's aws engine calls, in the form of their
// Query API. It checks no signature.
type AWS struct {
	url string

	mu   sync.Mutex
	keys map[string]string // user by access key id
	live map[string]string // secret key by access key id, those of STS too

	sessions []string // names of role sessions, as they were begun
}

// roleSessionName is what AWS takes for the name of a role session.
var roleSessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// StartAWS starts one that is stopped when the test ends.
func StartAWS(t testing.TB) *AWS {
	t.Helper()
	a := &AWS{keys: map[string]string{}, live: map[string]string{}}
	srv := httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(srv.Close)
	a.url = srv.URL
	return a
}

// Accepts reports whether the access key id and the secret key are ones that were handed out and
// not deleted.
func (a *AWS) Accepts(id, secret string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return secret != "" && a.live[id] == secret
}

// RoleSessions returns the names of the role sessions that were begun, in order.
func (a *AWS) RoleSessions() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sessions)
}

// Users returns how many IAM users there are.
func (a *AWS) Users() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.keys)
}

func (a *AWS) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // cut off, it is no form
	form, err := url.ParseQuery(string(body))
	action := form.Get("Action")
	result, ok := a.act(action, form)
	if err != nil || !ok || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidAction</Code><Message>%q</Message></Error></ErrorResponse>", action)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>", action, result)
}

// act does what the action asks and returns the inside of the result.
func (a *AWS) act(action string, form url.Values) (result string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	user := form.Get("UserName")
	switch action {
	case "CreateUser":
		return "<User><UserName>" + user + "</UserName><Path>/</Path></User>", true
	case "CreateAccessKey":
		id, secret := a.newKey("AKIA")
		a.keys[id] = user
		return "<AccessKey><UserName>" + user + "</UserName>" + keyXML(id, secret) + "<Status>Active</Status></AccessKey>", true
	case "AssumeRole":
		if !roleSessionName.MatchString(form.Get("RoleSessionName")) {
			return "", false
		}
		a.sessions = append(a.sessions, form.Get("RoleSessionName"))
		id, secret := a.newKey("ASIA")
		end := time.Now().Add(15 * time.Minute).UTC().Format(time.RFC3339)
		return "<Credentials>" + keyXML(id, secret) + "<SessionToken>st-" + rand.Text() + "</SessionToken><Expiration>" + end +
			"</Expiration></Credentials><AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/x/y</Arn></AssumedRoleUser>", true
	case "GetCallerIdentity":
		return "<Arn>arn:aws:iam::1:user/vault</Arn><UserId>AIDA</UserId><Account>1</Account>", true
	case "ListAccessKeys":
		list := ""
		for id, owner := range a.keys {
			if owner == user {
				list += "<member><AccessKeyId>" + id + "</AccessKeyId></member>"
			}
		}
		return "<AccessKeyMetadata>" + list + "</AccessKeyMetadata><IsTruncated>false</IsTruncated>", true
	case "DeleteAccessKey":
		id := form.Get("AccessKeyId")
		delete(a.keys, id)
		delete(a.live, id)
		return "", true
	case "ListGroupsForUser":
		return "<Groups/><IsTruncated>false</IsTruncated>", true
	case "ListUserPolicies":
		return "<PolicyNames/><IsTruncated>false</IsTruncated>", true
	case "ListAttachedUserPolicies":
		return "<AttachedPolicies/><IsTruncated>false</IsTruncated>", true
	case "PutUserPolicy", "AttachUserPolicy", "DeleteUser", "DeleteUserPolicy", "DetachUserPolicy":
		return "", true
	}
	return "", false
}

func (a *AWS) newKey(prefix string) (id, secret string) {
	id, secret = prefix+rand.Text()[:16], "sk-"+rand.Text()
	a.live[id] = secret
	return id, secret
}

func keyXML(id, secret string) string {
	return "<AccessKeyId>" + id + "</AccessKeyId><SecretAccessKey>" + secret + "</SecretAccessKey>"
}

// AWSRoles mounts the aws engine at aws/, with the roles "user" (an IAM user for each credential, read at
// aws/creds/user) and "assumed" (STS, read at aws/sts/assumed).
func (s *Server) AWSRoles(t testing.TB, a *AWS) {
	t.Helper()
	s.Mount(t, "aws", "aws", nil)
	s.Write(t, "aws/config/root", map[string]any{
		"access_key": "AKIAROOT", "secret_key": "root-" + rand.Text(), "region": "us-east-1",
		"iam_endpoint": a.url, "sts_endpoint": a.url, "max_retries": 0,
	})
	s.Write(t, "aws/config/lease", map[string]any{"lease": "60s", "lease_max": "60s"})
	s.Write(t, "aws/roles/user", map[string]any{
		"credential_type": "iam_user", "policy_document": `{"Version":"2012-10-17","Statement":[]}`,
	})
	s.Write(t, "aws/roles/assumed", map[string]any{"credential_type": "assumed_role", "role_arns": "arn:aws:iam::1:role/x"})
}
