#!/usr/bin/env bash
# build.sh NAME builds the server of tools/NAME that tests need, once for each state of its source, and
# prints where the binary is. Cold, Vault (vaultd) is 5 minutes on two cores and 3 GB of memory, the
# OpenTelemetry Collector (otelcol) half of that; when the Go build cache has the packages, seconds; when
# the binary is there, nothing. Progress goes to standard error.
set -euo pipefail
name=$1
cd "$(dirname "$0")/$name"
export GOTOOLCHAIN=auto

go_version=$(go env GOVERSION)
hash=$({ echo "$go_version $(go env GOOS GOARCH | tr '\n' ' ')"; cat go.mod go.sum ./*.go; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sidekey
binary=$cache/$name-$hash
mkdir -p "$cache"

# Two at once would each compile all of it.
exec 9>"$cache/$name.lock"
if command -v flock >/dev/null && ! flock -n 9; then
	echo "$name: another build is under way, waiting for it" >&2
	flock 9
fi

if [ ! -x "$binary" ]; then
	echo "$name: building with $go_version; the first time takes minutes" >&2
	start=$SECONDS
	partial=$(mktemp "$binary.XXXXXX")
	trap 'rm -f "$partial"' EXIT
	# The flags are part of the build cache's keys: other flags would compile it all again.
	go build -trimpath -ldflags '-s -w' -o "$partial" . 9>&- >&2 &
	build=$!
	# A signal to this script must not leave the build behind.
	trap 'kill "$build" 2>/dev/null || true; rm -f "$partial"' EXIT
	while kill -0 "$build" 2>/dev/null; do
		sleep 1
		elapsed=$((SECONDS - start))
		if [ $((elapsed % 30)) -eq 0 ] && [ "$elapsed" -gt 0 ]; then
			echo "$name: still building, $elapsed s" >&2
		fi
	done
	wait "$build"
	chmod 755 "$partial"
	mv "$partial" "$binary"
	echo "$name: built in $((SECONDS - start)) s" >&2
fi
echo "$binary"
