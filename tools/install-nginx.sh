#!/usr/bin/env bash
# Makes sure that nginx is there, for the tests of its access log, and prints its path. Where it is
# missing, Debian's package is installed; the server that the package starts, on port 80 if that is
# free, is not used: each test starts its own.
set -euo pipefail

binary() {
	local file
	for file in "$(command -v nginx || true)" /usr/sbin/nginx /usr/local/sbin/nginx /usr/local/nginx/sbin/nginx; do
		if [ -n "$file" ] && [ -x "$file" ] && "$file" -V 2>&1 | grep -q -- --with-http_ssl_module; then
			echo "$file"
			return
		fi
	done
}

found=$(binary)
if [ -n "$found" ]; then
	echo "$found"
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	echo "nginx: NOT INSTALLED (with its SSL module), and there is no apt-get; install nginx" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "nginx: NOT INSTALLED; that takes root: apt-get install nginx" >&2
		exit 1
	fi
	as_root=(sudo)
fi
echo "nginx: installing Debian's package" >&2
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx >&2

found=$(binary)
if [ -z "$found" ]; then
	echo "nginx: installed, but no nginx with the SSL module is where it should be" >&2
	exit 1
fi
echo "$found"
