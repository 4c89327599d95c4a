#!/usr/bin/env bash
# Runs each fuzz target of the module for a time: tools/fuzz.sh [30s]
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto
go=${GO:-go}
fuzztime=${1:-30s}

list=$(mktemp)
trap 'rm -f "$list"' EXIT

# `go test -list` prints the names of a package's targets, then "ok <package> <time>".
"$go" test -list '^Fuzz' ./... >"$list" || {
	cat "$list" >&2
	exit 1
}
targets=$(awk '/^Fuzz/ {names[n++] = $1} /^ok/ {for (i = 0; i < n; i++) print $2, names[i]; n = 0}' "$list")
if [ -z "$targets" ]; then
	echo "fuzz: the module has no fuzz target"
	exit 0
fi
while read -r pkg name; do
	echo "fuzz: $pkg $name for $fuzztime"
	# Making each new input smaller, for up to a minute by default, would take most of the time.
	"$go" test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime 1x "$pkg" </dev/null
done <<<"$targets"
