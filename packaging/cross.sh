#!/usr/bin/env bash
# packaging/cross.sh [build|test] [cargo arguments…]: the arm64 program, built without a container; Cross.toml
# is the same thing for `cross`, and a test keeps the two equal in target, packages and environment. `test`
# also runs the unit tests under qemu-user (QEMU=qemu-aarch64-static unless set).
# Needs the target's standard library: `rustup target add aarch64-unknown-linux-gnu`, or a rustc that has it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

for name in $packages; do
  dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' && continue
  apt-get update -q && apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $packages && break
done
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
what="${1:-build}"; shift || true
case "$what" in
  build) exec cargo build --release --locked --target "$target" "$@" ;;
  test)
    # The target's own C library only: beside another one, pthread_create spins for ever.
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${QEMU:-qemu-aarch64-static} -L /usr/aarch64-linux-gnu" \
      exec cargo test --release --locked --target "$target" --lib "$@" ;;
  *) echo "cross.sh: build or test" >&2; exit 2 ;;
esac
