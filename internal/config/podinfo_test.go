package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekey/sidekey/internal/config"
)

// kubelet writes m as the kubelet does (k8s.io/kubernetes/pkg/fieldpath, FormatMap).
func kubelet(m map[string]string) string {
	var lines []string
	for k, v := range m {
		lines = append(lines, fmt.Sprintf("%v=%q", k, v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// podInfoDir makes a volume; "-" stands for no such file.
func podInfoDir(t *testing.T, annotations, labels string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"annotations": annotations, "labels": labels} {
		if text == "-" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadPodInfo(t *testing.T) {
	const id, by = "sidekey.dev/session-id", "sidekey.dev/requested-by"
	others := map[string]string{"a": "", "example.com/json": `{"a": "b\n\\"}`, "kubernetes.io/config.seen": "2026-11-22T12:00:00Z", "x": "\xff\u00a0\U0001F511=\"\x00"}
	both := map[string]string{id: "run-7", by: "Åsa \"A\" <asa@example.com>"}
	for k, v := range others {
		both[k] = v
	}
	for _, tt := range []struct {
		name, annotations, labels string
		want                      config.PodInfo
	}{
		{"annotations", kubelet(both), kubelet(others), config.PodInfo{SessionID: "run-7", RequestedBy: `Åsa "A" <asa@example.com>`}},
		{"labels", kubelet(others), kubelet(map[string]string{id: "run-7", by: "asa"}), config.PodInfo{SessionID: "run-7", RequestedBy: "asa"}},
		{"one of each", kubelet(map[string]string{by: "a@b"}), kubelet(map[string]string{id: "i"}), config.PodInfo{SessionID: "i", RequestedBy: "a@b"}},
		{"the same twice", kubelet(map[string]string{id: "i"}), kubelet(map[string]string{id: "i"}), config.PodInfo{SessionID: "i"}},
		{"neither", kubelet(others), "", config.PodInfo{}},
		{"no labels file", kubelet(map[string]string{id: "i"}), "-", config.PodInfo{SessionID: "i"}},
		{"no annotations file", "-", kubelet(map[string]string{id: "i"}), config.PodInfo{SessionID: "i"}},
		{"empty values", kubelet(map[string]string{id: "", by: ""}), "", config.PodInfo{}},
		{"a newline at the end", kubelet(map[string]string{id: "i"}) + "\n", "-", config.PodInfo{SessionID: "i"}},
		{"a key like ours", kubelet(map[string]string{"x" + id: "i", id + "x": "i"}), "-", config.PodInfo{}},
	} {
		got, err := config.ReadPodInfo(podInfoDir(t, tt.annotations, tt.labels))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestReadPodInfoMistakes(t *testing.T) {
	const id, by = "sidekey.dev/session-id", "sidekey.dev/requested-by"
	for _, tt := range []struct {
		name, annotations, labels string
		want                      []string // beginnings, after the directory
	}{
		{"nothing there", "-", "-", []string{": there is neither a file annotations nor a file labels"}},
		{"no quotes", id + "=run-7", "", []string{"/annotations:1: the value of " + id + " is not a quoted string"}},
		{"other quotes", id + "=`run-7`", "", []string{"/annotations:1: the value of " + id + " is not a quoted string"}},
		{"a rune", id + "='r'", "", []string{"/annotations:1: the value of "}},
		{"an open quote", id + `="run-7`, "", []string{"/annotations:1: the value of "}},
		{"text behind it", id + `="run-7" `, "", []string{"/annotations:1: the value of "}},
		{"a false escape", id + `="\q"`, "", []string{"/annotations:1: the value of "}},
		{"a wrong line of another", kubelet(map[string]string{id: "i"}) + "\nx=y", "", []string{"/annotations:2: the value of x"}},
		{"no value", "-", id, []string{`/labels:1: the line is not KEY="VALUE"`}},
		{"no key", `="a"`, "", []string{`/annotations:1: the line is not KEY="VALUE"`}},
		{"a space", ` a="b"`, "", []string{`/annotations:1: the line is not KEY="VALUE"`}},
		{"an empty line", "a=\"b\"\n\nc=\"d\"", "", []string{`/annotations:2: the line is not KEY="VALUE"`}},
		{"CRLF", "a=\"b\"\r\nc=\"d\"", "", []string{"/annotations:1: the value of a"}},
		{"twice", "a=\"b\"\na=\"b\"", "", []string{"/annotations:2: the key a stands at "}},
		{"two values", kubelet(map[string]string{id: "i"}), kubelet(map[string]string{id: "j"}), []string{"/annotations:1: " + id + `: the annotation is "i" and the label is "j"`}},
		{"not a session id", kubelet(map[string]string{id: "a/b"}), "", []string{"/annotations:1: " + id + `: "a/b" is not a session id`}},
		{"not printable", "-", kubelet(map[string]string{by: "a\nb"}), []string{"/labels:1: " + by + `: "a\nb" has a character that does not print`}},
		{"not UTF-8", kubelet(map[string]string{by: "\xff"}), "", []string{"/annotations:1: " + by + ": "}},
		{"too large", strings.Repeat("a", 2<<20+1), "-", []string{"/annotations: the file is larger than "}},
		{"all at once", "x\n" + kubelet(map[string]string{id: "a/b"}), "y", []string{"/annotations:1: ", "/labels:1: ", "/annotations:2: "}},
	} {
		dir := podInfoDir(t, tt.annotations, tt.labels)
		got, err := config.ReadPodInfo(dir)
		if got != (config.PodInfo{}) {
			t.Errorf("%s: got %+v", tt.name, got)
		}
		ms := mistakes(t, err)
		for i, m := range ms {
			if i >= len(tt.want) || !strings.HasPrefix(m.String(), dir+tt.want[i]) {
				t.Errorf("%s: not wanted: %v", tt.name, m)
			}
		}
		if len(ms) < len(tt.want) {
			t.Errorf("%s: not found: %q", tt.name, tt.want[len(ms):])
		}
	}
}

func TestReadPodInfoUnreadable(t *testing.T) {
	dir := podInfoDir(t, "-", "-")
	if err := os.Mkdir(filepath.Join(dir, "labels"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := config.ReadPodInfo(dir)
	if ms := mistakes(t, err); len(ms) != 1 || !strings.Contains(ms[0].String(), "labels: read the pod's metadata: is a directory") {
		t.Errorf("a directory for a file: %v", err)
	}
}

// Whatever a pod's author writes into an annotation, what comes out is what went in, or an error.
func FuzzReadPodInfo(f *testing.F) {
	f.Add("run-7", "Åsa <asa@example.com>", "x\ny=\"z\"")
	f.Add("", "\"\\", "\xff\u2028\U0001F511\ufffe")
	f.Fuzz(func(t *testing.T, id, by, other string) {
		text := kubelet(map[string]string{config.KeySessionID: id, config.KeyRequestedBy: by, "other": other})
		got, err := config.ReadPodInfo(podInfoDir(t, text, "-"))
		if want := (config.PodInfo{SessionID: id, RequestedBy: by}); err == nil && got != want {
			t.Errorf("got %+q, want %+q", got, want)
		}
		plain := func(s string) bool {
			return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-") == "" && len(s) < 100
		}
		if err != nil && plain(id) && plain(by) {
			t.Errorf("refused: %v", err)
		}
	})
}
