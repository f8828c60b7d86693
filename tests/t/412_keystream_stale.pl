# The keystream accounting's negative control: a storage layer built without fresh generations must fail it. The library is linked
# from the same objects with wal_random_generation replaced (tests/accounting/fixed_generation.c); the product has no switch for it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../accounting";
use Accounting;
use Cwd qw(abs_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;
use Walcrypt::Strace;

needs_strace();
my $dir = PostgreSQL::Test::Utils::tempdir();
my $top = abs_path("$FindBin::RealBin/../..");
my $build = "$dir/build";
mkdir $build;
mkdir "$build/bin";
system_or_bail('gcc', '-std=c11', '-fPIC', '-I', $top, '-c', '-o', "$build/fixed_generation.o", "$top/tests/accounting/fixed_generation.c");
my $made = `make -s --no-print-directory -j2 -C '$top' B='$build' CFLAGS=-O1 LDFLAGS='-Wl,--wrap=wal_random_generation $build/fixed_generation.o' '$build/lib/walcrypt/libwalcrypt-storage.so' 2>&1`;
is($?, 0, 'a storage layer with one generation for all is linked') or BAIL_OUT($made);
# the library looks for walcrypt-ctl beside itself
system_or_bail('cp', "$Walcrypt::prefix/bin/walcrypt-ctl", "$build/bin/");
$Walcrypt::prefix = $build;
$Walcrypt::ctl = "$build/bin/walcrypt-ctl";
$Walcrypt::layer = "$build/lib/walcrypt/libwalcrypt-storage.so";

seeded_random();
my $kek = kek_file("$dir/kek");
my $node = Walcrypt::Node->new('stale');
my $server = Accounting::Server->new($node, dir => $dir, env => { layer_env("file:$kek", $node->data_dir) });
$node->init_encrypted("file:$kek", allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$server->configure;
$server->start;
my $load = Accounting::Load->new("$dir/load");
$load->setup($node);
my $torn = 0;
# six rounds, and more where a busy machine got little done in them
for my $round (1 .. 30) {
	last if $round > 6 && $torn > 20;
	$load->start($node, 3, 250);
	sleep(0.4 + rand(0.5));
	$torn += $server->kill9('random')->{torn}{changed};
	$load->finish;
	$server->start;
	$load->lost($node);
}
$server->stop;

cmp_ok($torn, '>', 0, "sectors were torn ($torn)");
my ($rc, $report) = accountant('--keys', $node->data_dir . '/pg_cryptokeys', '--kek', $kek, "$dir/tapes");
is($rc, 1, 'the accountant objects');
is($report->{generations}, 1, 'there was one generation for all runs');
cmp_ok($report->{violations}, '>', 10, "... and $report->{violations} granules of keystream were used twice");
done_testing();
