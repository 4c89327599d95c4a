#!/usr/bin/env bash
# Runs govulncheck. A finding fails. A database that cannot be fetched does not:
# it says so and goes on, because a build without a network must still pass.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto

out=$(mktemp)
trap 'rm -f "$out"' EXIT

status=0
go tool govulncheck ./... >"$out" 2>&1 || status=$?
cat "$out"
case $status in
0) ;;
3)
	echo "govulncheck: vulnerable code is called, see above" >&2
	exit 3
	;;
*)
	if grep -q 'fetching vulnerabilities' "$out"; then
		echo "govulncheck: NOT CHECKED, the vulnerability database cannot be reached from here; going on"
		exit 0
	fi
	echo "govulncheck: failed with status $status" >&2
	exit "$status"
	;;
esac
