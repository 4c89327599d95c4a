#!/usr/bin/env bash
# Runs the browser tests (test/browser): makes the pages from reports of many sizes, and opens them in
# headless Chromium. Installs Chromium from the distribution where that is possible, and playwright-core
# from npm at the version that package-lock.json names. With --images it also takes the pictures of
# docs/images anew.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto

chromium=${SIDEKEY_CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
	[ -n "$chromium" ] || chromium=$(command -v "$name" || true)
done
if [ -z "$chromium" ]; then
	if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
		echo "browser: NOT RUN: no Chromium, and installing it takes apt-get and root" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
	chromium=$(command -v chromium)
fi
command -v npm >/dev/null || { echo "browser: NOT RUN: no npm" >&2; exit 1; }

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
(cd test/browser && npm ci --silent --ignore-scripts --no-audit --no-fund)
SIDEKEY_PAGES="$pages" "${GO:-go}" test -count=1 -run '^TestPages$' ./audit/custody

images=
if [ "${1:-}" = --images ]; then
	command -v pngquant >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pngquant >/dev/null
	images=$PWD/docs/images
fi
SIDEKEY_PAGES="$pages" SIDEKEY_CHROMIUM="$chromium" SIDEKEY_IMAGES="$images" node --test --test-concurrency=1 --test-reporter=spec test/browser/*.test.mjs
