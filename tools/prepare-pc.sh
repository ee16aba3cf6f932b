#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepares Debian's generic kernel, which drives a PC's old chips, and an initramfs with its drivers
# for tests/pc:  prepare-pc.sh [FOLDER]
# FOLDER (.cache/pc) gets vmlinuz and initrd.cpio. What is there and still fits is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../.cache/pc}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
exec 9>"$dir/lock"
flock 9

fail() { echo "prepare-pc: $*" >&2; exit 1; }

MODULES="ahci ata_piix sd_mod sr_mod xhci-pci usbhid hid-generic e1000e psmouse evdev floppy virtio_pci
         virtio_console virtio_input virtio-gpu"

package=$(apt-cache depends linux-image-amd64 2>/dev/null |
    sed -n 's/^ *Depends: *\(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
[ -n "$package" ] || fail "the package lists name no linux-image-amd64; run: apt-get update"
key=$( (echo "$package"; cat "$here/prepare-pc.sh" "$here/guest/pc-init") | sha256sum)
[ "$(cat "$dir/key" 2>/dev/null)" != "$key" ] || exit 0
rm -rf "$dir/tmp"
mkdir -p "$dir/tmp/deb"
echo "== pc: downloading $package"
# As root, apt would fetch as another user, who may not write here.
(cd "$dir/tmp/deb" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package") ||
    fail "cannot download $package"
dpkg-deb -x "$dir/tmp/deb"/*.deb "$dir/tmp/kernel"

root=$dir/tmp/root
mkdir -p "$root/bin" "$root/sbin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp"
busybox=$(command -v busybox) || fail "busybox is missing: install busybox-static"
cp "$busybox" "$root/bin/busybox"
ln -s ../bin/busybox "$root/sbin/modprobe"
install -m 755 "$here/guest/pc-init" "$root/init"
release=$(basename "$dir/tmp/kernel"/lib/modules/*)
modules=$dir/tmp/kernel/lib/modules/$release
"$busybox" depmod -b "$dir/tmp/kernel" "$release"
for name in $MODULES; do
    line=$(grep -E "(^|/)$name\.ko:" "$modules/modules.dep") || fail "the kernel has no module $name"
    for file in $(echo "$line" | tr -d :); do
        install -D -m 644 "$modules/$file" "$root/lib/modules/$release/$file"
    done
done
"$busybox" depmod -b "$root" "$release"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$dir/initrd.cpio"
cp "$dir/tmp/kernel"/boot/vmlinuz-* "$dir/vmlinuz"
rm -rf "$dir/tmp"
echo "$key" >"$dir/key"
