# The house keeps its own rules: every test file is run, the docs and samples agree with the programs, lint is clean.
use strict;
use warnings;
use Test::More;

my %run;
open(my $list, '<', $ENV{WALCRYPT_TESTS_RUN}) or die "WALCRYPT_TESTS_RUN: $!";
while (<$list>) { chomp; s{.*/}{}; $run{$_} = 1; }
close $list;

SKIP: {
	skip 'only some tests were asked for', 1 if keys %run < 5;
	my @missing = grep { !$run{ (m{([^/]+)$})[0] } } glob('tests/t/*');
	is("@missing", '', 'every file of tests/t is run');
}
my @misnamed = grep { !m{/[0-9]{3}_[a-z0-9_]+\.pl$} } glob('tests/t/*');
is("@misnamed", '', 'every file of tests/t is named NNN_name.pl');
my %number;
push @{ $number{ (m{/(\d+)_})[0] } }, $_ for glob('tests/t/*_*');
is(join(' ', map { "@$_" } grep { @$_ > 1 } @number{ sort keys %number }), '', 'no two tests have one number');

# tests run side by side, below one folder
my %folder;
for my $file (glob('tests/t/*.pl')) {
	open(my $f, '<', $file) or die "$file: $!";
	my %here = map { $_ => 1 } map { m{tmp_check \. '/(\w+)'} } <$f>;
	push @{ $folder{$_} }, $file for keys %here;
}
cmp_ok(scalar(keys %folder), '>', 10, 'folders of tests are found');
is(join(' ', map { "$_: @{ $folder{$_} }" } grep { @{ $folder{$_} } > 1 } sort keys %folder), '', 'no two tests have one folder');

for my $check (qw(scripts/check-docs scripts/lint)) {
	my $out = `$check 2>&1`;
	is($?, 0, $check) or diag($out);
}
done_testing();
