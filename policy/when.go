package policy

import (
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
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

// A when is a condition in CEL.
type when struct {
	source  string
	program cel.Program     // nil after a mistake
	needs   map[string]bool // the variables that it names
	names   []string        // that it may look for
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
