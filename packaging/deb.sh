#!/usr/bin/env bash
# packaging/deb.sh BINARY OUT-FOLDER: the Debian package, with dpkg-deb alone. The architecture is read from
# the binary. Man pages and completions come from the program itself; arm64's runs under qemu-user elsewhere.
# Prints the package's path. The result is reproducible: SOURCE_DATE_EPOCH, else the last commit's time.
set -euo pipefail
binary="$(realpath "$1")"; out="$(realpath "$2")"
cd "$(dirname "$0")/.."
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
# e_machine of the ELF head.
case "$(od -An -tu2 -j18 -N2 "$binary" | tr -d ' ')" in
  62) arch=amd64 ;;
  183) arch=arm64 ;;
  *) echo "deb.sh: $binary is neither x86-64 nor aarch64" >&2; exit 1 ;;
esac
runs=("$binary")
if [ "$arch" = arm64 ] && [ "$(uname -m)" != aarch64 ]; then
  runs=(qemu-aarch64 "$binary")
  [ -e /lib/ld-linux-aarch64.so.1 ] || runs=(qemu-aarch64 -L /usr/aarch64-linux-gnu "$binary")
fi
# The newest glibc that it asks for; objdump says so in the tests, here any tool will do.
glibc="$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -uV | tail -1 | cut -d_ -f2)"
tree="$(mktemp -d)"; trap 'rm -rf "$tree"' EXIT
put() { install -D -m "$1" "$2" "$tree/$3"; }

put 0755 "$binary" usr/bin/sam2d
strip="$(command -v "$([ $arch = arm64 ] && echo aarch64-linux-gnu-strip || echo x86_64-linux-gnu-strip)" || true)"
[ -z "$strip" ] || "$strip" --strip-unneeded --remove-section=.comment --remove-section=.note "$tree/usr/bin/sam2d" 2>/dev/null || true
put 0644 systemd/sam2d.service usr/lib/systemd/system/sam2d.service
put 0644 systemd/sam2d.socket usr/lib/systemd/system/sam2d.socket
put 0644 systemd/sam2d.sysusers usr/lib/sysusers.d/sam2d.conf
put 0644 systemd/sam2d.tmpfiles usr/lib/tmpfiles.d/sam2d.conf
put 0644 systemd/gpu.conf usr/share/sam2d/gpu.conf
put 0644 config/orin.toml usr/share/sam2d/orin.toml
for file in config/prometheus/*; do put 0644 "$file" "usr/share/sam2d/prometheus/$(basename "$file")"; done
for file in config/grafana/*; do put 0644 "$file" "usr/share/sam2d/grafana/$(basename "$file")"; done
put 0755 packaging/offline-install usr/share/sam2d/offline-install
put 0644 samples/phantom-axial.dcm usr/share/sam2d/samples/phantom-axial.dcm
put 0644 config/sam2d.toml etc/sam2d/sam2d.toml
# May hold secrets one day: systemd reads it as root.
put 0640 config/sam2d.env etc/sam2d/sam2d.env
for doc in docs/*.md README.md; do put 0644 "$doc" "usr/share/doc/sam2d/$(basename "$doc")"; done
put 0644 engines/sam2-nano/PROVENANCE.md usr/share/doc/sam2d/PROVENANCE-sam2-nano.md
packaging/sbom.py "$tree/usr/share/doc/sam2d" >&2
put 0644 packaging/copyright usr/share/doc/sam2d/copyright
put 0644 packaging/lintian-overrides usr/share/lintian/overrides/sam2d
put 0644 CHANGELOG.md usr/share/doc/sam2d/CHANGELOG.md
maintainer="sam2d maintainers <sam2d@localhost>"
# Debian's own form, for apt-listchanges; the words are in CHANGELOG.md.
printf 'sam2d (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' "$version" "$maintainer" \
  "$(LC_ALL=C date -Ru -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$tree/usr/share/doc/sam2d/changelog.gz"

mkdir -p "$tree/usr/share/man/man1" "$tree/usr/share/bash-completion/completions" \
  "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/fish/vendor_completions.d"
"${runs[@]}" man "$tree/usr/share/man/man1" >/dev/null
gzip -9n "$tree"/usr/share/man/man1/*
"${runs[@]}" completions bash >"$tree/usr/share/bash-completion/completions/sam2d"
"${runs[@]}" completions zsh >"$tree/usr/share/zsh/vendor-completions/_sam2d"
"${runs[@]}" completions fish >"$tree/usr/share/fish/vendor_completions.d/sam2d.fish"
find "$tree/usr" -type f ! -path '*/bin/*' ! -name offline-install -exec chmod 0644 {} +
find "$tree" -type d -exec chmod 0755 {} +

# As Debian's policy counts it: du's figure is the file system's.
size="$(find "$tree" -mindepth 1 -printf '%y %s\n' | awk '{ kib += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print kib }')"
install -d -m 0755 "$tree/DEBIAN"
for script in postinst prerm postrm; do install -m 0755 "packaging/$script" "$tree/DEBIAN/$script"; done
(cd "$tree" && find etc -type f | sed 's|^|/|' | sort) >"$tree/DEBIAN/conffiles"
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: sam2d
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $size
Depends: libc6 (>= $glibc), libgcc-s1, systemd (>= 249) | systemd-standalone-sysusers, passwd
Section: science
Priority: optional
Description: one-click segmentation of medical slices, on this machine
 sam2d answers editors in the LAN that send a slice (PNG, JPEG or DICOM) with
 a mask, by SAM2 on an NVIDIA card or on the CPU. Nothing leaves the machine.
 .
 Not for diagnostic use. The embedded model is for demonstration.
CONTROL
chmod 0644 "$tree/DEBIAN/control" "$tree/DEBIAN/conffiles" "$tree/DEBIAN/md5sums"
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package="$out/sam2d_${version}_$arch.deb"
# More threads make other bytes.
DPKG_DEB_THREADS_MAX=1 dpkg-deb --root-owner-group -Zxz -z3 --build "$tree" "$package" >/dev/null
echo "$package"
