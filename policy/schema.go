package policy

import (
	"bytes"
	_ "embed"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (2020-12) of the policy file, for editors. It knows every key
// and most of the forms of values; [Parse] finds more.
func Schema() []byte { return bytes.Clone(schema) }
