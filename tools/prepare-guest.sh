#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepares the small Linux guest that `make boot` and the boot tests start:  prepare-guest.sh [FOLDER]
# FOLDER (.cache/guest) gets vmlinuz, initrd.cpio, disk.img, and kernel/ with the unpacked package.
# What is there already and still fits is kept; disk.img is yours once it exists.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../.cache/guest}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# Two at once would work on the same names.
exec 9>"$dir/lock"
flock 9

say() { echo "== guest: $*"; }
fail() { echo "prepare-guest: $*" >&2; exit 1; }

# linux-image-cloud-amd64 only depends on the package that holds the kernel.
kernel_package()
{
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: *\(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

kernel_version()
{
    apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Version: //p' | head -n 1
}

# The unpacked package in $dir/kernel, its name and version in $dir/kernel/package.
kernel_fetch()
{
    rm -rf "$dir/kernel.tmp"
    mkdir -p "$dir/kernel.tmp/deb"
    say "downloading $1 $2"
    # As root, apt would fetch as another user, who may not write here.
    (cd "$dir/kernel.tmp/deb" && apt-get -o APT::Sandbox::User="$(id -un)" download "$1=$2" >&2) ||
        return 1
    say "unpacking it"
    dpkg-deb -x "$dir/kernel.tmp/deb"/*.deb "$dir/kernel.tmp" || return 1
    rm -rf "$dir/kernel.tmp/deb"
    echo "$1 $2" >"$dir/kernel.tmp/package"
    rm -rf "$dir/kernel"
    mv "$dir/kernel.tmp" "$dir/kernel"
}

kernel_prepare()
{
    package=$(kernel_package)
    if [ -z "$package" ] && [ ! -e "$dir/kernel/package" ]; then
        [ "$(id -u)" = 0 ] ||
            fail "the package lists name no linux-image-cloud-amd64; run: sudo apt-get update"
        say "fetching the package lists"
        apt-get update >&2 || fail "cannot fetch the package lists"
        package=$(kernel_package)
        [ -n "$package" ] || fail "the package lists name no linux-image-cloud-amd64"
    fi
    [ -n "$package" ] || return 0
    version=$(kernel_version "$package")
    [ "$(cat "$dir/kernel/package" 2>/dev/null)" != "$package $version" ] || return 0
    kernel_fetch "$package" "$version" && return 0
    [ -e "$dir/kernel/package" ] || fail "cannot download the kernel"
    say "that failed; staying with $(cat "$dir/kernel/package")"
}

# The initramfs: busybox, our scripts, and the modules named here with all that they depend on.
MODULES="virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio-rng virtio_balloon
         virtio_scsi sd_mod sr_mod vmw_vsock_virtio_transport ext4 crc32c-intel crc32c_generic button"

initrd_build()
{
    say "building the initramfs"
    root=$dir/root.tmp
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/sbin" "$root/etc" "$root/dev" "$root/proc" "$root/sys"
    busybox=$(command -v busybox) || fail "busybox is missing: install busybox-static"
    ! ldd "$busybox" >/dev/null 2>&1 || fail "$busybox is not static: install busybox-static"
    cp "$busybox" "$root/bin/busybox"
    install -m 755 "$here/guest/init" "$root/init"
    install -m 755 "$here/guest/udhcpc.script" "$here/guest/session" "$root/sbin/"
    ln -s ../bin/busybox "$root/sbin/modprobe" # where the kernel looks for it
    install -m 644 "$here/guest/profile" "$root/etc/profile"
    # The C library inside the static busybox can load no modules for names.
    printf 'hosts: files dns\nservices: files\nnetworks: files\n' >"$root/etc/nsswitch.conf"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"

    release=$(basename "$dir/kernel"/lib/modules/*)
    modules=$dir/kernel/lib/modules/$release
    [ -e "$modules/modules.dep" ] || "$busybox" depmod -b "$dir/kernel" "$release"
    for name in $MODULES; do
        line=$(grep -E "(^|/)$name\.ko:" "$modules/modules.dep" || true)
        if [ -z "$line" ]; then
            grep -qE "/$name\.ko$" "$modules/modules.builtin" ||
                fail "the kernel has no module $name"
            continue
        fi
        for file in $(echo "$line" | tr -d :); do
            install -D -m 644 "$modules/$file" "$root/lib/modules/$release/$file"
        done
    done
    # modules.dep and the aliases by which the kernel and init ask for drivers.
    "$busybox" depmod -b "$root" "$release"

    # Not compressed: unpacking costs the guest more than reading costs the host.
    (cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$dir/initrd.tmp"
    mv "$dir/initrd.tmp" "$dir/initrd.cpio"
    rm -rf "$root"
}

kernel_prepare
key=$(cat "$dir/kernel/package" "$here/prepare-guest.sh" "$here"/guest/* | sha256sum)
if [ "$(cat "$dir/key" 2>/dev/null)" != "$key" ] || [ ! -e "$dir/initrd.cpio" ] ||
    [ ! -e "$dir/vmlinuz" ]; then
    rm -f "$dir/key"
    initrd_build
    cp "$dir/kernel"/boot/vmlinuz-* "$dir/vmlinuz.tmp"
    mv "$dir/vmlinuz.tmp" "$dir/vmlinuz"
    echo "$key" >"$dir/key.tmp"
    mv "$dir/key.tmp" "$dir/key"
fi
if [ ! -e "$dir/disk.img" ]; then
    say "making its disk"
    "$here/guest/make-disk.sh" "$dir/disk.img"
fi
