package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A draft is a route before it is written.
type draft struct {
	name    string
	origin  origin
	methods []string
	cells   []*cell
	options []string
}

// A grouping is how methods of one path become routes. The first is the one to read; another is for
// when it makes routes tie.
type grouping int

const (
	joined grouping = iota // all methods that are alike are one route
	single                 // each method is a route
	wide                   // as single, but that routes with conditions have all the methods that they had
)

// write returns the text of the policy.
func (l *learner) write(g grouping) []byte {
	drafts := l.drafts(g)
	var b strings.Builder
	b.WriteString("version: 1\nrole: " + plainText(l.cfg.Role) + "\ndescription: learned from an audit log; read it before it is used\n")
	l.writeCredentials(&b, drafts)
	b.WriteString("\nroutes:\n")
	names := map[string]int{}
	for _, d := range drafts {
		d.name = unique(names, d.name)
		d.write(&b)
	}
	for _, c := range slices.SortedFunc(maps.Values(l.tunnels), func(a, b *cell) int {
		return cmp.Or(cmp.Compare(a.key.origin.host, b.key.origin.host), cmp.Compare(a.key.origin.port, b.key.origin.port))
	}) {
		d := draft{cells: []*cell{c}}
		fmt.Fprintf(&b, "  # %s\n  - name: %s\n    host: %s\n    tunnel: true\n", d.comment()[0], unique(names, c.name([]string{"tunnel"})), quotedIf(hostText(c.key.origin)))
	}
	return []byte(b.String())
}

// sorted returns all cells in the order of the file.
func (l *learner) sorted() []*cell {
	return slices.SortedFunc(maps.Values(l.cells), func(a, b *cell) int {
		return cmp.Or(
			cmp.Compare(a.key.origin.host, b.key.origin.host), cmp.Compare(a.key.origin.port, b.key.origin.port),
			cmp.Compare(b.key.origin.scheme, a.key.origin.scheme), cmp.Compare(a.path, b.path),
			cmp.Compare(a.key.base, b.key.base), cmp.Compare(a.key.method, b.key.method),
		)
	})
}

// drafts puts cells together: the methods of a path that are alike but for the method, and then the
// paths that have the same methods.
func (l *learner) drafts(g grouping) []draft {
	cells := l.sorted()
	alone := func(c *cell) []string {
		if g == wide && c.key.base != "" {
			return c.base.Methods
		}
		return []string{c.key.method}
	}
	alike := func(c *cell) string {
		base := ""
		if c.base != nil {
			base = c.base.Name
		}
		return fmt.Sprint(c.key.origin, base, c.count == 0, c.options(alone(c)))
	}
	type pathKey struct{ alike, shape, method string }
	methods := map[pathKey][]string{}
	at := func(c *cell) pathKey {
		k := pathKey{alike(c), c.key.shape, c.key.method}
		if g == joined || g == wide && c.key.base != "" {
			k.method = ""
		}
		return k
	}
	for _, c := range cells {
		methods[at(c)] = append(methods[at(c)], c.key.method)
	}
	var drafts []draft
	index := map[string]int{}
	for _, c := range cells {
		ms := methods[at(c)]
		if own := alone(c); len(own) > len(ms) {
			ms = own
		}
		key := alike(c) + strings.Join(ms, ",")
		i, ok := index[key]
		if !ok {
			i = len(drafts)
			index[key] = i
			drafts = append(drafts, draft{name: c.name(ms), origin: c.key.origin, methods: ms, options: c.options(alone(c))})
		}
		drafts[i].cells = append(drafts[i].cells, c)
	}
	return drafts
}

// name proposes a name for a route of c.
func (c *cell) name(methods []string) string {
	name := c.route
	if !isName(name) {
		name = strings.Trim(strings.ReplaceAll(c.key.origin.host, ":", "-"), "-") + "-" + strings.ToLower(strings.Join(methods, "-"))
	}
	return name
}

// isName reports whether s can name a route or a credential, as checkRef has it. What a log says may
// be anything.
func isName(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && (i == 0 || strings.IndexByte("-_.", s[i]) < 0) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// unique returns name, cut to what a name may have, and with a number behind it if it was taken.
func unique(taken map[string]int, name string) string {
	name = name[:min(len(name), 58)]
	for {
		taken[name]++
		if taken[name] == 1 {
			return name
		}
		next := name + "-" + strconv.Itoa(taken[name])
		if taken[next] == 0 {
			taken[next] = 1
			return next
		}
	}
}

func (d *draft) write(b *strings.Builder) {
	for _, line := range d.comment() {
		b.WriteString("  # " + line + "\n")
	}
	fmt.Fprintf(b, "  - name: %s\n    host: %s\n", d.name, quotedIf(hostText(d.origin)))
	if base := d.cells[0].base; base != nil && base.GRPC != nil {
		b.WriteString("    grpc: " + d.grpc(base.GRPC) + "\n")
	} else {
		fmt.Fprintf(b, "    methods: [%s]\n    paths:\n", strings.Join(d.methods, ", "))
		written := map[string]bool{}
		for _, c := range d.cells {
			if !written[c.key.shape] {
				written[c.key.shape] = true
				fmt.Fprintf(b, "      - %s\n", quotedIf(c.path))
			}
		}
	}
	for _, o := range d.options {
		if d.cells[0].base == nil || d.cells[0].base.GRPC == nil || !strings.HasPrefix(o, "content_type: ") {
			b.WriteString("    " + o + "\n")
		}
	}
}

// grpc narrows g to the methods that were seen.
func (d *draft) grpc(g *GRPC) string {
	var methods []string
	for _, c := range d.cells {
		m := c.path[strings.LastIndexByte(c.path, '/')+1:]
		if m == "*" {
			return "{service: " + g.Service + "}"
		}
		if !slices.Contains(methods, m) {
			methods = append(methods, m)
		}
	}
	return "{service: " + g.Service + ", methods: [" + strings.Join(methods, ", ") + "]}"
}

// comment says what was seen of the route.
func (d *draft) comment() []string {
	count, refused := 0, 0
	var first, last time.Time
	example := ""
	patterns := true
	denied := map[Reason]int{}
	known := false
	for _, c := range d.cells {
		count, refused = count+c.count, refused+c.refused
		if !c.first.IsZero() && (first.IsZero() || c.first.Before(first)) {
			first = c.first
		}
		if c.last.After(last) {
			last = c.last
		}
		if example == "" && c.example != "" {
			example = c.key.method + " " + c.example
		}
		patterns = patterns && c.example == ""
		known = known || c.base != nil
		for r, n := range c.denied {
			denied[r] += n
		}
	}
	line := "seen once, " + stamp(first)
	if count == 0 {
		return []string{"not seen; it decides before a route that was, on a part of its paths"}
	}
	if count > 1 {
		line = fmt.Sprintf("seen %d times, %s to %s", count, stamp(first), stamp(last))
	}
	if example != "" {
		line += "; for example " + clipped(example)
	}
	lines := []string{line}
	if patterns {
		what := "the log has the pattern of the route, not the paths that were asked for"
		if !known {
			what += ", nor its conditions"
		}
		lines = append(lines, what)
	}
	if len(denied) > 0 {
		var words []string
		for _, r := range slices.Sorted(maps.Keys(denied)) {
			words = append(words, fmt.Sprintf("%s %d", r, denied[r]))
		}
		verb := "let through in report mode, without a credential"
		if refused > 0 {
			verb = fmt.Sprintf("%d denied", refused)
		}
		lines = append(lines, verb+": "+strings.Join(words, ", "))
	}
	return lines
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func clipped(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// writeCredentials writes the credentials that drafts carry.
func (l *learner) writeCredentials(b *strings.Builder, drafts []draft) {
	used := map[string]bool{}
	for _, d := range drafts {
		if name := d.cells[0].credential(); name != "" {
			used[name] = true
		}
	}
	if len(used) == 0 {
		return
	}
	b.WriteString("\ncredentials:\n")
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if l.cfg.Base != nil {
			if i := slices.IndexFunc(l.cfg.Base.credentials, func(c Credential) bool { return c.Name == name }); i >= 0 {
				c := l.cfg.Base.credentials[i]
				fmt.Fprintf(b, "  %s:\n    from: %s\n    inject: %s\n", plainText(name), c.From.file(), c.Inject.file())
				continue
			}
		}
		b.WriteString("  # the log does not say how it is put on a request, and not all of where it comes from: put it right\n")
		fmt.Fprintf(b, "  %s:\n    from: %s\n    inject: {bearer: {}}\n", plainText(name), l.guess(name))
	}
}

// guess returns a source for a credential of which at most its kind and place are known.
func (l *learner) guess(name string) string {
	switch f := l.cfg.Sources[name]; {
	case f.Vault != nil && f.Vault.Path != "":
		guess := From{Vault: &VaultFrom{Path: f.Vault.Path, Field: "token", MaxAge: defaultMaxAge}}
		src := "version: 1\nrole: a\ncredentials:\n  a: {from: " + guess.file() + ", inject: {bearer: {}}}\nroutes:\n  - {name: a, host: a.example, access: read-only, paths: [/], credential: a}\n"
		if _, err := Parse("a", []byte(src)); err == nil {
			return guess.file()
		}
	case f.File != nil && f.File.Path != "":
		return f.file()
	}
	env := strings.Map(func(r rune) rune {
		if r < 0x80 && isAlphanumeric(byte(r)) {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	return From{Env: &EnvFrom{Name: "SIDEKEY_" + env}}.file()
}

// hostText returns o as the file has a host.
func hostText(o origin) string {
	host := Authority{o.host, o.port}.String()
	if o.port == defaultPort(o.scheme) {
		host = host[:strings.LastIndexByte(host, ':')]
	}
	if o.scheme != "https" {
		host = o.scheme + "://" + host
	}
	return host
}

// quoted returns s as a text in double quotes; the strings of JSON are texts of YAML.
func quoted(s string) string {
	if s == "" {
		return ""
	}
	return forceQuoted(s)
}

func forceQuoted(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}

// plainText returns a name, quoted if YAML would take it for something else than a text. It is empty
// for the empty text.
func plainText(s string) string {
	if s == "" {
		return ""
	}
	return quotedIf(s)
}

// quotedIf returns s as a text of YAML, in quotes unless they are plainly not needed.
func quotedIf(s string) string {
	plain := s != "" && (isLower(s[0]|0x20) || s[0] == '/')
	for i := range len(s) {
		plain = plain && (isAlphanumeric(s[i]) || strings.IndexByte("/_.-@+%", s[i]) >= 0)
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return forceQuoted(s)
}

func textList(list []string) string {
	if list == nil {
		return ""
	}
	var items []string
	for _, s := range list {
		items = append(items, quotedIf(s))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func textLists(m map[string][]string) string {
	if m == nil {
		return ""
	}
	var items []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		items = append(items, quotedIf(name)+": "+textList(m[name]))
	}
	return "{" + strings.Join(items, ", ") + "}"
}
