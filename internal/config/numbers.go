package config

import (
	"strconv"
	"strings"

	"github.com/sidekey/sidekey/internal/strictyaml"
)

// size is an int64 of bytes, at least least.
func size(least int64) form {
	parse := func(s string, wrong wrongFunc) any {
		units := map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
		for unit, factor := range units {
			digits, ok := strings.CutSuffix(s, unit)
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(digits, 10, 20)
			if err != nil || int64(n)*factor < least {
				break
			}
			return int64(n) * factor
		}
		wrong(strictyaml.Quote(s)+" is not a size that is possible here", "write a number and a unit, such as 64MiB; the least is "+strconv.FormatInt(least>>10, 10)+"KiB")
		return int64(0)
	}
	return form{
		file: func(v strictyaml.Value) any {
			s, ok := v.Text()
			if !ok {
				return nil
			}
			return parse(s, v.Wrong)
		},
		text: parse,
	}
}

// count is an int that is not negative.
func count() form {
	check := func(n int, wrong wrongFunc) any {
		if n < 0 {
			wrong(strconv.Itoa(n)+" is less than zero", "write 0 for all, or how many")
		}
		return n
	}
	return form{
		file: func(v strictyaml.Value) any {
			n, ok := v.Int()
			if !ok {
				return nil
			}
			return check(n, v.Wrong)
		},
		text: func(s string, wrong wrongFunc) any {
			n, err := strconv.Atoi(s)
			if err != nil {
				wrong(strictyaml.Quote(s)+" is not a number", "write 0 for all, or how many")
				return 0
			}
			return check(n, wrong)
		},
	}
}
