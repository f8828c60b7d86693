# W1 on encrypted servers: over 50 kill -9s with torn sectors, two promotions, recycled segments and a restored snapshot no keystream is used twice, on
# the disks of primary and standby and on the wire to a standby and to pg_receivewal, and no acknowledged transaction is lost.
# ROUNDS=n runs more, SEED=n repeats; docs/testing-keystream.md tells how it works and what it found with stale generations.
use strict;
use warnings;
use File::Copy ();
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
my $rounds = $ENV{ROUNDS} // 50;
my $enough = 40 * $rounds;    # sectors torn: some more rounds are run where chance brings less
my @modes = ('random', 'random', 'page', 'tail', 'head', 'none', '');
seeded_random();
my $dir = PostgreSQL::Test::Utils::tempdir();
my $kek = kek_file("$dir/kek");
my $uri = "file:$kek";

my %server;
for my $name (qw(red blue)) {
	my $node = Walcrypt::Node->new($name);
	$server{$name} = Accounting::Server->new($node, dir => $dir, env => { layer_env($uri, $node->data_dir) });
}
my ($primary, $standby) = @server{qw(red blue)};
$primary->node->init_encrypted($uri, allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$primary->configure;
$primary->start;
system_or_bail('cp', '-r', $primary->node->data_dir . '/pg_cryptokeys', "$dir/keys");
my $load = Accounting::Load->new("$dir/load");
$load->setup($primary->node);

# What goes over the wire from a primary to a standby and to pg_receivewal.
my ($relay, $receiver);
my $relays = 0;
sub attach
{
	$relay->stop if $relay;
	$receiver->stop if $receiver;
	$relay = Accounting::Relay->new($primary->node->name, [ $primary->node->host, $primary->node->port ], dir => $dir);
	$standby->clone($relay);
	$standby->start;
	$receiver = Accounting::Receiver->new($relay->connstr, "$dir/received" . ++$relays);
	$receiver->start;
	return;
}
attach();

my ($torn, $names, $promotions, $recycled, $standby_kills, $backend_kills, $early_kills, $restarts) = (0) x 8;
my (@lost, @unequal);

sub killed
{
	my ($event) = @_;
	$torn += $event->{torn}{changed} // 0;
	$names += $event->{torn}{names} // 0;
	return;
}

sub compare
{
	$standby->catch_up($primary->node);
	my ($one, $other) = map { $load->sums($_->node) } ($primary, $standby);
	push @unequal, "$one is not $other" if $one ne $other;
	return;
}

for (my $round = 1; $round <= $rounds || ($torn < $enough && $round <= 2 * $rounds); $round++) {
	$receiver->start;
	$load->start($primary->node, 3, 250);
	sleep(0.3 + rand(0.7));
	my $mode = $modes[ int(rand(@modes)) ];
	if ($round % 8 == 5) {
		killed($standby->kill9($mode));
		$standby_kills++;
		$standby->start if $round % 16 == 5;
	}
	if ($round % 8 == 3) {
		$primary->kill9_backend;
		$backend_kills++;
		$load->finish;
	} elsif ($round % 10 == 9) {
		# a clean restart continues a page that standby and receiver have the beginning of
		$primary->stop;
		$load->finish;
		$restarts++;
		$primary->start;
	} else {
		$load->burst($primary->node) if $mode ne '';
		killed($primary->kill9($mode));
		$load->finish;
		if ($round % 4 == 0) {
			# and again, on the way up
			killed($primary->start_and_kill('random'));
			$early_kills++;
		}
		$primary->start;
	}
	$standby->start unless defined $standby->{tracer};
	my @missing = $load->lost($primary->node);
	push @lost, map { "$_ in round $round ($mode)" } @missing;
	compare() if $round % 5 == 0;

	if ($round == int($rounds * 0.4) || $round == int($rounds * 0.8)) {
		compare() if $round % 5;
		killed($primary->kill9('random'));
		$standby->promote;
		$promotions++;
		($primary, $standby) = ($standby, $primary);
		push @lost, map { "$_ at promotion $promotions" } $load->lost($primary->node);
		attach();
	}
}
compare();

# The primary is put back to a snapshot of its files and goes on differently; what was acknowledged since is gone with it.
my $live = $primary->node->data_dir;
my %until_snapshot = %{ $load->{acknowledged} };
$primary->stop;
system_or_bail('cp', '-a', $live, "$dir/snapshot");
$primary->start;
$load->start($primary->node, 3, 40);
$load->finish;
compare();
$primary->stop;
$standby->stop;
system_or_bail('rm', '-rf', $live);
system_or_bail('cp', '-a', "$dir/snapshot", $live);
$load->{acknowledged} = \%until_snapshot;
$primary->start;
$load->start($primary->node, 3, 40);
$load->finish;
push @lost, map { "$_ after the snapshot was put back" } $load->lost($primary->node);
attach();
compare();

$receiver->stop;
$standby->stop;
$primary->stop;
$relay->stop;

my $kills = $server{red}{kills} + $server{blue}{kills};
$recycled += $_->{recycled} for events("$dir/events");
note("$kills kill -9s ($standby_kills of the standby, $backend_kills of one process, $early_kills of a starting server), $restarts clean restarts, $torn sectors torn, $names names of journals put back, "
		. scalar(keys %{ $load->{acknowledged} }) . " transactions acknowledged");
is("@lost", '', 'no acknowledged transaction was lost');
is("@unequal", '', 'the standby has what the primary has');
cmp_ok($kills, '>=', $rounds * 0.9, "kill -9: $kills");
cmp_ok($torn, '>=', $enough, "torn sectors: $torn");
is($promotions, 2, 'two promotions');
cmp_ok($recycled, '>', 0, "recycled segments: $recycled");

my ($rc, $report) = accountant('--keys', "$dir/keys", '--kek', $kek, '--served', 'wire:red=disk:red', '--served', 'wire:blue=disk:blue', "$dir/tapes");
is($rc, 0, 'the accountant has no objection') or diag(explain($report->{shown}));
is($report->{violations}, 0, 'no two ciphertexts under one WAL key and counter');
is($report->{clear}, 0, 'no clear WAL');
is($report->{unknown}, 0, 'nothing that it could not read');
is($report->{unserved}, 0, 'nothing on the wire that is not on the disk');
note("W6: $report->{w6_granules} granules, $report->{w6_bytes} bytes, of $report->{ciphertext} bytes of ciphertext");
cmp_ok($report->{ciphertext}, '>', 1e6, "bytes of ciphertext: $report->{ciphertext}");
cmp_ok($report->{generations}, '>=', 0.8 * $rounds, "generations: $report->{generations}");
is_deeply($report->{timelines}, [ 1, 2, 3 ], 'on three timelines');
cmp_ok($report->{sources}{$_} // 0, '>', 1e5, "$_ was seen") for qw(disk:red disk:blue wire:red wire:blue);

for my $server ($primary, $standby) {
	my ($verified, $out, $err) = ctl_output('verify', '-D', $server->node->data_dir, '--kek', $uri);
	is($verified, 0, 'verify finds ' . $server->node->name . ' whole') or diag($out . $err);
	$server->node->use_layer($uri)->start;
	$server->node->promote if $server == $standby;
	$server->node->check_integrity;
}
done_testing();
