package main

import "github.com/rogpeppe/go-internal/testscript"

// setupScript prepares the environment of one story.
func setupScript(*testscript.Env) error { return nil }

// scriptCommands are the commands that stories use beside testscript's own.
func scriptCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return nil
}
