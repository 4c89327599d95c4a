package policy

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// newCELEnv returns what conditions are compiled in: standard CEL and [celVariables].
func newCELEnv() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ParserExpressionSizeLimit(maxWhen),
		cel.ParserRecursionLimit(50),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(),
			cel.ValidateHomogeneousAggregateLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting),
		),
	}
	for _, v := range celVariables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	return cel.NewEnv(options...)
}

// An uncompiled condition waits until those of all routes are known.
type uncompiled struct {
	when  *when
	value strictyaml.Value
	route *Route
}

// decodeWhen decodes a condition in CEL, but for what it says. After a mistake it still counts as
// one, so that the route is not taken for one without conditions.
func (d *decoder) decodeWhen(v strictyaml.Value, r *Route) {
	source, ok := v.Text()
	if !ok {
		return
	}
	w := &when{source: source}
	r.When = source
	r.conditions = append(r.conditions, w)
	switch {
	case strings.TrimSpace(source) == "":
		v.Wrong("the condition is empty", "write one, such as when: size(request.json.body) < 65536, or remove when")
	case len(source) > maxWhen:
		v.Wrong(fmt.Sprintf("the condition is longer than %d bytes", maxWhen), "make two routes of it")
	default:
		d.whens = append(d.whens, uncompiled{w, v, r})
	}
}

// compileWhens compiles the conditions of all routes: each text once, whatever number of routes has
// it, and several at a time, because that is most of what it takes to load a large policy.
func (d *decoder) compileWhens() {
	if len(d.whens) == 0 {
		return
	}
	env, err := newCELEnv()
	if err != nil {
		d.whens[0].value.Wrong("conditions cannot be compiled: "+err.Error(), "")
		return
	}
	var texts []string
	index := map[string]int{}
	for _, u := range d.whens {
		if _, known := index[u.when.source]; !known {
			index[u.when.source] = len(texts)
			texts = append(texts, u.when.source)
		}
	}
	results := compileAll(env, texts)
	for _, u := range d.whens {
		c := results[index[u.when.source]]
		u.when.program, u.when.needs, u.when.names = c.program, c.needs, c.names
		switch {
		case c.issues != nil:
			d.celMistakes(u.value, u.when.source, c.issues)
		case c.msg != "":
			u.value.Wrong(c.msg, c.hint)
		default:
			d.checkParams(u.value, c.params, u.route)
		}
	}
}

// A compilation is what becomes of the text of a condition.
type compilation struct {
	program cel.Program     // nil after a mistake
	needs   map[string]bool // the variables that it names
	names   []string        // that it may look for
	params  []param         // the named segments that it names

	issues    *cel.Issues // mistakes with places in the text; nil if there are none
	msg, hint string      // a mistake of the text as a whole
}

// compileAll compiles each of texts.
func compileAll(env *cel.Env, texts []string) []compilation {
	const few = 16 // that are not worth another goroutine
	results := make([]compilation, len(texts))
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(texts)); i = next.Add(1) - 1 {
			results[i] = compileWhen(env, texts[i])
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0)-1, len(texts)/few) {
		workers.Go(work)
	}
	work()
	workers.Wait()
	return results
}

func compileWhen(env *cel.Env, source string) (c compilation) {
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		c.issues = issues
		return c
	}
	if kind := checked.OutputType(); !kind.IsExactType(cel.BoolType) {
		c.msg = fmt.Sprintf("the condition is of type %s, not true or false", cel.FormatCELType(kind))
		if kind.IsExactType(cel.DynType) {
			c.msg, c.hint = "what the condition takes from the body may be other than true or false", "compare it, as in request.json.draft == true"
		}
		return c
	}
	estimate, err := env.EstimateCost(checked, typicalSizes{})
	if err == nil && estimate.Max > maxCost {
		c.msg, c.hint = "the condition may cost too much time on a large request", "write it with fewer loops, or shorter ones"
		return c
	}
	c.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		c.msg = "the condition cannot be evaluated: " + tidyCEL(err.Error())
		return c
	}
	c.params, c.needs, c.names = paramsOf(checked), map[string]bool{}, namesIn(checked)
	for _, ref := range checked.NativeRep().ReferenceMap() {
		c.needs[ref.Name] = true
	}
	return c
}

// typicalSizes says how large what conditions read is taken to be when their cost is estimated.
// What is larger counts when it is evaluated.
type typicalSizes struct{}

// EstimateSize returns the same for all that CEL knows no size of.
func (typicalSizes) EstimateSize(element cost.AstNode) *cost.SizeEstimate {
	switch element.Type().Kind() {
	case types.StringKind, types.BytesKind:
		return &cost.SizeEstimate{Max: 1 << 10}
	}
	return &cost.SizeEstimate{Max: 100}
}

// EstimateCallCost returns nil, for CEL's own estimate.
func (typicalSizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// A param is a named segment where a condition names it; offset counts characters.
type param struct {
	name   string
	offset int
}

// paramsOf returns the named segments that a condition names.
func paramsOf(checked *cel.Ast) (params []param) {
	native, source := checked.NativeRep(), checked.Source().Content()
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if name, ok := paramOf(native, e); ok {
			start := native.SourceInfo().GetStartLocation(e.ID())
			params = append(params, param{name, runeOffset(source, start.Line(), start.Column())})
		}
	}))
	return params
}

// checkParams finds the named segments that a condition names and a path of r does not have.
func (d *decoder) checkParams(v strictyaml.Value, params []param, r *Route) {
	for _, p := range params {
		lacks := func(path string) bool { return !strings.Contains(path+"/", "/{"+p.name+"}/") }
		if i := slices.IndexFunc(r.Paths, lacks); i >= 0 {
			d.wrongInside(v, p.offset, fmt.Sprintf("request.params.%s: the path %s has no segment {%s}", p.name, r.Paths[i], p.name),
				"name the segment in every path of the route")
		}
	}
}

// paramOf returns the name in request.params.NAME or request.params["NAME"].
func paramOf(native *ast.AST, e ast.Expr) (name string, ok bool) {
	isParams := func(operand ast.Expr) bool {
		ref := native.ReferenceMap()[operand.ID()]
		return ref != nil && ref.Name == "request.params"
	}
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		return s.FieldName(), !s.IsTestOnly() && isParams(s.Operand())
	case ast.CallKind:
		if args := e.AsCall().Args(); e.AsCall().FunctionName() == "_[_]" && len(args) == 2 && isParams(args[0]) && args[1].Kind() == ast.LiteralKind {
			key, ok := args[1].AsLiteral().(types.String)
			return string(key), ok
		}
	}
	return "", false
}
