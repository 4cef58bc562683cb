#!/bin/sh
# Prints a folder whose node_modules hold @novu/api, the official TypeScript SDK, after fetching it once:
#
#	PGAUTOMATE_NOVU_API=$(scripts/npm-novu.sh) make test ARGS="-run TestNovuAPI ./server"
set -eu

version=3.19.1
for tool in npm node; do
	command -v "$tool" >/dev/null 2>&1 || {
		echo "npm-novu: $tool is missing: install it (Debian: packages nodejs and npm)" >&2
		exit 1
	}
done
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pgautomate/novu-api-$version
if [ ! -f "$folder/done" ]; then
	mkdir -p "$folder"
	echo '{"private": true}' >"$folder/package.json"
	(cd "$folder" && npm install --no-audit --no-fund --silent "@novu/api@$version" >"$folder/npm.log" 2>&1) || {
		echo "npm-novu: npm can't fetch @novu/api@$version: see $folder/npm.log" >&2
		exit 1
	}
	touch "$folder/done"
fi
echo "$folder"
