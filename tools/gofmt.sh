#!/usr/bin/env bash
# Fails, with the names, if a Go file is not formatted. The gofmt is the one of
# the toolchain in go.mod: another version may format otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto

files=$("$(go env GOROOT)/bin/gofmt" -l .)
if [ -n "$files" ]; then
	printf 'not formatted by gofmt:\n%s\n' "$files" >&2
	exit 1
fi
echo "gofmt: every file is formatted"
