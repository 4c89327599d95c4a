package policy

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// lookalikes are the names that conditions look for in queries and bodies. Some servers take other
// names for the same: they fold case, and brackets, dots and dashes in a query. What only looks like
// a name that a condition knows is refused, for the condition would not see it.
type lookalikes struct {
	query, json spellings
}

func (l *lookalikes) add(name string) {
	if l.query == nil {
		l.query, l.json = spellings{}, spellings{}
	}
	l.query.add(foldQuery(name), name)
	l.json.add(strings.ToLower(name), name)
}

// spellings are the names that conditions know, by what they are folded to.
type spellings map[string]map[string]bool

func (s spellings) add(folded, name string) {
	if s[folded] == nil {
		s[folded] = map[string]bool{}
	}
	s[folded][name] = true
}

// inQuery reports whether name could be taken for one that a condition looks for, and is not it.
func (l *lookalikes) inQuery(name string) bool {
	return l != nil && differs(l.query[foldQuery(name)], name)
}

// inJSON is inQuery for the name of a member of an object.
func (l *lookalikes) inJSON(name string) bool {
	return l != nil && differs(l.json[strings.ToLower(name)], name)
}

func differs(known map[string]bool, name string) bool { return known != nil && !known[name] }

// foldQuery maps a parameter's name to what PHP, Rails, qs or ASP.NET make of it: name[] and name[0]
// are name, whatever its case, and PHP has no dots and spaces in names.
func foldQuery(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	name, _, _ = strings.Cut(strings.TrimLeft(name, " "), "[")
	return strings.ToLower(strings.NewReplacer(".", "_", " ", "_", "-", "_").Replace(name))
}

// lookalikesOf returns the names that the conditions of routes look for.
func lookalikesOf(routes []*Route) lookalikes {
	var l lookalikes
	for _, r := range routes {
		for _, c := range r.conditions {
			switch c := c.(type) {
			case *queryMatch:
				l.add(c.name)
			case *when:
				for _, name := range c.names {
					l.add(name)
				}
			case *GraphQL:
				for _, name := range []string{"query", "operationName", "variables", "extensions"} {
					l.add(name)
				}
			}
		}
	}
	return l
}

// namesIn returns the names that a condition may look for: the fields that it selects, and its texts.
func namesIn(checked *cel.Ast) (names []string) {
	ast.PostOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			names = append(names, e.AsSelect().FieldName())
		case ast.LiteralKind:
			if s, ok := e.AsLiteral().(types.String); ok && s != "" {
				names = append(names, string(s))
			}
		}
	}))
	return names
}
