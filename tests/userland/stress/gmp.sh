# SPDX-License-Identifier: GPL-2.0-or-later
# gmp from Debian's source: arithmetic in assembly for this CPU, checked against its own plain C by its tests.
apt-get -qq source gmp
cd gmp-*/
./configure --disable-shared --enable-fat
make -j "$(nproc)"
make check || { cat tests/*/test-suite.log; exit 1; }
echo good
