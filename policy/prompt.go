package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// PromptFile returns the name of the role's prompt file, as in [Policy.Files]; empty if the policy
// names none. With one, every route of the policy is authorised in that file.
func (p *Policy) PromptFile() string { return p.prompt }

// PromptSHA256 returns the SHA-256 of the role's prompt file in lower-case hex; empty if the policy
// names none.
func (p *Policy) PromptSHA256() string { return p.promptSHA }

// An authorization is what a prompt file says about routes.
type authorization struct {
	file   string
	routes map[string]strictyaml.Value // by the name of the route
}

// decodePrompt reads the prompt file that v names. It returns nil if there is none, or none that
// says which routes it authorises.
func (d *decoder) decodePrompt(v strictyaml.Value) *authorization {
	if !v.Present() {
		return nil
	}
	path := v.Mapping("file").Need("file", "write the file, such as file: prompts/pr-reviewer.md")
	name := d.resolve(d.files[0].name, path)
	if name == "" {
		return nil
	}
	for _, f := range d.files {
		if f.name == name {
			path.Wrong("the file is one of the policy, and no prompt", "name the prompt that the agent gets")
			return nil
		}
	}
	src, ok := d.readFile(name, path)
	if !ok {
		return nil
	}
	if len(src) > strictyaml.MaxSize {
		path.Wrong(fmt.Sprintf("the file is larger than %d bytes", strictyaml.MaxSize), "")
		return nil
	}
	sum := sha256.Sum256(src)
	d.policy.prompt, d.policy.promptSHA = name, hex.EncodeToString(sum[:])
	f := &file{name: name, src: src}
	d.files = append(d.files, f)
	const begin = "begin it with the lines ---, authorizes: [ROUTE, ROUTE] and ---"
	front, msg := frontMatter(src)
	if msg != "" {
		var root strictyaml.Value
		f.doc, root = strictyaml.Parse(d.dir+name, []byte("{}")) // for the place 1:1
		root.Wrong(msg, begin)
		return nil
	}
	var root strictyaml.Value
	f.doc, root = strictyaml.Parse(d.dir+name, front)
	return decodeAuthorizes(name, root.Mapping("authorizes").Need("authorizes", begin))
}

// decodeAuthorizes decodes the names of routes in the prompt file name.
func decodeAuthorizes(name string, v strictyaml.Value) *authorization {
	items := v.List()
	if len(items) == 0 {
		return nil
	}
	a := &authorization{name, map[string]strictyaml.Value{}}
	for _, item := range items {
		s, ok := item.Text()
		if !ok {
			continue
		}
		if _, twice := a.routes[s]; twice {
			item.Wrong(fmt.Sprintf("%s stands in the list already", strictyaml.Quote(s)), "remove it")
			continue
		}
		a.routes[s] = item
	}
	return a
}

// frontMatter returns what stands in src before the line --- that ends the front matter, the line
// --- that begins it included; or what is wrong.
func frontMatter(src []byte) (front []byte, wrong string) {
	const fence = "---"
	end := len(src) - len(bytes.TrimPrefix(src, []byte("\ufeff")))
	for i := 0; i == 0 || end < len(src); i++ {
		line, _, _ := bytes.Cut(src[end:], []byte("\n"))
		isFence := string(bytes.TrimSuffix(line, []byte("\r"))) == fence
		switch {
		case i == 0 && !isFence:
			return nil, "the prompt has no front matter, and so authorises no route"
		case i > 0 && isFence:
			return src[:end], ""
		}
		end = min(end+len(line)+1, len(src))
	}
	return nil, "the front matter of the prompt does not end"
}

// checkAuthorized finds the routes that the prompt does not authorise, and what it authorises that
// is no route. It does nothing if a is nil.
func (d *decoder) checkAuthorized(a *authorization) {
	if a == nil {
		return
	}
	var routes []string
	for _, r := range d.policy.routes {
		routes = append(routes, r.Name)
		if _, ok := a.routes[r.Name]; !ok && r.Name != "" {
			d.routeNames[r.Name].Wrong(fmt.Sprintf("the prompt %s does not authorise route %s", a.file, r.Name),
				fmt.Sprintf("add %s to authorizes in %s, or remove the route", r.Name, a.file))
		}
	}
	for name, v := range a.routes {
		if _, ok := d.routeNames[name]; !ok {
			hint := strictyaml.DidYouMean(name, routes)
			if hint == "" {
				hint = "remove it, or write the route"
			}
			v.Warn(fmt.Sprintf("the prompt authorises %s, and there is no such route", strictyaml.Quote(name)), hint)
		}
	}
}
