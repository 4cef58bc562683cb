#!/bin/sh
# What `make test` does: all tests, on one throwaway Postgres that the packages share. The last lines are go test's own and so
# is the exit code. Arguments go to go test; without any it is ./...
set -eu
cd "$(dirname "$0")/.."
scripts/ensure-go.sh
scripts/ensure-postgres.sh
if grep -rqs --include='*_test.go' 'chromedp/chromedp"' .; then
	scripts/ensure-chromium.sh
fi
if [ $# -eq 0 ]; then
	set -- ./...
fi
go build -o bin/withpg ./internal/cmd/withpg
# -p 2: more packages at once only wait for each other on a small machine; the tests in a package run in parallel anyway.
exec bin/withpg -- go test -p 2 "$@"
