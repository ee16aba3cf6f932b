#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a fresh Debian root file system the guest of `make boot`:  customize.sh ROOT   (a hook of mmdebstrap)
set -eu
root=$1

echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
echo 'root:bedplate' | chroot "$root" chpasswd

# The network of --net user: an address by DHCP, the resolver at its fixed address.
printf '[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/80-ether.network"
chroot "$root" systemctl -q enable systemd-networkd
chroot "$root" systemctl -q disable systemd-networkd-wait-online
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
mkdir -p "$root/root/.ssh"
chmod 700 "$root/root/.ssh"

# Whoever has the serial console has the machine: no password there.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - $TERM
END

# A throw-away guest looks after nothing in the background; there is no VGA either.
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer logrotate.timer getty@tty1.service

# The command line of the kernel names the package source on the host: bp.source=URL.
cat >"$root/etc/systemd/system/bedplate-source.service" <<'END'
[Unit]
Description=Package source on the host
Before=serial-getty@ttyS0.service ssh.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bedplate-source

[Install]
WantedBy=multi-user.target
END
cat >"$root/usr/local/sbin/bedplate-source" <<'END'
#!/bin/sh
list=/etc/apt/sources.list.d/bedplate.list
url=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^bp.source=//p')
if [ -n "$url" ]; then
    # It comes from this machine's own host by loopback, so it carries no signature.
    printf 'deb [trusted=yes] %s ./\ndeb-src [trusted=yes] %s ./\n' "$url" "$url" >$list
else
    rm -f $list
fi
END
chmod 755 "$root/usr/local/sbin/bedplate-source"
chroot "$root" systemctl -q enable bedplate-source

# A serial line cannot tell the terminal's size; bp.rows=N bp.cols=N do.
cat >"$root/etc/profile.d/bedplate.sh" <<'END'
if [ "$(tty)" = /dev/ttyS0 ]; then
    for size in $(tr ' ' '\n' </proc/cmdline | sed -n 's/^bp\.\(rows\|cols\)=\([0-9]*\)$/\1:\2/p'); do
        stty "${size%:*}" "${size#*:}"
    done
    unset size
fi
END

# apt asks the host's small source only; Debian's own need the Internet.
echo '# With the Internet at hand, write sources of Debian 12 here and run apt-get update.' >"$root/etc/apt/sources.list"
rm -f "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
printf 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/50bedplate"
