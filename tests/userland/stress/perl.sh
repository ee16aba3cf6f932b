# SPDX-License-Identifier: GPL-2.0-or-later
# Perl's own tests out of Debian's source package, run by the installed perl of the same version:
# perl.sh NUMBER FOLDER...  runs those of the folders, of which there are at least so many. Natively all pass.
apt-get -qq source perl
cd perl-*/t
# The tests look for perl and its modules in the built tree.
for installed in /usr/share/perl/5.36 /usr/lib/x86_64-linux-gnu/perl/5.36 /usr/lib/x86_64-linux-gnu/perl-base; do
    cp -a "$installed/." ../lib/
done
export PERL_SKIP_TTY_TEST=1 # there is none by ssh
ln -s /usr/bin/perl perl
ln -s /usr/bin/perl ../perl
# These need what only a build generates: an extension for tests, and tables of Unicode.
rm op/goto_xs.t re/uniprops*.t
# 61 of the 106 s that all of them take natively, for what others test as well: a thread, which copies the whole
# interpreter, for each of 2,000 patterns (regexp_qr_embed.t has the patterns, op/threads.t and re/pat_thr.t the threads),
# and a perl of its own for each of 2,000 patterns, to see how it is displayed.
rm re/regexp_qr_embed_thr.t re/anyof.t
perl -e '
    use TAP::Harness;
    my ($jobs, $least, @folders) = @ARGV;
    my $harness = TAP::Harness->new({ jobs => $jobs, verbosity => -1 });
    my $result = $harness->runtests(sort map { glob "$_/*.t" } @folders);
    exit !($result->all_passed && $result->total >= $least);
' "$(nproc)" "$@" </dev/null
echo good
