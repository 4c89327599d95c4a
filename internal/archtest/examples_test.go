package archtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekey/sidekey/policy"
	"go.yaml.in/yaml/v3"
)

// TestExamplePolicies holds that each policy below examples/, also one inside a
// ConfigMap, loads and passes its own tests: people copy them.
func TestExamplePolicies(t *testing.T) {
	found := 0
	for name, text := range examplePolicies(t) {
		found++
		p, err := policy.Parse(name, text)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		results := p.RunTests()
		if len(results) == 0 {
			t.Errorf("%s: has no tests", name)
		}
		for _, r := range results {
			if !r.OK {
				t.Errorf("%s: %s: got %s, want %s", r.Where, r.Request, r.Got, r.Want)
			}
		}
	}
	if found < 3 {
		t.Errorf("found %d policies below examples/, want at least those of kubernetes, compose and laptop", found)
	}
}

// examplePolicies returns the text of each policy by a name to report it under.
func examplePolicies(t *testing.T) map[string][]byte {
	t.Helper()
	policies := make(map[string][]byte)
	root := filepath.Join(moduleRoot, "examples")
	err := filepath.WalkDir(root, func(name string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := addPolicies(policies, name, text); err != nil {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return policies
}

// addPolicies adds the file if it is a policy, and each ConfigMap's value that is one.
func addPolicies(policies map[string][]byte, name string, text []byte) error {
	docs := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc map[string]any
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if doc["routes"] != nil {
			policies[name] = text
			return nil
		}
		data, _ := doc["data"].(map[string]any)
		for key, value := range data {
			if inner, ok := value.(string); ok && strings.Contains(inner, "\nroutes:") {
				policies[name+"#"+key] = []byte(inner)
			}
		}
	}
}
