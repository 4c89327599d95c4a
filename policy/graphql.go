package policy

import (
	"slices"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"
)

const (
	// maxGraphQLTokens bounds a document, which an agent chooses.
	maxGraphQLTokens = 10_000

	// maxFragments bounds the fragments that are followed for the fields at the root.
	maxFragments = 1_000
)

// A GraphQL is what a route takes of GraphQL over HTTP: one operation in a POST of JSON.
type GraphQL struct {
	// Type is "query", "mutation" or "subscription".
	Type string

	// Operations are the fields that may be asked for at the root, such as "repository" or
	// "addComment". nil stands for any. An alias does not hide a field; the name that a client
	// gives its operation says nothing, and is not looked at.
	Operations []string
}

// String returns g in the words of the file.
func (g *GraphQL) String() string {
	if g.Operations == nil {
		return "graphql: {type: " + g.Type + "}"
	}
	return "graphql: {type: " + g.Type + ", operations: [" + strings.Join(g.Operations, ", ") + "]}"
}

func (g *GraphQL) holds(ev *evaluation) (bool, error) {
	if _, err := ev.readJSON(); err != nil {
		return false, err // which may be so for this route alone
	}
	r, err := ev.graphql.get(ev.readGraphQL)
	if err != nil {
		return false, err
	}
	if r.kind != g.Type {
		return false, nil
	}
	return g.Operations == nil || !slices.ContainsFunc(r.fields, func(f string) bool {
		return f != "__typename" && !slices.Contains(g.Operations, f)
	}), nil
}

// A graphQLRequest is the operation of a request.
type graphQLRequest struct {
	kind   string   // query, mutation or subscription
	fields []string // the fields at the root
}

// graphQLParameters are the keys of a request (GraphQL over HTTP, section 5.1).
var graphQLParameters = []string{"query", "operationName", "variables", "extensions"}

// readGraphQL refuses whatever may have a server run something else than the document in the body.
func (ev *evaluation) readGraphQL() (r graphQLRequest, err error) {
	body, err := ev.readJSON()
	if err != nil {
		return r, err
	}
	params, ok := body.(map[string]any)
	if !ok {
		return r, unacceptable("the body is not one GraphQL request")
	}
	for name := range params {
		if !slices.Contains(graphQLParameters, name) {
			return r, unacceptable("the GraphQL request has a key beside query, operationName, variables and extensions")
		}
	}
	if extensions, _ := params["extensions"].(map[string]any); extensions["persistedQuery"] != nil {
		return r, unacceptable("the GraphQL request names a persisted query")
	}
	query, err := ev.readQuery()
	if err != nil {
		return r, err
	}
	for name := range query {
		// Some servers take the document from the URL first, even of a POST.
		if slices.ContainsFunc(graphQLParameters, func(p string) bool { return strings.EqualFold(p, name) }) {
			return r, unacceptable("the URL has a parameter that belongs in the GraphQL request")
		}
	}
	source, ok := params["query"].(string)
	if !ok {
		return r, unacceptable("the GraphQL request has no document")
	}
	name, ok := params["operationName"].(string)
	if !ok && params["operationName"] != nil {
		return r, unacceptable("the GraphQL request has an operationName that is not a text")
	}
	return parseGraphQL(source, name)
}

// parseGraphQL reads a document of one operation, which is named name unless that is empty.
func parseGraphQL(source, name string) (r graphQLRequest, err error) {
	doc, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: source}, maxGraphQLTokens)
	if err != nil {
		return r, unacceptable("the document is not GraphQL, or is too long")
	}
	if len(doc.Operations) != 1 {
		return r, unacceptable("the document does not have exactly one operation")
	}
	operation := doc.Operations[0]
	if name != "" && name != operation.Name {
		return r, unacceptable("the document does not have the operation that operationName names")
	}
	r.kind = string(operation.Operation)
	fragments := map[string]*ast.FragmentDefinition{}
	for _, f := range doc.Fragments {
		if fragments[f.Name] != nil {
			return r, unacceptable("the document has two fragments of one name")
		}
		fragments[f.Name] = f
	}
	// A fragment that is followed twice adds nothing, and one that holds itself must end.
	followed := map[string]bool{}
	pending := []ast.SelectionSet{operation.SelectionSet}
	for len(pending) > 0 {
		set := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		for _, s := range set {
			switch s := s.(type) {
			case *ast.Field:
				r.fields = append(r.fields, s.Name)
			case *ast.InlineFragment:
				pending = append(pending, s.SelectionSet)
			case *ast.FragmentSpread:
				f := fragments[s.Name]
				if f == nil || len(followed) > maxFragments {
					return r, unacceptable("the document has a fragment that is not there, or too many")
				}
				if !followed[s.Name] {
					followed[s.Name] = true
					pending = append(pending, f.SelectionSet)
				}
			default:
				return r, unacceptable("the document is not GraphQL")
			}
		}
	}
	if len(r.fields) == 0 {
		return r, unacceptable("the document asks for nothing")
	}
	return r, nil
}
