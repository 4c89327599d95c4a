#!/usr/bin/env bash
# Makes sure that PostgreSQL's server is there, for the tests of Vault's database engine, and prints
# the directory of initdb and postgres. Where it is missing, Debian's package is installed; the
# cluster that the package starts is not used, each test starts its own.
set -euo pipefail

bindir() {
	local dir
	for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5,5Vr) ''; do
		if [ -n "$dir" ] && [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/psql" ]; then
			echo "$dir"
			return
		fi
	done
	if command -v initdb >/dev/null && command -v postgres >/dev/null && command -v psql >/dev/null; then
		dirname "$(readlink -f "$(command -v postgres)")"
	fi
}

found=$(bindir)
if [ -n "$found" ]; then
	echo "$found"
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	echo "postgres: NOT INSTALLED, and there is no apt-get; install PostgreSQL's server and client" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "postgres: NOT INSTALLED; that takes root: apt-get install postgresql" >&2
		exit 1
	fi
	as_root=(sudo)
fi
echo "postgres: installing Debian's package" >&2
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2

found=$(bindir)
if [ -z "$found" ]; then
	echo "postgres: installed, but initdb, postgres and psql are not where they should be" >&2
	exit 1
fi
echo "$found"
