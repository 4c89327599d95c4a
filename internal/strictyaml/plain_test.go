package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

func TestPlain(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want any // nil: a mistake that says the words of says
		says string
	}{
		{"x", "x", ""}, {`""`, "", ""}, {`"1"`, "1", ""}, {"true", true, ""}, {"false", false, ""},
		{"0", int64(0), ""}, {"-7", int64(-7), ""}, {"9223372036854775807", int64(9223372036854775807), ""},
		{"1.50", 1.5, ""}, {"-2.5e-3", -0.0025, ""}, {"[a, b]", []string{"a", "b"}, ""},
		{"", nil, "there is no value"}, {"{a: 1}", nil, "not a mapping"}, {"2020-01-02", nil, "not a date"},
		{"0x10", nil, "not a number in plain digits"}, {"0o7", nil, "plain digits"}, {"1_000", nil, "plain digits"},
		{"+1", nil, "plain digits"}, {".5", nil, "plain digits"}, {"1.", nil, "plain digits"}, {".inf", nil, "plain digits"},
		{".nan", nil, "plain digits"}, {"9223372036854775808", nil, "plain digits"},
		{"True", nil, "not in lower case"}, {"[]", nil, "the list is empty"}, {"[a, 1]", nil, "must be text"}, {"[[a]]", nil, "must be text"},
	} {
		doc, root := strictyaml.Parse("f", []byte("k: "+tt.src+"\n"))
		got, ok := root.Mapping("k").Get("k").Plain()
		err := doc.Err()
		if diff := cmp.Diff(got, tt.want); diff != "" || ok != (tt.want != nil) {
			t.Errorf("%q: ok %v (-got +want)\n%s", tt.src, ok, diff)
		}
		if (err != nil) != (tt.want == nil) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: error %v, want %q", tt.src, err, tt.says)
		}
	}
	if got, ok := (strictyaml.Value{}).Plain(); got != nil || ok {
		t.Errorf("what is absent is %v, %v", got, ok)
	}
}
