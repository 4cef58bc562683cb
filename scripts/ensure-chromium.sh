#!/bin/sh
# Makes sure that there is a Chromium for the browser tests. On Debian and Ubuntu it installs the package when none is there.
# Does nothing when one is there.
set -eu
for name in chromium chromium-browser google-chrome google-chrome-stable headless-shell chrome-headless-shell; do
	if command -v "$name" >/dev/null 2>&1; then
		exit 0
	fi
done
by_hand="install Chromium (Debian: package chromium); without it the browser tests are skipped"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "ensure-chromium: $by_hand" >&2
	exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "ensure-chromium: neither root nor sudo: $by_hand" >&2
		exit 0
	fi
	as_root=sudo
fi
echo "ensure-chromium: no Chromium on this machine, installing Debian's packages chromium and chromium-driver" >&2
if ! { $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
	chromium chromium-driver; } >&2; then
	echo "ensure-chromium: the installation failed: $by_hand" >&2
fi
