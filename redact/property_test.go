package redact_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekey/sidekey/redact"
)

// oracle masks by looking for every needle everywhere. It returns what may leave when text is all
// that has been read so far, or the whole output at the end.
func oracle(needles [][]byte, text []byte, end bool) (string, int) {
	limit := len(text)
	if !end {
		limit -= heldBack(needles, text)
	}
	reach := make([]int, len(text)) // the end of the longest needle at each position
	for _, n := range needles {
		for i := 0; ; i++ {
			k := bytes.Index(text[i:], n)
			if k < 0 {
				break
			}
			i += k
			reach[i] = max(reach[i], i+len(n))
		}
	}
	var out strings.Builder
	found := 0
	for i := 0; i < len(text); {
		switch {
		case reach[i] > 0 && i <= limit:
			to := reach[i]
			for i < to {
				to = max(to, reach[i])
				i++
			}
			out.WriteString(redact.Mask)
			found++
		case i < limit:
			out.WriteByte(text[i])
			i++
		default:
			return out.String(), found
		}
	}
	return out.String(), found
}

// heldBack is the length of the longest suffix of text that is a proper prefix of a needle.
func heldBack(needles [][]byte, text []byte) int {
	longest := 0
	for _, n := range needles {
		for k := min(len(n)-1, len(text)); k > longest; k-- {
			if bytes.HasSuffix(text, n[:k]) {
				longest = k
			}
		}
	}
	return longest
}

func render(patterns []redact.Pattern) [][]byte {
	var needles [][]byte
	for _, p := range patterns {
		if len(p.Value) >= redact.MinLen {
			needles = append(needles, redact.Render(p)...)
		}
	}
	slices.SortFunc(needles, bytes.Compare)
	return slices.CompactFunc(needles, bytes.Equal)
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// cutter is a source that checks, each time it is asked for more, that everything has left which
// may have left.
type cutter struct {
	t       fataler
	needles [][]byte
	body    []byte
	cuts    []byte
	given   int
	reads   int
	out     *strings.Builder
}

func (c *cutter) Read(p []byte) (int, error) {
	if want, _ := oracle(c.needles, c.body[:c.given], false); c.out.String() != want {
		c.t.Fatalf("after %d bytes of %q (cuts %v): got %q, want %q", c.given, c.body, c.cuts, c.out, want)
	}
	n := len(p)
	if len(c.cuts) > 0 {
		n = min(n, int(c.cuts[c.reads%len(c.cuts)]))
	}
	c.reads++
	n = copy(p[:n], c.body[c.given:])
	c.given += n
	if c.given == len(c.body) && (n == 0 || c.reads%2 == 0) {
		return n, io.EOF
	}
	return n, nil
}

// check holds the property: whatever the cuts and the size of the destination, the output is that
// of the oracle, nothing leaves late, and [redact.Set.String] agrees.
func check(t fataler, patterns []redact.Pattern, body, cuts []byte, destination int) {
	t.Helper()
	needles := render(patterns)
	set, _ := redact.Compile(patterns...)
	want, found := oracle(needles, body, true)
	var out strings.Builder
	src := &cutter{t: t, needles: needles, body: body, cuts: cuts, out: &out}
	r := set.NewReader(src)
	p := make([]byte, max(1, destination))
	for {
		n, err := r.Read(p)
		out.Write(p[:n])
		if err == io.EOF {
			break
		}
		if err != nil || n == 0 {
			t.Fatalf("Read = %d, %v", n, err)
		}
	}
	if out.String() != want || r.Found() != found {
		t.Fatalf("%q (cuts %v): got %q, %d found, want %q, %d", body, cuts, out.String(), r.Found(), want, found)
	}
	if got, n := set.String(string(body)); got != want || n != found {
		t.Fatalf("String(%q) = %q, %d, want %q, %d", body, got, n, want, found)
	}
}

// TestReaderProperty draws secrets of few letters, so that they overlap, and bodies of their
// needles, pieces of needles and innocent bytes.
func TestReaderProperty(t *testing.T) {
	value := rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 8, 14, -1),
		rapid.StringOfN(rapid.RuneFrom([]rune(`ab/"&%+<= \`)), 8, 20, -1),
		rapid.Just(redact.Mask),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 24), func(b []byte) string { return string(b) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		var patterns []redact.Pattern
		for _, v := range rapid.SliceOfN(value, 1, 4).Draw(t, "values") {
			user := rapid.SampledFrom([]string{"", "git"}).Draw(t, "user")
			patterns = append(patterns, redact.Pattern{Value: []byte(v), User: []byte(user)})
		}
		needles := append(render(patterns), []byte(redact.Mask))
		var body []byte
		for range rapid.IntRange(0, 12).Draw(t, "pieces") {
			n := rapid.SampledFrom(needles).Draw(t, "needle")
			from := rapid.IntRange(0, len(n)).Draw(t, "from")
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				body = append(body, n...)
			case 1:
				body = append(body, n[:from]...)
			case 2:
				body = append(body, n[from:]...)
			case 3:
				body = append(body, rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 9, -1).Draw(t, "letters")...)
			default:
				body = append(body, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "bytes")...)
			}
		}
		cuts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) byte {
			return byte(rapid.SampledFrom([]int{1, 1, 2, 3, 7, 16, 64, 200}).Draw(t, "cut"))
		}), 0, 5).Draw(t, "cuts")
		check(t, patterns, body, cuts, rapid.SampledFrom([]int{1, 2, 5, 17, 64, 4096}).Draw(t, "destination"))
	})
}

// TestEveryCut cuts a body with all renderings of a secret at every place.
func TestEveryCut(t *testing.T) {
	patterns := []redact.Pattern{{Value: []byte(`s/e"cre+`), User: []byte("me")}}
	var body []byte
	for _, n := range render(patterns) {
		body = fmt.Appendf(body, "%s.", n)
	}
	set, _ := redact.Compile(patterns...)
	want, found := oracle(render(patterns), body, true)
	for i := range body {
		for _, size := range []int{1, 100} {
			r := set.NewReader(io.MultiReader(bytes.NewReader(body[:i]), bytes.NewReader(body[i:])))
			var out strings.Builder
			if _, err := io.CopyBuffer(struct{ io.Writer }{&out}, r, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if out.String() != want || r.Found() != found {
				t.Fatalf("cut at %d: got %q, want %q", i, out.String(), want)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("hunter22", "hunter22hunter22", "", []byte("is hunter22 it? aHVudGVyMjI="), []byte{1}, uint8(1))
	f.Add("abababab", "babababa", "u", []byte("ababababababa"), []byte{3, 1}, uint8(2))
	f.Add(redact.Mask, "redacted", "u", []byte(redact.Mask+redact.Mask[:9]), []byte{}, uint8(100))
	f.Add("a/b\"c&d<e", "\x00\x01\x02\x03\x04\x05\x06\x07", "u", []byte(`a\/b\"c\u0026d\u003ce%00%01%02%03`), []byte{5}, uint8(9))
	f.Fuzz(func(t *testing.T, one, two, user string, body, cuts []byte, destination uint8) {
		if len(one)+len(two)+len(user) > 60 || len(body) > 300 {
			return // the oracle is slow
		}
		for i := range cuts {
			cuts[i] = max(cuts[i], 1)
		}
		check(t, []redact.Pattern{{Value: []byte(one), User: []byte(user)}, {Value: []byte(two)}}, body, cuts, int(destination))
	})
}
