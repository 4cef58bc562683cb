#!/bin/sh
# Fails when a Go file of the repository is not formatted, and names it.
set -eu
cd "$(dirname "$0")/.."
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted, run gofmt -w on:" >&2
	echo "$unformatted" >&2
	exit 1
fi
