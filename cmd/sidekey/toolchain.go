package main

import (
	"fmt"
	goversion "go/version"
	"runtime"
	"strings"
)

// oldestGo has the fixes for what an agent can do to an older net/http: crash an HTTP/2 server
// (CVE-2026-97032), or get its bytes after a CONNECT served as a request (CVE-2026-94439).
const oldestGo = "go1.27.2"

func checkToolchain() error { return checkGo(runtime.Version()) }

func checkGo(v string) error {
	v, _, _ = strings.Cut(v, " ") // experiments follow
	if !goversion.IsValid(v) || goversion.Compare(v, oldestGo) < 0 {
		return fmt.Errorf("this binary was built with %s; an agent can break it. Build it with %s or newer", v, oldestGo)
	}
	return nil
}
