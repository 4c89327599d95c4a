package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// wrongFunc records a mistake at the value in question. hint may be empty.
type wrongFunc func(msg, hint string)

// A form is a type of value and its two spellings: as YAML, and as the text of a variable or
// a flag. Both functions record whatever is wrong; then their result is of no use. The file's
// is nil if there is not even a value of the right kind.
type form struct {
	file func(v strictyaml.Value) any
	text func(s string, wrong wrongFunc) any
}

// text is a string that passes check.
func text(check func(s string, wrong wrongFunc)) form {
	return form{
		file: func(v strictyaml.Value) any {
			s, ok := v.Text()
			if !ok {
				return nil
			}
			check(s, v.Wrong)
			return s
		},
		text: func(s string, wrong wrongFunc) any {
			check(s, wrong)
			return s
		},
	}
}

// words is a []string of known words, none of them twice; as text, separated by commas.
func words(known ...string) form {
	check := choice(known...)
	add := func(ws []string, s string, wrong wrongFunc) []string {
		check(s, wrong)
		if slices.Contains(ws, s) {
			wrong(strictyaml.Quote(s)+" is there twice", "keep one of the two")
		}
		return append(ws, s)
	}
	return form{
		file: func(v strictyaml.Value) any {
			ws := []string{}
			for _, item := range v.ListOrEmpty() {
				if s, ok := item.Text(); ok {
					ws = add(ws, s, item.Wrong)
				}
			}
			return ws
		},
		text: func(s string, wrong wrongFunc) any {
			var ws []string
			for item := range strings.SplitSeq(s, ",") {
				ws = add(ws, strings.TrimSpace(item), wrong)
			}
			return ws
		},
	}
}

// boolean is a bool.
func boolean() form {
	return form{
		file: func(v strictyaml.Value) any {
			if b, ok := v.Bool(); ok {
				return b
			}
			return nil
		},
		text: func(s string, wrong wrongFunc) any {
			if s != "true" && s != "false" {
				wrong(strictyaml.Quote(s)+" is neither true nor false", "write true or false")
			}
			return s == "true"
		},
	}
}

// span is a time.Duration greater than zero.
func span() form {
	return form{
		file: func(v strictyaml.Value) any {
			if d, ok := v.Duration(); ok {
				return d
			}
			return nil
		},
		text: func(s string, wrong wrongFunc) any {
			const hint = "write a number and a unit, such as 30s, 5m or 1h"
			// As strictyaml has it: decimal numbers with the units ms, s, m and h.
			d, err := time.ParseDuration(s)
			switch {
			case err != nil || strings.Trim(s, "0123456789.msh") != "" || s[0] == '.':
				wrong(strictyaml.Quote(s)+" is not a time span", hint)
			case d <= 0:
				wrong("the time span must be greater than zero", hint)
			}
			return d
		},
	}
}

// prefixes is a []netip.Prefix; as text, separated by commas.
func prefixes() form {
	return form{
		file: func(v strictyaml.Value) any {
			var ps []netip.Prefix
			for _, item := range v.ListOrEmpty() {
				if s, ok := item.Text(); ok {
					ps = append(ps, parsePrefix(s, item.Wrong))
				}
			}
			return ps
		},
		text: func(s string, wrong wrongFunc) any {
			var ps []netip.Prefix
			for item := range strings.SplitSeq(s, ",") {
				ps = append(ps, parsePrefix(strings.TrimSpace(item), wrong))
			}
			return ps
		},
	}
}

// addresses is a map[string]netip.Addr from hosts to addresses; as text, HOST=ADDRESS
// separated by commas.
func addresses() form {
	return form{
		file: func(v strictyaml.Value) any {
			hosts := map[string]netip.Addr{}
			for _, e := range v.EntriesOrEmpty() {
				checkHost(e.Name, e.Key.Wrong)
				if s, ok := e.Value.Text(); ok {
					hosts[e.Name] = parseAddr(s, e.Value.Wrong)
				}
			}
			return hosts
		},
		text: func(s string, wrong wrongFunc) any {
			hosts := map[string]netip.Addr{}
			for item := range strings.SplitSeq(s, ",") {
				host, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
				if !ok {
					wrong(strictyaml.Quote(item)+" has no =", "write HOST=ADDRESS, separated by commas")
					continue
				}
				if _, ok := hosts[host]; ok {
					wrong(fmt.Sprintf("the host %s is there twice", strictyaml.Quote(host)), "keep one of the two")
				}
				checkHost(host, wrong)
				hosts[host] = parseAddr(addr, wrong)
			}
			return hosts
		},
	}
}
