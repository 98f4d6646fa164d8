#!/usr/bin/env bash
# Programs that Debian has and Python's index has not, for the tests: those of the machine, and what it
# lacks unpacked in a folder. That takes no root, and starts no service as installing them would.
#
#   tests/parts.sh FOLDER BIN   # FOLDER: what is unpacked; BIN: gets a program that starts each
set -euo pipefail
shopt -s nullglob
folder=$1 bin=$2
packages=(prometheus nginx nghttp2-client libfaketime)
programs=(prometheus promtool nginx h2load)

new=$folder.new
rm -rf "$new"
mkdir -p "$new"/{root,state/lists/partial,cache/archives/partial}
new=$(realpath "$new")
trap 'rm -rf "$new"' EXIT
# Lists and archives of our own; the machine's status tells which libraries it lacks.
apt=(
    apt-get -qq -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)"
    -o Dir::State="$new/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$new/cache"
)
echo "unpacking programs that only Debian has for the tests (half a minute the first time)"
if ! { "${apt[@]}" update && "${apt[@]}" install --download-only --no-install-recommends --yes "${packages[@]}"; }; then
    echo "apt-get brings none of ${packages[*]} here: tests that need one which is not installed are skipped" >&2
    exit 0
fi
for archive in "$new"/cache/archives/*.deb; do
    dpkg-deb --extract "$archive" "$new/root"
done
# Pages and manuals, two thirds of it all.
rm -rf "$folder" "$new/root/usr/share"
mv "$new/root" "$folder"
folder=$(realpath "$folder")
libraries=$(find "$folder" -name '*.so*' -printf '%h\n' | sort -u | paste -sd :)
for program in "${programs[@]}"; do
    path=$(find "$folder" -path '*bin/*' -name "$program" ! -type d -print -quit)
    if [[ -n $path ]]; then
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$path" >"$bin/$program"
        chmod +x "$bin/$program"
    fi
done
