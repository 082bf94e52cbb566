#!/usr/bin/env bash
# packaging/release.sh amd64|arm64 OUT-FOLDER [cargo arguments…]: the package as it is shipped: built with
# packaging/flags, so that no path of the builder's is in it. Build it on Debian 12, Ubuntu 22.04 or older: a
# newer C library would be asked for. Prints the package's path.
set -euo pipefail
arch="$1"; mkdir -p "$2"; out="$(realpath "$2")"; shift 2
cd "$(dirname "$0")/.."
built="${CARGO_TARGET_DIR:-target}"
case "$arch" in
  amd64)
    . packaging/flags
    cargo build --release --locked --target x86_64-unknown-linux-gnu --bin sam2d "$@" >&2
    built+="/x86_64-unknown-linux-gnu" ;;
  arm64)
    packaging/cross.sh build --bin sam2d "$@" >&2
    built+="/aarch64-unknown-linux-gnu" ;;
  *) echo "release.sh: amd64 or arm64" >&2; exit 2 ;;
esac
packaging/deb.sh "$built/release/sam2d" "$out"
