#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a fresh Debian root file system an image for many guests:  customize-image.sh ROOT   (a hook of mmdebstrap)
set -eu
root=$1

echo debian >"$root/etc/hostname"
echo '/dev/disk/by-label/root / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"

# Each guest gets its own of these: host keys by cloud-init, the machine id at its first start.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

# cloud-init looks at the disk that the daemon makes for each guest, and asks no network for it.
cat >"$root/etc/cloud/cloud.cfg.d/50_bedplate.cfg" <<'CFG'
datasource_list: [NoCloud, None]
manage_etc_hosts: true
preserve_sources_list: true
locale: false
ssh_genkeytypes: [ed25519, ecdsa] # an RSA key takes a minute where there is no KVM
system_info:
  network:
    renderers: [networkd]
CFG
chroot "$root" systemctl -q enable systemd-networkd systemd-resolved

# Whoever has the serial console has the machine: no password there.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'CFG'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - $TERM
CFG
# apt in the guest asks where the image came from; proxies and the like are this host's own.
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap
