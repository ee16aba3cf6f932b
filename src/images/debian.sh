# SPDX-License-Identifier: GPL-2.0-or-later
# What the scripts that make Debian guests share; to be read by `.`, with fail() defined.

# What this host's apt uses for Debian 12 is reachable and near.
sources_write()
{
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Origin: Debian' 'Created-By: Packages' 'Component: main' \
        2>/dev/null | grep ' bookworm' | sort -u >"$1.tmp" || true
    grep -q ' bookworm$' "$1.tmp" ||
        fail "apt knows no source of Debian 12 (bookworm), so the guest cannot be made; add one to /etc/apt and run apt-get update"
    signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    while read -r uri suite; do
        echo "deb $signed $uri $suite main"
    done <"$1.tmp" >"$1"
    rm "$1.tmp"
}

proxies()
{
    for scheme in http https; do
        eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
        [ -z "${proxy:-}" ] || echo "Acquire::$scheme::Proxy \"$proxy\";"
        unset proxy
    done
}

# With fakeroot, owners and devices exist for the processes under it only: so one of them does all. Extended
# attributes are left out, for it cannot keep them; the one file that has any, ping, works without.
# disk_make ROOT.TAR FOLDER SIZE: FOLDER gets root.img of that size, vmlinuz, initrd.img, status (dpkg's), host_key.pub.
disk_make()
{
    as=fakeroot
    [ "$(id -u)" != 0 ] || as="env"
    # shellcheck disable=SC2016 # the words are the inner shell's
    "$as" sh -euc 'mkdir "$2/root"
        tar -C "$2/root" --numeric-owner -xpf "$1"
        cp "$2/root"/boot/vmlinuz-* "$2/vmlinuz"
        cp "$2/root"/boot/initrd.img-* "$2/initrd.img"
        cp "$2/root/var/lib/dpkg/status" "$2/status"
        cp "$2/root/etc/ssh/ssh_host_ed25519_key.pub" "$2/host_key.pub" 2>/dev/null || true
        truncate -s "$3" "$2/root.img"
        mke2fs -q -t ext4 -L root -E lazy_itable_init=1,lazy_journal_init=1 -d "$2/root" "$2/root.img"
        rm -rf "$2/root"' sh "$1" "$2" "$3"
}
