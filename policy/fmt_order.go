package policy

import (
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// An order is how a mapping is arranged: its keys, those that are not here behind them as they were,
// and how the values of some are. The order of a list is that of its items.
type order struct {
	keys  []string
	below map[string]*order
	any   *order // of every value, if the file chooses the keys
}

var (
	vaultOrder = &order{
		keys:  []string{"path", "method", "data", "field", "user_field", "max_age", "jwt"},
		below: map[string]*order{"jwt": {keys: []string{"algorithm", "key_id", "claims", "ttl"}}},
	}
	credentialOrder = &order{
		keys: []string{"from", "inject", "prefetch"},
		below: map[string]*order{
			"from": {below: map[string]*order{
				"vault": vaultOrder,
				"file":  {keys: []string{"path", "max_age"}},
				"exec":  {keys: []string{"command", "max_age", "timeout"}},
			}},
			"inject": {below: map[string]*order{"header": {keys: []string{"name", "prefix"}}}},
		},
	}
	budgetOrder = &order{keys: []string{"requests", "bytes"}}
	routeOrder  = &order{
		keys: routeKeys,
		below: map[string]*order{
			"grpc":    {keys: []string{"service", "methods"}},
			"graphql": {keys: []string{"type", "operations"}},
			"limits":  {keys: []string{"rate", "body", "response", "concurrency", "timeout", "budget"}, below: map[string]*order{"budget": budgetOrder}},
		},
	}
	testOrder = &order{
		keys:  []string{"request", "websocket", "headers", "body", "session", "now", "expect", "route", "reason"},
		below: map[string]*order{"session": {keys: []string{"id", "requested_by"}}},
	}
	topOrder = &order{
		keys: []string{"version", "policy", "role", "description", "mode", "budget", "prompt", "include", "credentials", "routes", "tests"},
		below: map[string]*order{
			"credentials": {any: credentialOrder}, "routes": routeOrder, "tests": testOrder, "budget": budgetOrder,
		},
	}
)

// arrange puts n, which is indented by depth levels, and all below it in order, and on several lines
// what is too long for one or has comments in it.
func arrange(n *yaml.Node, o *order, depth int) {
	if n.Style&yaml.FlowStyle != 0 && (flowWidth(n)+depth*fmtIndent > maxFlow || commented(n)) {
		n.Style &^= yaml.FlowStyle
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for _, item := range n.Content {
			arrange(item, o, depth+1)
			// Behind the - a comment would stand on the line where the item begins.
			if item.Kind == yaml.MappingNode && len(item.Content) > 0 && item.Content[0].HeadComment != "" {
				item.HeadComment = strings.TrimPrefix(item.HeadComment+"\n"+item.Content[0].HeadComment, "\n")
				item.Content[0].HeadComment = ""
			}
		}
	case yaml.MappingNode:
		if o != nil {
			sortKeys(n, o.keys)
		}
		for i := 0; i < len(n.Content); i += 2 {
			arrange(n.Content[i+1], o.of(n.Content[i].Value), depth+1)
		}
	}
}

// of returns the order of the value of a key, nil if there is none.
func (o *order) of(key string) *order {
	switch {
	case o == nil:
		return nil
	case o.any != nil:
		return o.any
	}
	return o.below[key]
}

// sortKeys sorts a mapping by keys; those that are not among them stay behind in their own order.
func sortKeys(n *yaml.Node, keys []string) {
	type entry struct{ key, value *yaml.Node }
	var entries []entry
	for i := 0; i < len(n.Content); i += 2 {
		entries = append(entries, entry{n.Content[i], n.Content[i+1]})
	}
	rank := func(e entry) int {
		if i := slices.Index(keys, e.key.Value); i >= 0 {
			return i
		}
		return len(keys)
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return rank(a) - rank(b) })
	for i, e := range entries {
		n.Content[2*i], n.Content[2*i+1] = e.key, e.value
	}
}

// flowWidth is about how wide n is on one line.
func flowWidth(n *yaml.Node) int {
	width := utf8.RuneCountInString(n.Value) + 2
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		width += 2
	}
	for _, c := range n.Content {
		width += flowWidth(c)
	}
	return width
}

// commented reports whether there is a comment below n, or a text of several lines.
func commented(n *yaml.Node) bool {
	return slices.ContainsFunc(n.Content, func(c *yaml.Node) bool {
		return c.HeadComment+c.LineComment+c.FootComment != "" || strings.Contains(c.Value, "\n") || commented(c)
	})
}
