#!/usr/bin/env bash
# packaging/bundle.sh DEB OUT-FOLDER KEY [ENGINE-FOLDER…]: what an air-gapped site carries in on one stick: the
# package, engine packages, checksums, a detached signature over them (Ed25519, by openssl, which every box has),
# and the install script that checks all of it first and can go back to the version before. KEY is the secret
# key: openssl genpkey -algorithm ed25519 -aes256 -out site.key; openssl pkey -in site.key -pubout -out site.pub
set -euo pipefail
deb="$(realpath "$1")"; out="$(realpath "$2")"; key="$(realpath "$3")"; shift 3
name="$(basename "$deb" .deb)-offline"
tree="$out/$name"
rm -rf "$tree"; mkdir -p "$tree/engines"
cp "$deb" "$tree/"
for engine in "$@"; do cp -rL "$engine" "$tree/engines/"; done
install -m 0755 "$(dirname "$0")/offline-install" "$tree/install"
(cd "$tree" && find . -type f ! -path ./SHA256SUMS -print0 | LC_ALL=C sort -z | xargs -0 sha256sum >SHA256SUMS)
openssl pkeyutl -sign -rawin -inkey "$key" -in "$tree/SHA256SUMS" -out "$tree/SHA256SUMS.sig"
tar -C "$out" --sort=name --owner=0 --group=0 --mode=go=rX -cf "$out/$name.tar" "$name"
rm -rf "$tree"
echo "$out/$name.tar"
