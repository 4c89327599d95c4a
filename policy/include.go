package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	// maxIncludes bounds files that include files.
	maxIncludes = 8

	// maxFiles bounds the files of a policy.
	maxFiles = 100
)

// roleKeys are the keys that only the policy's own file may have.
var roleKeys = []string{"role", "description", "mode", "budget", "prompt"}

// A file is one of the files of a policy.
type file struct {
	name string // below the directory of the policy's own, with slashes
	src  []byte
	doc  *strictyaml.Document
	root strictyaml.Mapping // none of a prompt
	text source             // of src; nil until a mistake needs it
}

// load parses a file and the files that it includes. chain are the files that include it, the
// policy's own first.
func (d *decoder) load(name string, src []byte, chain []*file) {
	f := &file{name: name, src: src}
	d.files = append(d.files, f)
	var root strictyaml.Value
	f.doc, root = strictyaml.Parse(d.dir+name, src)
	f.root = root.Mapping("version", "role", "description", "mode", "budget", "prompt", "include", "credentials", "routes", "tests")
	version := f.root.Need("version", "write version: 1")
	if n, ok := version.Int(); ok && n != 1 {
		version.Wrong(fmt.Sprintf("version %d is not known", n), "write version: 1")
	}
	if len(chain) > 0 {
		forbid(f.root, "only the policy itself says it, not a file that it includes", roleKeys...)
		if !slices.ContainsFunc([]string{"include", "credentials", "routes", "tests"}, f.root.Has) {
			f.root.Value().Wrong("there is nothing to include in the file", "write credentials, routes or tests")
		}
	}
	var names []string
	for _, item := range f.root.Get("include").List() {
		included := d.resolve(name, item)
		if included != "" && slices.Contains(names, included) {
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(included)), "remove it")
			continue
		}
		names = append(names, included)
		d.include(included, item, append(chain[:len(chain):len(chain)], f))
	}
	d.order = append(d.order, f)
}

// include loads the file name, which item names and the last of chain includes. A file that another
// one has included is not read again. It does nothing if name is empty.
func (d *decoder) include(name string, item strictyaml.Value, chain []*file) {
	named := func(f *file) bool { return f.name == name }
	switch at := slices.IndexFunc(chain, named); {
	case name == "":
		return
	case at >= 0:
		var way []string
		for _, f := range chain[at:] {
			way = append(way, f.name)
		}
		item.Wrong("the file includes itself: "+strings.Join(append(way, name), " -> "), "remove it")
		return
	case slices.ContainsFunc(d.files, named):
		return
	case len(chain) > maxIncludes:
		item.Wrong(fmt.Sprintf("files are included more than %d deep", maxIncludes), "include the file in the policy itself")
		return
	case len(d.files) == maxFiles:
		item.Wrong(fmt.Sprintf("the policy has more than %d files", maxFiles), "make fewer of them")
		return
	}
	if src, ok := d.readFile(name, item); ok {
		d.load(name, src, chain)
	}
}

// readFile reads a file that v names.
func (d *decoder) readFile(name string, v strictyaml.Value) (src []byte, ok bool) {
	if d.read == nil {
		v.Wrong("the policy was handed over without its other files", "name it by its file, not on standard input")
		return nil, false
	}
	if d.unread[name] != nil {
		return nil, false // which is a mistake already, at the first place
	}
	src, err := d.read(name)
	if err != nil {
		d.unread[name] = err
		v.Wrong("the file cannot be read: "+err.Error(), "write its path as seen from this file, and mount it with the policy")
		return nil, false
	}
	return src, true
}

// resolve returns the name of the file that v names in the file from; empty after a mistake.
func (d *decoder) resolve(from string, v strictyaml.Value) string {
	s, ok := nonEmpty(v)
	if !ok {
		return ""
	}
	switch name := path.Join(path.Dir(from), s); {
	case strings.Contains(s, "\\"):
		v.Wrong("the path has a backslash", "write / between directories")
	case s[0] == '/' || len(s) > 1 && s[1] == ':':
		v.Wrong("the path is absolute", "write it as seen from this file")
	case name == ".." || strings.HasPrefix(name, "../"):
		v.Wrong("the path leads out of the directory of the policy", "keep the file beside the policy, or below it")
	case name == "." || strings.HasSuffix(s, "/"):
		v.Wrong("the path is that of a directory", "name one file")
	default:
		return name
	}
	return ""
}

// fileOf returns the file that positions call where.
func (d *decoder) fileOf(where string) *file {
	i := slices.IndexFunc(d.files, func(f *file) bool { return d.dir+f.name == where })
	if i < 0 {
		return nil
	}
	return d.files[i]
}

// mistakes returns all that is wrong, file by file; nil if nothing is.
func (d *decoder) mistakes() error {
	var all Mistakes
	for _, f := range d.files {
		var ms Mistakes
		if errors.As(f.doc.Err(), &ms) {
			all = append(all, ms...)
		}
	}
	if all == nil {
		return nil
	}
	d.putInside(all)
	return all
}

// warnings returns what is worth a look, file by file; nil if nothing is.
func (d *decoder) warnings() (all Mistakes) {
	for _, f := range d.files {
		all = append(all, f.doc.Warnings()...)
	}
	return all
}

// sum returns the names of all files, and the SHA-256 that stands for all that they say.
func (d *decoder) sum() (names []string, hash string) {
	all := sha256.New()
	var one [sha256.Size]byte
	for _, f := range d.files {
		names = append(names, f.name)
		one = sha256.Sum256(f.src)
		fmt.Fprintf(all, "%s\x00%x\n", f.name, one)
	}
	if len(names) == 1 {
		return names, hex.EncodeToString(one[:])
	}
	return names, hex.EncodeToString(all.Sum(nil))
}
