# W1 on the plaintext road: stock primary -> proxy -> encrypted standby and pg_receivewal. The proxy, the standby and the primary are
# killed -9 (torn sectors on both servers), the primary is put back twice to a snapshot of its files and goes on differently,
# once still behind what was sent and once past it, the standby follows the primary without the proxy for a while (its walreceiver
# encrypts then), is promoted and killed again. Under one WAL key no keystream
# may be used twice, on the standby's disk and on the wire. The control at the end rolls the proxy's ledger back as well: that must fail.
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
my $rounds = $ENV{PROXY_ROUNDS} // 12;
my @modes = ('random', 'random', 'page', 'tail', 'head', 'none');
seeded_random();
my $dir = PostgreSQL::Test::Utils::tempdir();
mkdir "$dir/plain";

my $green = Accounting::Server->new(Walcrypt::Node->new('green'), dir => "$dir/plain", env => {}, sync_delay => 1000);
$green->node->init(allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$green->configure;
# it must not remove what a proxy, a standby or an archive that is down has yet to fetch
$green->node->append_conf('postgresql.conf', 'wal_keep_size = 256MB');
$green->start;
my $proxy = Walcrypt::Proxy->new(nodes => {
		green => { conninfo => $green->node->connstr_for_proxy },
		teal => { keyset => 'teal' },
		archive => { keyset => 'archive', profile => 1 } });
$proxy->key_init('teal');
$proxy->key_init('archive');
$proxy->start;
my $load = Accounting::Load->new("$dir/load");
$load->setup($green->node);

my $relay = Accounting::Relay->new('proxy', [ $proxy->host, $proxy->port ], dir => $dir);
my $teal_node = Walcrypt::Node->new('teal');
my $teal = Accounting::Server->new($teal_node, dir => $dir, env => { layer_env($proxy->kek_uri, $teal_node->data_dir) });
my ($receiver, $receivers) = (undef, 0);

# A new standby and a new archive, both through the proxy.
sub attach
{
	my (@extra) = @_;
	$teal->clone($relay, user => 'teal', extra => \@extra);
	$teal->start;
	$receiver->stop if $receiver;
	$receiver = Accounting::Receiver->new($relay->connstr('user=archive'), "$dir/received" . ++$receivers);
	$receiver->start;
	return;
}
attach();
system_or_bail('cp', '-r', $teal_node->data_dir . '/pg_cryptokeys', "$dir/keys");

my ($torn, @lost, @unequal, %kills) = (0);
sub compare
{
	my ($when) = @_;
	$teal->catch_up($green->node);
	my ($one, $other) = map { $load->sums($_->node) } ($green, $teal);
	push @unequal, "$when: $one is not $other" if $one ne $other;
	return;
}

for my $round (1 .. $rounds) {
	$receiver->start;
	$load->start($green->node, 3, 60);
	sleep(0.3 + rand(0.5));
	my $mode = $modes[ int(rand(@modes)) ];
	if ($round % 3 == 0) {
		$torn += $green->kill9($mode)->{torn}{changed};
		$load->finish;
		$green->start;
		$kills{green}++;
	} elsif ($round % 3 == 1) {
		$proxy->kill9;
		$proxy->start;
		$kills{proxy}++;
	} else {
		$torn += $teal->kill9($mode)->{torn}{changed};
		$teal->start;
		$kills{teal}++;
	}
	$load->finish;
	push @lost, map { "$_ in round $round" } $load->lost($green->node);
	compare("round $round") if $round % 3 == 0;
}
# WAL inside a base backup, as a directory and as a tar archive
for my $format (qw(plain tar)) {
	system_or_bail('pg_basebackup', '-D', "$dir/fetched.$format", '-F', $format, '-X', 'fetch', '-c', 'fast', '--no-sync', '-d', $relay->connstr('user=teal'));
}
sub fetched { return scalar(() = $proxy->log =~ /base backup: .* [1-9][0-9]* WAL files encrypted/g); }
eval { Walcrypt::wait_for('both to be told', sub { fetched() == 2 }, 30) };
my $fetched = fetched();
is($fetched, 2, 'base backups brought encrypted WAL files');
compare('before the snapshot');

# The primary is put back to a snapshot of its files and goes on differently.
sub snapshot
{
	my ($what) = @_;
	my ($live, $kept) = ($green->node->data_dir, "$dir/snapshot");
	$green->stop;
	system_or_bail('rm', '-rf', $what eq 'take' ? $kept : $live);
	system_or_bail('cp', '-a', $what eq 'take' ? ($live, $kept) : ($kept, $live));
	$green->start;
	return;
}
sub flushed { return $green->node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'); }
sub work
{
	my ($clients, $count) = @_;
	$load->start($green->node, $clients, $count);
	$load->finish;
	return;
}

for my $where ('behind', 'past') {
	snapshot('take');
	work(2, $where eq 'behind' ? 60 : 30);
	compare("after the snapshot, $where");
	my $sent = flushed();
	$teal->stop;
	$receiver->stop;
	my $log = $proxy->log_size;
	snapshot('put back');
	work(1, 5);
	if ($where eq 'past') {
		work(2, 30) while $green->node->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() <= '$sent'") eq 't';
	}
	attach($where eq 'behind' ? () : ('-X', 'none'));
	work(2, 30);
	$load->lost($green->node);    # what the snapshot took back is lost, and is said so by no one
	compare("$where what was sent");
	like($proxy->log($log), qr/WARNING: .*incarnation/, "the primary is found $where what was sent, and other than it was");
}

# Without the proxy the standby's walreceiver encrypts what arrives in clear.
$teal->stop;
$teal->follow_directly($green->node);
$teal->start;
for my $round (1 .. 3) {
	$load->start($green->node, 2, 40);
	sleep(0.3 + rand(0.5));
	$torn += $teal->kill9('random')->{torn}{changed};
	$teal->start;
	$load->finish;
	$kills{teal}++;
}
push @lost, map { "$_ without the proxy" } $load->lost($green->node);
compare('without the proxy');

# Promoted, the standby is an encrypted primary on a timeline of its own.
$green->kill9('');
$receiver->stop;
$teal->promote;
for my $round (1 .. 4) {
	push @lost, map { "$_ on the promoted standby" } $load->lost($teal->node);
	$load->start($teal->node, 3, 100);
	sleep(0.3 + rand(0.5));
	$torn += $teal->kill9('random')->{torn}{changed};
	$load->finish;
	$teal->start;
	$kills{promoted}++;
}
push @lost, $load->lost($teal->node);
$teal->stop;
$relay->stop;
$teal->node->use_layer($proxy->kek_uri)->start;
$teal->node->check_integrity('the promoted standby');

note(join(', ', map { "$_ killed $kills{$_} times" } sort keys %kills) . ", $torn sectors torn");
is("@lost", '', 'no acknowledged transaction was lost');
is("@unequal", '', 'the standby had what the primary had');
cmp_ok($torn, '>', 0, "torn sectors: $torn");
my ($rc, $report) = accountant('--keys', "$dir/keys", '--kek', $proxy->{kek}, "$dir/tapes");
is($rc, 0, 'the accountant has no objection') or diag(explain($report->{shown}));
is($report->{violations}, 0, 'no two ciphertexts under one WAL key and counter');
is($report->{clear}, 0, 'no clear WAL');
is($report->{unknown}, 0, 'nothing that it could not read');
note("W6: $report->{w6_granules} granules, $report->{w6_bytes} bytes, of $report->{ciphertext} bytes of ciphertext");
is_deeply($report->{timelines}, [ 1, 2 ], 'on two timelines');
# three incarnations, two base backups with WAL, segments that the walreceiver encrypted, five runs of the promoted standby
cmp_ok($report->{generations}, '>=', 12, "generations: $report->{generations}");
cmp_ok($report->{sources}{$_} // 0, '>', 1e5, "$_ was seen") for qw(disk:teal wire:proxy);

# The control: with the ledger rolled back together with the primary, the proxy cannot know, and the accountant must see it.
$green->start;
mkdir "$dir/stale";
$proxy->stop;
$proxy->start;
$relay = Accounting::Relay->new('stale', [ $proxy->host, $proxy->port ], dir => "$dir/stale");
sub receive
{
	my ($name) = @_;
	$receiver = Accounting::Receiver->new($relay->connstr('user=archive'), "$dir/$name");
	$receiver->start;
	work(2, 40);
	my $lsn = $green->node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	my $segment = $green->node->safe_psql('postgres', "SELECT pg_walfile_name('$lsn')");
	Walcrypt::wait_for("$segment to be received", sub { -e "$dir/$name/$segment" });
	$receiver->stop;
	return;
}
receive('stale1');
snapshot('take');
$proxy->stop;
system_or_bail('cp', $proxy->keystore . '/ledger', "$dir/ledger");
$proxy->start;
receive('stale2');
$proxy->stop;
snapshot('put back');
system_or_bail('cp', "$dir/ledger", $proxy->keystore . '/ledger');
$proxy->start;
receive('stale3');
$proxy->stop;
$green->stop;
$relay->stop;
($rc, $report) = accountant('--keys', "$dir/keys", '--kek', $proxy->{kek}, "$dir/stale/tapes");
is($rc, 1, 'with the ledger rolled back as well, the accountant objects');
cmp_ok($report->{violations}, '>', 10, "... to $report->{violations} granules of keystream used twice");
done_testing();
