#!/usr/bin/env bash
# Installs the clients that TestClients drives, where that is possible: curl and
# git from the distribution. Where it is not, the tests of a missing client are
# skipped, and this says which.
set -euo pipefail

missing=()
for client in curl git; do
	command -v "$client" >/dev/null || missing+=("$client")
done
if [ ${#missing[@]} -eq 0 ]; then
	echo "clients: curl and git are installed"
	exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "clients: NOT INSTALLED: ${missing[*]} (that takes apt-get and root); their tests will be skipped"
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
echo "clients: installed ${missing[*]}"
