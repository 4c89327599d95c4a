package main

import "testing"

func TestCheckGo(t *testing.T) {
	for v, ok := range map[string]bool{
		"go1.27.2": true, "go1.27.4": true, "go1.28": true, "go1.27.4 X:jsonv2": true,
		"go1.27.1": false, "go1.26.11": false, "go1.27rc1": false, "": false, "devel": false,
	} {
		if err := checkGo(v); (err == nil) != ok {
			t.Errorf("checkGo(%q) = %v", v, err)
		}
	}
	if err := checkToolchain(); err != nil {
		t.Error(err)
	}
}
