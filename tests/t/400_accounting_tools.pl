# The tools of the keystream accounting are tested themselves: a made-up violation is found, W6's edge is told from one, a torn
# sector is one, and on a stock server (whose WAL, taken for ciphertext, has no fresh generation) kill -9 shows violations.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../accounting";
use Accounting;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;
use Walcrypt::Strace;

needs_strace();
my $tools = $Accounting::tools;
my $out = `python3 $tools/selftest.py 2>&1`;
is($?, 0, 'the accountant, the tracer and the relay know right from wrong') or diag($out);
note($out);

# A stock server, killed with power losses: the tracer follows it, and the accountant sees the same place written twice.
seeded_random();
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = Walcrypt::Node->new('stock');
$node->init(allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
my $server = Accounting::Server->new($node, dir => $dir);
$server->configure;
$server->start;
my $load = Accounting::Load->new("$dir/load");
$load->setup($node);
my $torn = 0;
my @lost;
# six rounds, and more where a busy machine got little done in them
for my $round (1 .. 30) {
	last if $round > 6 && $torn > 50 && keys %{ $load->{acknowledged} } > 60;
	$load->start($node, 3, 400);
	sleep(0.4 + rand(0.5));
	my $event = $server->kill9('random');
	$load->finish;
	$torn += $event->{torn}{changed};
	$server->start;
	push @lost, $load->lost($node);
}
$server->stop;
is("@lost", '', 'a stock server loses no acknowledged transaction to torn sectors');
cmp_ok(scalar(keys %{ $load->{acknowledged} }), '>', 60, 'there were transactions to lose');
cmp_ok($torn, '>', 0, "sectors were torn ($torn)");
my ($rc, $report) = accountant('--clear-is-ciphertext', "$dir/tapes");
is($rc, 1, 'clear WAL taken for ciphertext fails');
cmp_ok($report->{violations}, '>', 0, "... with $report->{violations} granules written differently after a crash");
($rc, $report) = accountant("$dir/tapes");
is($rc, 1, 'clear WAL where ciphertext should be fails');
cmp_ok($report->{clear}, '>', 0, '... as clear WAL');
done_testing();
