package policy

import (
	"fmt"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

const (
	// maxWhen bounds the text of a condition, in bytes.
	maxWhen = 4 << 10

	// maxNesting bounds loops in loops.
	maxNesting = 2
)

// celVariables are all that a condition can name.
var celVariables = []struct {
	name string
	kind *cel.Type
}{
	{"now", cel.TimestampType},
	{"request.headers", cel.MapType(cel.StringType, cel.StringType)},
	{"request.host", cel.StringType},
	{"request.json", cel.DynType},
	{"request.method", cel.StringType},
	{"request.params", cel.MapType(cel.StringType, cel.StringType)},
	{"request.path", cel.StringType},
	{"request.query", cel.MapType(cel.StringType, cel.ListType(cel.StringType))},
	{"session.id", cel.StringType},
	{"session.requested_by", cel.StringType},
	{"session.role", cel.StringType},
}

func variableNames() []string {
	var names []string
	for _, v := range celVariables {
		names = append(names, v.name)
	}
	return names
}

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

// A when is a condition in CEL.
type when struct {
	source  string
	program cel.Program     // nil after a mistake
	needs   map[string]bool // the variables that it names
}

func (w *when) String() string { return "when: " + strings.Join(strings.Fields(w.source), " ") }

func (w *when) holds(ev *evaluation) (bool, error) {
	// What the condition names is read whether or not its value hangs on it: in CEL, true || error
	// is true, and the request must not choose which of the two an unreadable body makes.
	if w.needs["request.json"] {
		if _, err := ev.readJSON(); err != nil {
			return false, err
		}
	}
	if w.needs["request.query"] {
		if _, err := ev.readQuery(); err != nil {
			return false, err
		}
	}
	if w.needs["now"] {
		if _, err := ev.now(); err != nil {
			return false, err
		}
	}
	if w.program == nil || ev.cost > maxCost {
		return false, failed("the conditions cost too much on this request")
	}
	value, details, err := w.program.Eval(variables{ev})
	if details != nil && details.ActualCost() != nil {
		ev.cost += *details.ActualCost()
	}
	if err != nil {
		return false, failed("when: %s", w.runTimeError(err))
	}
	holds, ok := value.(types.Bool)
	if !ok {
		return false, failed("when: the value is not true or false")
	}
	return bool(holds), nil
}

// runTimeError returns the kind of an error. The rest of its text may hold values of the request.
func (w *when) runTimeError(err error) string {
	for _, known := range []string{
		"no such key", "no such overload", "no such attribute", "no such field", "index out of bounds", "divide by zero", "modulus by zero",
		"integer overflow", "type conversion error", "cost limit exceeded",
	} {
		if strings.Contains(err.Error(), known) {
			if key := missingKey.FindString(err.Error()); known == "no such key" && key != "" && strings.Contains(w.source, key[len("no such key: "):]) {
				return key
			}
			return known
		}
	}
	return "the condition cannot be evaluated"
}

var missingKey = regexp.MustCompile(`no such key: [A-Za-z_][A-Za-z0-9_]*`)

// variables is an evaluation as CEL sees it.
type variables struct{ ev *evaluation }

// Parent returns nil: there is no outer scope.
func (v variables) Parent() cel.Activation { return nil }

// ResolveName returns the value of one of [celVariables].
func (v variables) ResolveName(name string) (any, bool) {
	r := &v.ev.request
	switch name {
	case "now":
		return r.Now, true
	case "request.headers":
		return v.ev.readHeaders(), true
	case "request.host":
		return r.Target.Host, true
	case "request.json":
		return v.ev.json.value, v.ev.json.done && v.ev.json.err == nil
	case "request.method":
		return r.Method, true
	case "request.params":
		return v.ev.params(), true
	case "request.path":
		return r.Target.Path, true
	case "request.query":
		return v.ev.query.value, v.ev.query.done && v.ev.query.err == nil
	case "session.id":
		return r.Session.ID, true
	case "session.requested_by":
		return r.Session.RequestedBy, true
	case "session.role":
		return r.Session.Role, true
	}
	return nil, false
}

// decodeWhen decodes a condition in CEL. After a mistake it still counts as one, so that the route
// is not taken for one without conditions. It returns the expression, nil after a mistake.
func (d *decoder) decodeWhen(v strictyaml.Value, r *Route) *cel.Ast {
	source, ok := v.Text()
	if !ok {
		return nil
	}
	w := &when{source: source, needs: map[string]bool{}}
	r.When = source
	r.conditions = append(r.conditions, w)
	switch {
	case strings.TrimSpace(source) == "":
		v.Wrong("the condition is empty", "write one, such as when: size(request.json.body) < 65536, or remove when")
		return nil
	case len(source) > maxWhen:
		v.Wrong(fmt.Sprintf("the condition is longer than %d bytes", maxWhen), "make two routes of it")
		return nil
	}
	if d.cel == nil {
		env, err := newCELEnv()
		if err != nil {
			v.Wrong("conditions cannot be compiled: "+err.Error(), "")
			return nil
		}
		d.cel = env
	}
	checked, issues := d.cel.Compile(source)
	if issues.Err() != nil {
		d.celMistakes(v, source, issues)
		return nil
	}
	for _, ref := range checked.NativeRep().ReferenceMap() {
		w.needs[ref.Name] = true
	}
	if kind := checked.OutputType(); !kind.IsExactType(cel.BoolType) {
		msg, hint := fmt.Sprintf("the condition is of type %s, not true or false", cel.FormatCELType(kind)), ""
		if kind.IsExactType(cel.DynType) {
			msg, hint = "what the condition takes from the body may be other than true or false", "compare it, as in request.json.draft == true"
		}
		v.Wrong(msg, hint)
		return nil
	}
	w.program = d.planWhen(v, checked)
	return checked
}

// planWhen makes a program of a checked expression, if it is cheap enough.
func (d *decoder) planWhen(v strictyaml.Value, checked *cel.Ast) cel.Program {
	estimate, err := d.cel.EstimateCost(checked, typicalSizes{})
	if err == nil && estimate.Max > maxCost {
		v.Wrong("the condition may cost too much time on a large request", "write it with fewer loops, or shorter ones")
		return nil
	}
	program, err := d.cel.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		v.Wrong("the condition cannot be evaluated: "+tidyCEL(err.Error()), "")
		return nil
	}
	return program
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

// checkParams finds the named segments that a condition names and a path of r does not have. It
// does nothing if checked is nil.
func (d *decoder) checkParams(v strictyaml.Value, checked *cel.Ast, r *Route) {
	if checked == nil {
		return
	}
	native, source := checked.NativeRep(), checked.Source().Content()
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		name, ok := paramOf(native, e)
		if !ok {
			return
		}
		for _, path := range r.Paths {
			if strings.Contains(path+"/", "/{"+name+"}/") {
				continue
			}
			start := native.SourceInfo().GetStartLocation(e.ID())
			d.wrongInside(v, runeOffset(source, start.Line(), start.Column()),
				fmt.Sprintf("request.params.%s: the path %s has no segment {%s}", name, path, name), "name the segment in every path of the route")
			return
		}
	}))
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
