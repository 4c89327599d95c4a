// Command manifests checks Kubernetes manifests without a cluster.
//
//	manifests FILE...
//
// Every document is decoded strictly into the API's own Go types, so that an
// unknown, misspelt or duplicate field is an error. If kubectl is on the PATH,
// `kubectl apply --dry-run=client` is then run on the files, against a
// stand-in on loopback that answers discovery and nothing else: kubectl cannot
// map a kind to a resource without a server, even for a client dry run.
//
// It is a module of its own so that k8s.io never enters Sidekey's go.mod.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

func main() {
	files := os.Args[1:]
	if len(files) == 0 {
		fmt.Fprintln(os.Stderr, "usage: manifests FILE...")
		os.Exit(2)
	}
	if err := check(os.Stdout, files); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

// check decodes every file strictly, then runs kubectl on them if there is one.
func check(w io.Writer, files []string) error {
	decode, err := strictDecoder()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range files {
		if err := checkFile(w, decode, name); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		fmt.Fprintln(w, "kubectl is not installed: its client dry run was NOT done (the strict decoding above was)")
		return nil
	}
	return dryRun(w, kubectl, files)
}

// strictDecoder knows the API groups that the examples use.
func strictDecoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build the scheme: %w", err)
		}
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true}), nil
}

// checkFile decodes each document of one file; a file with none is an error.
func checkFile(w io.Writer, decode runtime.Decoder, name string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(src)))
	defer reader.Close()
	buf := make([]byte, len(src)+1)
	n := 0
	for {
		size, err := reader.Read(buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if onlyComments(buf[:size]) {
			continue
		}
		n++
		_, kind, err := decode.Decode(buf[:size], nil, nil)
		if err != nil {
			return fmt.Errorf("%s: document %d: %w", name, n, err)
		}
		fmt.Fprintf(w, "%s: document %d: %s is well formed\n", name, n, kind.Kind)
	}
	if n == 0 {
		return fmt.Errorf("%s: no document", name)
	}
	return nil
}

// onlyComments tells a header comment before the first "---" from an object.
func onlyComments(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}
