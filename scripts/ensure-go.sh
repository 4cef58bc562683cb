#!/bin/sh
# Says in one line what to do when Go is missing or older than go.mod asks for. Does nothing else.
set -eu
cd "$(dirname "$0")/.."
wanted=$(sed -n 's/^go //p' go.mod)
if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing: install Go $wanted or newer from https://go.dev/dl/ and put it into PATH" >&2
	exit 1
fi
# Inside the module `go` switches to the toolchain that go.mod asks for, by a download when it is allowed to.
if ! have=$(go env GOVERSION 2>/dev/null); then
	echo "Go is too old: install Go $wanted or newer from https://go.dev/dl/" >&2
	exit 1
fi
have=${have#go}
oldest=$(printf '%s\n%s\n' "$wanted" "${have%% *}" | sort -V | head -n 1)
case $oldest in
"$wanted" | "${wanted%.0}") ;;
*)
	echo "Go $have is too old: install Go $wanted or newer from https://go.dev/dl/" >&2
	exit 1
	;;
esac
