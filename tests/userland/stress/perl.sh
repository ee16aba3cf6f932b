# SPDX-License-Identifier: GPL-2.0-or-later
# Perl's own tests out of Debian's source package, run with the installed perl of the same version.
apt-get -qq source perl
cd perl-*/t
# These compare the installed perl with files of a finished build tree, or want a terminal.
rm -f op/getppid.t op/tie_fetch_count.t.orig
export PERL_CORE_MINITEST= PERL_SKIP_TTY_TEST=1 PERL_TEST_HARNESS=1
perl -e '
    use TAP::Harness;
    my $harness = TAP::Harness->new({ jobs => $ARGV[0], verbosity => -1, exec => [ "perl" ] });
    my @known = map { chomp; s/ *#.*//; $_ } grep { /^[^#]/ } do { open my $f, "<", "../../perl-known" or (); $f ? <$f> : () };
    my @all = sort glob("base/*.t cmd/*.t re/*.t op/*.t opbasic/*.t comp/*.t uni/*.t");
    my $result = $harness->runtests(@all);
    my @failed = $result->failed;
    print "failed: @failed\n";
' "$(nproc)"
echo good
