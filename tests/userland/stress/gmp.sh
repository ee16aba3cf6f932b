# SPDX-License-Identifier: GPL-2.0-or-later
# gmp from Debian's source: arithmetic in assembly for this CPU, checked against its own plain C by its tests: those of
# mpn, where all of the assembly is. The other folders' three times as many programs test what C makes of it.
apt-get -qq source gmp
cd gmp-*/
# Debian's source has no manual, for which configure wants a makefile.
mkdir -p doc
echo 'all check:' >doc/Makefile.in
./configure --disable-shared --enable-fat
make -j "$(nproc)"
make -C tests -j "$(nproc)" libtests.la
make -C tests/mpn -j "$(nproc)" check || { cat tests/mpn/test-suite.log; exit 1; }
echo good
