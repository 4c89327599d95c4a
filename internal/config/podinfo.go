package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
	"github.com/sidekey/sidekey/policy"
)

// The keys of a pod's annotations or labels that name its session.
const (
	KeySessionID   = "sidekey.dev/session-id"
	KeyRequestedBy = "sidekey.dev/requested-by"
)

// PodInfo is what a pod's annotations and labels say of its session, in the form of [Session]'s
// fields. An empty field is not there.
type PodInfo struct {
	SessionID, RequestedBy string
}

// ReadPodInfo reads the files annotations and labels in dir, a downward API volume. One of the two
// may be missing, and either may have [KeySessionID] and [KeyRequestedBy]; a key that is in both
// must have one value. The error is a [policy.Mistakes] with everything that is wrong.
func ReadPodInfo(dir string) (PodInfo, error) {
	var r podInfoReader
	annotations, labels := r.read(filepath.Join(dir, "annotations")), r.read(filepath.Join(dir, "labels"))
	if annotations == nil && labels == nil && len(r.mistakes) == 0 {
		recordIn(&r.mistakes, dir, "")("there is neither a file annotations nor a file labels",
			"mount a downwardAPI volume with metadata.annotations or metadata.labels there")
	}
	info := PodInfo{
		SessionID:   r.join(annotations, labels, KeySessionID, checkSessionID),
		RequestedBy: r.join(annotations, labels, KeyRequestedBy, checkRequester),
	}
	if len(r.mistakes) > 0 {
		return PodInfo{}, r.mistakes
	}
	return info, nil
}

// A podValue is a value with its place.
type podValue struct{ text, where string }

type podInfoReader struct{ mistakes policy.Mistakes }

// read returns the entries of a file, nil if there is no such file.
func (r *podInfoReader) read(path string) map[string]podValue {
	// The API server takes 256 KiB of annotations, and quoting makes of a byte four at most.
	const most = 2 << 20
	src, err := readFile(path, most)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		recordIn(&r.mistakes, path, "")("read the pod's metadata: "+err.Error(), "")
		return nil
	case len(src) > most:
		recordIn(&r.mistakes, path, "")(fmt.Sprintf("the file is larger than %d bytes", most), "")
		return nil
	}
	return r.parse(path, string(src))
}

// parse reads lines of KEY="VALUE" as the kubelet writes them: fmt's %q, so that no value spans
// two lines, and no newline at the end.
func (r *podInfoReader) parse(path, src string) map[string]podValue {
	entries := map[string]podValue{}
	if src == "" {
		return entries
	}
	n := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(src, "\n"), "\n") {
		n++
		where := path + ":" + strconv.Itoa(n)
		key, quoted, ok := strings.Cut(line, "=")
		wrong := recordIn(&r.mistakes, where, "")
		if !ok || !isQualifiedName(key) {
			wrong(`the line is not KEY="VALUE"`, "mount the file from a downwardAPI volume; it is not meant to be edited")
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil || quoted[0] != '"' {
			wrong("the value of "+key+" is not a quoted string", "mount the file from a downwardAPI volume; it is not meant to be edited")
			continue
		}
		if first, ok := entries[key]; ok {
			wrong("the key "+key+" stands at "+first.where+" already", "")
			continue
		}
		entries[key] = podValue{value, where}
	}
	return entries
}

// isQualifiedName reports whether s has only what the key of a label or an annotation may have.
func isQualifiedName(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./") == ""
}

// join returns the value of key; "" if neither has it.
func (r *podInfoReader) join(annotations, labels map[string]podValue, key string, check func(string, wrongFunc)) string {
	v, ok := annotations[key]
	label, labelled := labels[key]
	if !ok {
		v, ok = label, labelled
	}
	if !ok {
		return ""
	}
	wrong := recordIn(&r.mistakes, v.where, key)
	check(v.text, wrong)
	if labelled && label.text != v.text {
		wrong("the annotation is "+strictyaml.Quote(v.text)+" and the label is "+strictyaml.Quote(label.text), "keep one of the two")
	}
	return v.text
}
