package redact_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sidekey/sidekey/redact"
)

// step is what one Read of a source gives.
type step struct {
	data string
	err  error
}

// script is a source that plays steps, then io.EOF. It counts its reads.
type script struct {
	steps []step
	reads int
}

func (s *script) Read(p []byte) (int, error) {
	s.reads++
	if len(s.steps) == 0 {
		return 0, io.EOF
	}
	next := s.steps[0]
	n := copy(p, next.data)
	if n < len(next.data) {
		s.steps[0].data = next.data[n:]
		return n, nil
	}
	s.steps = s.steps[1:]
	return n, next.err
}

// TestHoldsBackNoMoreThanItMust reads what each step of a source lets out, before the next one.
func TestHoldsBackNoMoreThanItMust(t *testing.T) {
	const m = redact.Mask
	tests := []struct{ in, out []string }{
		{[]string{"data: 1\n\n", "data: 2\n\n"}, []string{"data: 1\n\n", "data: 2\n\n"}},
		{[]string{"data: hun", "k\n\n"}, []string{"data: ", "hunk\n\n"}},
		{[]string{"is hunter2", "2 it"}, []string{"is ", m + " it"}},
		{[]string{"is hunter22", " it"}, []string{"is " + m, " it"}},
		{[]string{"hunter22hun", "t"}, []string{m, "hunt"}},         // the second may be one, too
		{[]string{"secret-one", "-and-two"}, []string{m, ""}},       // a longer secret: the same mask
		{[]string{"secret-one", "-and-2"}, []string{m, "-and-2"}},   // the shorter secret only
		{[]string{"secret-onetwo", "-3"}, []string{m, "two-3"}},     // nothing after all
		{[]string{"Asecret-one", "A"}, []string{"", "A" + m + "A"}}, // inside what may become a longer one
		{[]string{"Asecret-one", "B"}, []string{"", m}},
		{[]string{"Asecret-one", "A", "secret-oneC"}, []string{"", "A" + m, "A" + m + "C"}},
		{[]string{"hunter2", "hunter", "22"}, []string{"", "hunter2", m}},
		{[]string{strings.Repeat("innocent ", 9000) + "hun", "k"}, []string{strings.Repeat("innocent ", 9000), "hunk"}},
	}
	set, _ := redact.Compile(pats("hunter22", "secret-one", "secret-one-and-two", "Asecret-oneB")...)
	for _, tt := range tests {
		src := &script{}
		for _, s := range tt.in {
			src.steps = append(src.steps, step{s, nil})
		}
		r := set.NewReader(iotest.DataErrReader(src))
		for i, want := range tt.out {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
				t.Errorf("%.40q: piece %d = %.80q, %v, want %.80q", tt.in, i, got, err, want)
			}
		}
		if n, err := r.Read(make([]byte, 9)); n != 0 || err != io.EOF {
			t.Errorf("%.40q: %d bytes more, %v", tt.in, n, err)
		}
	}
}

func TestReadDeliversBeforeItReadsOn(t *testing.T) {
	set, _ := redact.Compile(pats("hunter22")...)
	src := &script{steps: []step{{"data: 1\n\n", nil}, {"data: hunter22\n\n", nil}}}
	r := set.NewReader(src)
	for i, want := range []string{"data: 1\n\n", "data: " + redact.Mask + "\n\n"} {
		p := make([]byte, 100)
		n, err := r.Read(p)
		if string(p[:n]) != want || err != nil || src.reads != i+1 {
			t.Errorf("Read = %q, %v after %d reads, want %q after %d", p[:n], err, src.reads, want, i+1)
		}
	}
	if r.Found() != 1 {
		t.Errorf("Found() = %d, want 1", r.Found())
	}
	if n, err := r.Read(nil); n != 0 || err != nil || src.reads != 2 {
		t.Errorf("Read(nil) = %d, %v after %d reads", n, err, src.reads)
	}
}

func TestErrorsOfTheSource(t *testing.T) {
	broken := errors.New("connection reset")
	empty := make([]step, 200)
	tests := []struct {
		name  string
		steps []step
		want  string
		err   error
		found int
	}{
		{"at once", []step{{"", broken}}, "", broken, 0},
		{"with data", []step{{"abc", broken}}, "abc", broken, 0},
		{"with a secret", []step{{"a hunter22", broken}}, "a " + redact.Mask, broken, 1},
		{"with held bytes", []step{{"a hunter2", broken}}, "a hunter2", broken, 0},
		{"after held bytes", []step{{"a hunter2", nil}, {"", broken}}, "a hunter2", broken, 0},
		{"a secret in held bytes", []step{{"Ahunter22", nil}, {"", broken}}, "A" + redact.Mask, broken, 1},
		{"end with data", []step{{"a hunter2", nil}, {"2", io.EOF}}, "a " + redact.Mask, io.EOF, 1},
		{"empty reads", append(empty[:99:99], step{"abc", nil}), "abc", io.EOF, 0},
		{"nothing but empty reads", empty, "", io.ErrNoProgress, 0},
	}
	full, _ := redact.Compile(pats("hunter22", "Ahunter22B")...)
	for _, tt := range tests {
		for name, set := range map[string]*redact.Set{"full": full, "empty": {}} {
			r := set.NewReader(&script{steps: append([]step(nil), tt.steps...)})
			var got []byte
			var err error
			for p := make([]byte, 5); err == nil; {
				var n int
				n, err = r.Read(p)
				got = append(got, p[:n]...)
				if n == 0 && err == nil {
					t.Fatalf("%s: Read gave nothing", tt.name)
				}
			}
			want := tt.want
			if set != full {
				var b strings.Builder
				for _, s := range tt.steps {
					b.WriteString(s.data)
				}
				want = b.String()
			}
			if string(got) != want || err != tt.err || set == full && r.Found() != tt.found {
				t.Errorf("%s, %s: %q, %v, %d found, want %q, %v, %d", tt.name, name, got, err, r.Found(), want, tt.err, tt.found)
			}
			if n, again := r.Read(make([]byte, 5)); set == full && (n != 0 || again != err) {
				t.Errorf("%s: after the error: %d, %v, want 0, %v", tt.name, n, again, err)
			}
		}
	}
}

// liar is a source that breaks the contract of io.Reader.
type liar int

func (l liar) Read(p []byte) (int, error) { return int(l) * (len(p) + 1), nil }

func TestImpossibleCounts(t *testing.T) {
	set, _ := redact.Compile(pats("hunter22")...)
	for _, l := range []liar{-1, 1} {
		if n, err := set.NewReader(l).Read(make([]byte, 9)); n != 0 || err == nil {
			t.Errorf("Read = %d, %v, want an error", n, err)
		}
	}
}

// TestLongSecret has a secret longer than the usual buffer, full of another one.
func TestLongSecret(t *testing.T) {
	long := strings.Repeat("hunter22 and so on; ", 1700)
	set, _ := redact.Compile(pats("hunter22", long+"!")...)
	for _, tail := range []string{"!", "?", "", long + "!", long + long} {
		body := "<" + long + tail + ">"
		want, found := set.String(body)
		r := set.NewReader(iotest.HalfReader(strings.NewReader(body)))
		got, err := io.ReadAll(r)
		if err != nil || string(got) != want || r.Found() != found {
			t.Errorf("tail of %d bytes: %d bytes, %d found, %v, want %d, %d", len(tail), len(got), r.Found(), err, len(want), found)
		}
	}
	if got, n := set.String(long + "!"); got != redact.Mask || n != 1 {
		t.Errorf("%d masks, want 1", n)
	}
	if _, n := set.String(long); n != 1700 {
		t.Errorf("%d masks, want 1700", n)
	}
}

// endless repeats a text for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.text[e.at:])
		n += k
		e.at = (e.at + k) % len(e.text)
	}
	return n, nil
}

func TestReadDoesNotAllocate(t *testing.T) {
	period := "hunter22, and so on; "
	set, _ := redact.Compile(pats("hunter22", strings.Repeat(period, 50)+"!")...)
	for _, text := range []string{"innocent ", "this is hunter22, is it? ", period} {
		r := set.NewReader(&endless{text: text})
		p := make([]byte, 1<<10)
		read := func() {
			if _, err := r.Read(p); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			read()
		}
		if n := testing.AllocsPerRun(100, read); n != 0 {
			t.Errorf("%q: %v allocations in a Read, want 0", text, n)
		}
	}
}

// TestBuffersComeBackClean reads many bodies one after the other: none may show in another.
func TestBuffersComeBackClean(t *testing.T) {
	set, _ := redact.Compile(pats("hunter22")...)
	for i := range 50 {
		body := bytes.Repeat([]byte{byte('a' + i%26)}, 1+i*997%5000)
		got, err := io.ReadAll(set.NewReader(bytes.NewReader(body)))
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("body %d: %d bytes, %v, want %d", i, len(got), err, len(body))
		}
	}
}
