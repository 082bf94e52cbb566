#!/usr/bin/env bash
# packaging/bundle.sh DEB OUT-FOLDER KEY [ENGINE-FOLDER…]: what an air-gapped site carries in on one stick: the
# package, engine packages, checksums, a detached signature over them (minisign), and an install script that
# checks all of it first and can go back to the version before. KEY is minisign's secret key.
set -euo pipefail
deb="$(realpath "$1")"; out="$(realpath "$2")"; key="$(realpath "$3")"; shift 3
name="$(basename "$deb" .deb)-offline"
tree="$out/$name"
rm -rf "$tree"; mkdir -p "$tree/engines"
cp "$deb" "$tree/"
for engine in "$@"; do cp -r "$engine" "$tree/engines/"; done
install -m 0755 "$(dirname "$0")/offline-install" "$tree/install"
(cd "$tree" && find . -type f ! -name SHA256SUMS ! -name '*.minisig' -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
minisign -S -q -s "$key" -m "$tree/SHA256SUMS" -t "sam2d offline bundle $name" ${MINISIGN_NO_PASSWORD:+-W} </dev/null
tar -C "$out" --sort=name --owner=0 --group=0 -cf "$out/$name.tar" "$name"
rm -rf "$tree"
echo "$out/$name.tar"
