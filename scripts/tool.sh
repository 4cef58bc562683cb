#!/bin/sh
# Prints the path of a development tool, after building it when the user's cache doesn't have this version:
#
#	scripts/tool.sh sqlc
#	scripts/tool.sh golangci-lint
#
# Versions are pinned in tools/go.mod and tools/lint/go.mod, apart from the library's go.mod, so that who embeds pgautomate
# inherits none of it.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
sqlc)
	module_dir=tools module=github.com/sqlc-dev/sqlc package=github.com/sqlc-dev/sqlc/cmd/sqlc
	with=
	;;
golangci-lint)
	module_dir=tools/lint module=github.com/golangci/golangci-lint/v2 package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	# It reads only code of Go versions up to its own.
	with=-$(go env GOVERSION | cut -d ' ' -f 1)
	;;
*)
	echo "usage: scripts/tool.sh sqlc|golangci-lint" >&2
	exit 2
	;;
esac
cd "$module_dir"
version=$(go list -m -f '{{.Version}}' "$module")
bin=${XDG_CACHE_HOME:-$HOME/.cache}/pgautomate/bin
tool=$bin/$1-$version$with
if [ ! -x "$tool" ]; then
	echo "building $1 $version once, into $tool (a minute or more)" >&2
	mkdir -p "$bin"
	building=$tool.building.$$
	trap 'rm -f "$building"' EXIT
	go build -o "$building" "$package"
	mv "$building" "$tool"
fi
echo "$tool"
