# SPDX-License-Identifier: GPL-2.0-or-later
# zlib from Debian's source: compile, its own tests, and a round trip of something larger.
apt-get -qq source zlib
cd zlib-*/
./configure
make -j "$(nproc)"
make check
for level in 1 6 9; do
    cat /usr/lib/gcc/x86_64-linux-gnu/12/cc1 | ./minigzip -$level >out.gz
    echo "same cc1: $(./minigzip -d <out.gz | sha256sum)"
    echo "same cc1: $(gzip -d <out.gz | sha256sum)"
done
echo good
