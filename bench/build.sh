#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Build the guest benchmark kit.
#   build.sh OUT [MODULES_DIR...]
# OUT          where everything built goes (created)
# MODULES_DIR  .../lib/modules/<release> of a kernel whose virtio drivers are
#              modules (tools/prepare-guest.sh leaves one in .cache/guest/kernel);
#              several may be given, init picks the running kernel's.
# Makes OUT/root/ (bench, tiny, busybox), OUT/initrd.cpio.gz, OUT/disk.img.
# Needs: gcc with static libc, cpio, gzip, busybox (static).
set -eu
[ $# -ge 1 ] || { sed -n '3,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
CC=${CC:-gcc}
CFLAGS="-std=gnu11 -O2 -march=x86-64 -fno-tree-vectorize -fno-tree-loop-distribute-patterns
 -Wall -Wextra -Wno-missing-field-initializers -Wno-cast-function-type"
mkdir -p "$out/root"
out=$(cd "$out" && pwd)
root=$out/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp"

$CC $CFLAGS -pthread -static -s -o "$root/bin/bench" "$here"/guest/*.c
$CC -nostdlib -static -s -o "$root/bin/tiny" "$here/guest/tiny.S"
bb=${BUSYBOX:-$(command -v busybox)}
cp "$bb" "$root/bin/busybox"
if "$root/bin/busybox" true 2>/dev/null && ! ldd "$root/bin/busybox" >/dev/null 2>&1; then :; else
	echo "build.sh: $bb is not a static busybox (set BUSYBOX=)" >&2
	exit 1
fi
ln -s bin/bench "$root/init"

for m in "$@"; do
	rel=$(basename "$m")
	mkdir -p "$root/mod/$rel"
	n=0
	for name in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev \
		virtio_pci virtio_mmio virtio_blk; do
		f=$(find "$m" -name "$name.ko*" | head -n 1)
		[ -n "$f" ] || continue
		case $f in
		*.xz) xz -dc "$f" >"$root/mod/$rel/$name.ko" ;;
		*.zst) zstd -qdc "$f" >"$root/mod/$rel/$name.ko" ;;
		*.gz) gzip -dc "$f" >"$root/mod/$rel/$name.ko" ;;
		*) cp "$f" "$root/mod/$rel/$name.ko" ;;
		esac
		n=$((n + 1))
	done
	[ $n -gt 0 ] || echo "build.sh: no virtio modules under $m" >&2
done

(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) | gzip -9n >"$out/initrd.cpio.gz"
[ -f "$out/disk.img" ] || "$root/bin/bench" mkdisk "$out/disk.img" 64
ls -l "$out/initrd.cpio.gz" "$out/disk.img"
