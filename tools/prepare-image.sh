#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a Debian 12 disk image as others make them, with nothing of this tree in it:  prepare-image.sh [FOLDER]
# FOLDER (.cache/image) gets debian.img: Debian's generic kernel with the initrd of initramfs-tools, and GRUB for BIOS and
# UEFI, installed by grub-install on a disk that QEMU shows to it. What is there and still fits is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../.cache/image}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
PATH=$PATH:/sbin:/usr/sbin
exec 9>"$dir/lock"
flock 9

say() { echo "== image: $*"; }
fail() { echo "prepare-image: $*" >&2; exit 1; }

. "$here/../src/images/debian.sh"

# grub-cloud-amd64 is what Debian's own cloud images have; the last line's are for tests/pc/hardware.py.
PACKAGES=linux-image-amd64,initramfs-tools,grub-cloud-amd64,systemd-sysv,dbus,udev,kmod,zstd,\
dmidecode,pciutils,acpica-tools,i2c-tools

key=$(cat "$0" "$here/../src/images/debian.sh" | sha256sum)
[ "$(cat "$dir/key" 2>/dev/null)" != "$key" ] || exit 0
rm -rf "$dir/tmp"
mkdir -p "$dir/tmp"

# ---- the root file system ----

cat >"$dir/tmp/customize" <<'END'
set -eu
root=$1
echo image >"$root/etc/hostname"
printf 'LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077 0 2\n' >"$root/etc/fstab"
echo 'root:bedplate' | chroot "$root" chpasswd
mkdir -p "$root/boot/efi"
printf 'GRUB_TIMEOUT=2\nGRUB_CMDLINE_LINUX="console=ttyS0 console=tty0"\n' >>"$root/etc/default/grub"
cat >"$root/install-grub" <<'INNER'
#!/bin/sh
# The first process of the one start under QEMU.
set -e
mount /boot/efi
grub-install --target=i386-pc /dev/vda
grub-install --target=x86_64-efi --removable --no-nvram
update-grub
umount /boot/efi
rm /install-grub
echo "the image is finished"
# This shell still has its script open, so only the kernel can make / read-only: sync, read-only, off.
echo s >/proc/sysrq-trigger
sleep 1
echo u >/proc/sysrq-trigger
sleep 1
echo o >/proc/sysrq-trigger
while :; do :; done
INNER
chmod 755 "$root/install-grub"
END
sources_write "$dir/tmp/sources.list"
proxies >"$dir/tmp/apt.conf"
say "making a root file system with mmdebstrap"
mmdebstrap -q --variant=important --include="$PACKAGES" --aptopt="$dir/tmp/apt.conf" \
    --customize-hook="sh '$dir/tmp/customize' \"\$1\"" --format=tar bookworm "$dir/tmp/root.tar" "$dir/tmp/sources.list" ||
    fail "mmdebstrap could not make the root file system (its messages are above)"

# ---- the disk: a place for GRUB's core, the EFI system partition, the root ----

MIB=$((1 << 20)) ESP_MIB=64 ROOT_MIB=2560
disk_make "$dir/tmp/root.tar" "$dir/tmp" ${ROOT_MIB}M
image=$dir/tmp/debian.img
truncate -s $(((ROOT_MIB + ESP_MIB + 4) * MIB)) "$image"
sfdisk -q "$image" <<END
label: gpt
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649
start=2MiB, size=${ESP_MIB}MiB, type=uefi
start=$((ESP_MIB + 2))MiB, size=${ROOT_MIB}MiB, type=linux
END
mkfs.fat -C -n ESP "$dir/tmp/esp.img" $((ESP_MIB * 1024)) >/dev/null
dd if="$dir/tmp/esp.img" of="$image" bs=$MIB seek=2 conv=sparse,notrunc status=none
dd if="$dir/tmp/root.img" of="$image" bs=$MIB seek=$((ESP_MIB + 2)) conv=sparse,notrunc status=none

# ---- GRUB, by Debian's own programs ----

say "installing GRUB under QEMU"
timeout 900 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 512 -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$dir/tmp/vmlinuz" -initrd "$dir/tmp/initrd.img" -drive "file=$image,format=raw,if=virtio,cache=unsafe" \
    -append "root=LABEL=root rw console=ttyS0 quiet no_timer_check init=/install-grub" </dev/null >"$dir/log" 2>&1 || true
grep -q "the image is finished" "$dir/log" || fail "GRUB could not be installed: $dir/log"
mv "$image" "$dir/debian.img"
rm -rf "$dir/tmp"
echo "$key" >"$dir/key"
