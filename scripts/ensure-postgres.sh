#!/bin/sh
# Makes sure that the machine has Postgres server binaries (14 to 18), for the private server of the demo and the tests.
# It looks where package db/private looks. On Debian and Ubuntu it installs the package when nothing is there; no cluster is
# made or started by that. Does nothing when binaries are there.
set -eu

usable() { # folder
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
	major=$("$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
	[ -n "$major" ] && [ "$major" -ge 14 ] && [ "$major" -le 18 ]
}

found() {
	if [ -n "${PGAUTOMATE_PG_BIN:-}" ]; then
		usable "$PGAUTOMATE_PG_BIN" && return 0
	fi
	if path=$(command -v postgres 2>/dev/null); then
		usable "$(dirname "$(readlink -f "$path")")" && return 0
	fi
	if command -v pg_config >/dev/null 2>&1; then
		usable "$(pg_config --bindir)" && return 0
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
		usable "$dir" && return 0
	done
	return 1
}

if found; then
	exit 0
fi

by_hand="install Postgres 14 to 18 (Debian: package postgresql; Fedora: postgresql-server; Homebrew: postgresql@17); without it pgautomate tries to download one"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "ensure-postgres: $by_hand" >&2
	exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "ensure-postgres: neither root nor sudo: $by_hand" >&2
		exit 0
	fi
	as_root=sudo
fi

echo "ensure-postgres: no Postgres server on this machine, installing Debian's package postgresql (no cluster is made)" >&2
# The package would make and start a cluster for the system; nobody asked for one.
conf=/etc/postgresql-common/createcluster.conf
if [ ! -e "$conf" ]; then
	$as_root mkdir -p "$(dirname "$conf")"
	echo "create_main_cluster = false" | $as_root tee "$conf" >/dev/null
fi
if ! { $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
	-o Dpkg::Options::=--force-confold postgresql; } >&2; then
	echo "ensure-postgres: the installation failed: $by_hand" >&2
	exit 0
fi
if ! found; then
	echo "ensure-postgres: the package brought no version from 14 to 18: $by_hand" >&2
fi
