#!/usr/bin/env bash
# packaging/cross.sh build|test [cargo arguments…]: the arm64 program, built without a container; Cross.toml
# is the same thing for `cross`, and a test keeps the two equal in target, packages and environment. `test`
# builds the unit tests and runs them under qemu-user.
# The target's standard library is the compiler's own where it has one (`rustup target add
# aarch64-unknown-linux-gnu`); else Debian's compiler and library, unpacked beside the other tools.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

installed() { dpkg-query -W -f '${Status}\n' "$@" 2>/dev/null | grep -c 'ok installed'; }
# shellcheck disable=SC2086 # the names are words
if [ "$(installed $packages)" != "$(wc -w <<<"$packages")" ]; then
  { apt-get update -q && apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $packages; } >&2
fi
if ! compgen -G "$("${RUSTC:-rustc}" --print target-libdir --target "$target")/libstd-*.rlib" >/dev/null; then
  tools="${SAM2D_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/sam2d-tools}/rust-web"
  packaging/unpack "$tools" rustc-web 'rustc-web>libstd-rust-web-' 'rustc-web>libllvm' libstd-rust-web-dev libstd-rust-web-dev:arm64
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$tools/usr/lib/x86_64-linux-gnu" "$tools/usr/bin/rustc" >"$tools/rustc"
  chmod +x "$tools/rustc"
  RUSTC="$tools/rustc"
  export RUSTC
fi
. packaging/flags
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
what="${1:-build}"; shift || true
case "$what" in
  build) exec cargo build --release --locked --target "$target" "$@" ;;
  test)
    # One C library only, the cross compiler's or this machine's own for arm64: of two, pthread_create spins for ever.
    runner="qemu-aarch64"
    [ -e /lib/ld-linux-aarch64.so.1 ] || runner+=" -L /usr/aarch64-linux-gnu"
    # qemu-user starts no program of the target's and knows no openat2: tests that need one of them run elsewhere only
    # (the daemon with its children runs on an arm64 kernel, tests/packages/arm64.py).
    skip=(--skip imaging::decoder::stand_in --skip cache::tests::kill --skip cache::tests::disk::a_really_full_disk
      --skip cache::tests::disk::trouble_is_counted --skip service::inbox)
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$runner" exec cargo test --release --locked --target "$target" --lib "$@" \
      -- "${skip[@]}" ;;
  *) echo "cross.sh: build or test" >&2; exit 2 ;;
esac
