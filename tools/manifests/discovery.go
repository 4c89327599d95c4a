package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resources is what the stand-in says it serves, by group and version.
var resources = map[string][]metav1.APIResource{
	"v1": {
		{Name: "namespaces", Kind: "Namespace", Verbs: verbs},
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
		{Name: "serviceaccounts", Kind: "ServiceAccount", Namespaced: true, Verbs: verbs},
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
	},
	"apps/v1": {
		{Name: "deployments", Kind: "Deployment", Namespaced: true, Verbs: verbs},
	},
	"networking.k8s.io/v1": {
		{Name: "networkpolicies", Kind: "NetworkPolicy", Namespaced: true, Verbs: verbs},
	},
}

var verbs = metav1.Verbs{"create", "delete", "get", "list", "patch", "update", "watch"}

// dryRun runs kubectl's client dry run on files. Objects are looked up at the
// stand-in, which has none, so each is reported as it would be created.
func dryRun(w io.Writer, kubectl string, files []string) error {
	server := httptest.NewServer(http.HandlerFunc(answerDiscovery))
	defer server.Close()
	cache, err := os.MkdirTemp("", "manifests")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)

	// Validation would need the server's OpenAPI document; the strict decoding
	// has done that part already.
	args := []string{"apply", "--dry-run=client", "--validate=false", "--server=" + server.URL, "--cache-dir=" + cache}
	for _, name := range files {
		args = append(args, "-f", name)
	}
	cmd := exec.Command(kubectl, args...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	// An operator's own kubeconfig must neither be needed nor be used.
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl apply --dry-run=client: %w", err)
	}
	return nil
}

// answerDiscovery answers /api, /apis and the resource lists, and 404 for any object.
func answerDiscovery(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	switch path {
	case "api":
		answer(w, http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		return
	case "apis":
		answer(w, http.StatusOK, groups())
		return
	}
	version, ok := strings.CutPrefix(path, "apis/")
	if !ok {
		version = strings.TrimPrefix(path, "api/")
	}
	if list, ok := resources[version]; ok {
		answer(w, http.StatusOK, metav1.APIResourceList{
			TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
			GroupVersion: version,
			APIResources: list,
		})
		return
	}
	answer(w, http.StatusNotFound, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound,
		Message: "the stand-in holds no objects",
	})
}

// groups lists the named API groups of resources.
func groups() metav1.APIGroupList {
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for groupVersion := range resources {
		group, version, named := strings.Cut(groupVersion, "/")
		if !named {
			continue
		}
		served := metav1.GroupVersionForDiscovery{GroupVersion: groupVersion, Version: version}
		list.Groups = append(list.Groups, metav1.APIGroup{
			Name: group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served,
		})
	}
	return list
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A write error means that kubectl has gone; its exit status says so.
	_ = json.NewEncoder(w).Encode(body)
}
