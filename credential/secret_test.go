package credential_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sidekey/sidekey/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-c0ffee-42"

// I10: no way of printing shows a secret, alone, by pointer, or inside something else.
func TestSecretDoesNotPrint(t *testing.T) {
	s := credential.NewSecret([]byte(canary))
	iss := &credential.Issuance{ID: "id", Value: s, User: s}
	type outer struct {
		S  credential.Secret
		P  *credential.Secret
		I  *credential.Issuance
		In struct{ s credential.Secret }
	}
	o := outer{S: s, P: &s, I: iss}
	o.In.s = s

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "% x", "%#x", "%08.3s"} {
		for _, v := range []any{s, &s, o, &o, *iss, iss, []credential.Secret{s}, map[string]credential.Secret{"k": s}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, v := range []any{s, &s, o, iss, map[string]any{"s": s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Errorf("Marshal(%T): %v", v, err)
		}
		out.Write(b)
	}
	log := zerolog.New(&out)
	log.Info().Interface("s", s).Any("o", o).Stringer("str", s).Msg(fmt.Sprint(s))

	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary)), fmt.Sprintf("% x", canary)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret was printed as %q", form)
		}
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing was printed as [redacted]")
	}
}

func TestSecretWipe(t *testing.T) {
	s := credential.NewSecret([]byte(canary))
	s2 := s
	s2.Wipe()
	if got := s.Expose(); !bytes.Equal(got, make([]byte, len(canary))) {
		t.Errorf("after Wipe the bytes are %d long and not zero", len(got))
	}
	if (credential.Secret{}).IsZero() != true || s.IsZero() {
		t.Error("IsZero is wrong")
	}
}
