# A server on the storage layer against a plain one: transactions, scans, loading. Both are up, rounds take turns. Each row is defined
# in docs/performance.md.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;

my $seconds   = $ENV{BENCH_TPCB_SECONDS} // 30;
my $gigabytes = $ENV{BENCH_SCAN_GB} // 1;
my %only      = map { $_ => 1 } split(' ', $ENV{BENCH_ONLY} // 'tpcb select scan cold load wal sort within');
my $scale     = 50;

my $kek  = Walcrypt::kek_file("$tmp/bench_kek");
my %node = (plain => Walcrypt::Node->new('plain'), encrypted => Walcrypt::Node->new('encrypted'));
my @sides = qw(plain encrypted);
my $big = grep { $only{$_} } qw(scan cold load sort);
my (%postmaster, %children);

# Started, with the number of processes that it has when nobody is connected.
sub ready
{
	my ($side) = @_;
	($postmaster{$side}) = slurp_file($node{$side}->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	$node{$side}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type IN ('client backend', 'autovacuum worker')");
	sleep(1);
	(undef, $children{$side}) = tree_cpu_seconds($postmaster{$side});
	return;
}

$node{plain}->init(allows_streaming => 1, extra => ['-k']);
$node{encrypted}->init_encrypted("file:$kek", allows_streaming => 1);
my $rows = int($gigabytes * 131072 * 61);    # 61 rows of pgbench_accounts' shape fill a page
for my $side (@sides) {
	my $node = $node{$side};
	$node->append_conf('postgresql.conf', "shared_buffers = 256MB\nfsync = on\nmax_wal_size = 8GB\nmax_connections = 50\nlog_statement = none\n"
		. "autovacuum = off\ncheckpoint_timeout = 1h\nmax_parallel_workers_per_gather = 0\nsynchronize_seqscans = off\nwork_mem = 64MB\n");
	$node->start;
	$node->command_ok([ 'pgbench', '-q', '-i', '-s', $scale, 'postgres' ], 'fill');
	$node->safe_psql('postgres', "CREATE TABLE big AS SELECT i AS aid, 1 AS bid, 0 AS abalance, ''::char(84) AS filler FROM generate_series(1, $rows) i") if $big;
	$node->safe_psql('postgres', 'VACUUM ANALYZE; CHECKPOINT');
	ready($side);
}
my $big_pages = $big ? $node{plain}->safe_psql('postgres', "SELECT pg_relation_size('big') / 8192") : 0;

# What a session of these statements takes: seconds of processor time of all the server's processes, and by the clock for the last.
sub statement_seconds
{
	my ($side, $sql) = @_;
	my ($cpu) = tree_cpu_seconds($postmaster{$side}, $children{$side});
	my $out = $node{$side}->safe_psql('postgres', "\\timing on\n$sql");
	my @ms  = $out =~ /^Time: ([0-9.]+) ms/mg or die "no time in: $out";
	my ($now) = tree_cpu_seconds($postmaster{$side}, $children{$side});
	return ($now - $cpu, $ms[-1] / 1000);
}

# What was added over plain, in units of what openssl alone needs for the pages.
sub say_floor
{
	my ($cpu, $clock, $relation_pages, $wal_pages, $mark) = @_;
	my $floor = $relation_pages * page_seconds() + ($wal_pages > 0 ? $wal_pages * page_seconds('wal') : 0);
	my $added = $cpu->{encrypted} - $cpu->{plain};
	say_line('  encrypted to plain: processor time %.3f, by the clock %.3f', $cpu->{encrypted} / $cpu->{plain}, $clock->{encrypted} / $clock->{plain});
	say_line('  floor: %d relation pages and %d of WAL x openssl = %.3f s; added %.3f s, added/floor %.2f', $relation_pages, $wal_pages, $floor, $added, $added / $floor);
	figure('processor time, encrypted/plain', $cpu->{encrypted} / $cpu->{plain}, $mark);
	figure('time by the clock, encrypted/plain', $clock->{encrypted} / $clock->{plain}, $mark);
	figure('added/floor', $added / $floor, 1.25);
	return;
}

# Pages so far: of relations read and written, of WAL written.
sub pages_so_far
{
	my ($side) = @_;
	return split(/\|/, $node{$side}->safe_psql('postgres', "SELECT (SELECT sum(blks_read) FROM pg_stat_database)
		+ (SELECT buffers_checkpoint + buffers_clean + buffers_backend FROM pg_stat_bgwriter), (SELECT greatest(wal_write, ceil(wal_bytes / 8192)) FROM pg_stat_wal)"));
}

sub pgbench
{
	my ($options, $mark) = @_;
	my ($relation, $wal, $transactions) = (0, 0, 0);
	my ($tps, $cpu) = compare([ 'tps', 'us of the server\'s processor time a transaction' ], \@sides, sub {
		my ($side) = @_;
		my @before = pages_so_far($side);
		my ($from) = tree_cpu_seconds($postmaster{$side}, $children{$side});
		my %env = $node{$side}->_get_env;
		local %ENV = %env;
		my $out = `pgbench -n -c 8 -j 2 -T $seconds $options postgres 2>/dev/null`;
		my ($rate) = $out =~ /^tps = ([0-9.]+)/m or die 'pgbench';
		my ($n) = $out =~ /^number of transactions actually processed: (\d+)/m or die 'pgbench';
		my ($to) = tree_cpu_seconds($postmaster{$side}, $children{$side});
		if ($side eq 'encrypted') {
			my @after = pages_so_far($side);
			$relation += $after[0] - $before[0];
			$wal += $after[1] - $before[1];
			$transactions += $n;
		}
		return ($rate, ($to - $from) / $n * 1e6);
	});
	my $ratio = $tps->{encrypted} / $tps->{plain};
	my @each = ($relation / $transactions, $wal / $transactions);
	my $floor = 1e6 * ($each[0] * page_seconds() + $each[1] * page_seconds('wal'));
	my $added = $cpu->{encrypted} - $cpu->{plain};
	say_line('  rate, encrypted to plain %.3f', $ratio);
	say_line('  floor: %.2f relation pages and %.2f of WAL a transaction x openssl = %.2f us; added %.2f us, added/floor %.2f', @each, $floor, $added, $floor > 0 ? $added / $floor : 0);
	# what is left of the rate when all processors are busy and nothing but the floor is added
	say_line('  the most that the floor leaves of the rate: %.3f', 1 / (1 + $floor / 1e6 * $tps->{plain} / cores()));
	figure('rate, encrypted/plain', $ratio, $mark);
	return;
}

sub cores { chomp(my $n = `nproc`); return $n; }

# Does none of it stand in the page cache after this? Then the next scan reads the disk.
sub dropped
{
	my (@files) = @_;
	for my $file (@files) {
		system('dd', "if=$file", 'iflag=nocache', 'count=0', 'status=none') == 0 or return 0;
		return 0 if `fincore -b -n -o RES $file` != 0;
	}
	return 1;
}

if ($only{tpcb}) {
	say_part("pgbench TPC-B, scale $scale, 8 clients, $seconds s a run, fsync on");
	pgbench('', 0.97);
}
if ($only{select}) {
	say_part("pgbench SELECT-only, scale $scale, 8 clients, $seconds s a run, 256 MB of shared buffers: data from the system's cache");
	pgbench('-S', 0.98);
}
if ($only{scan}) {
	say_part('sequential scan of %.2f GB in the operating system\'s cache, one process', $big_pages / 131072);
	say_floor(compare([ 's of processor time', 's by the clock' ], \@sides, sub { statement_seconds($_[0], 'SELECT count(*) FROM big') }), $big_pages, 0, 1.5);
}
if ($only{cold}) {
	say_part('sequential scan of %.2f GB from the disk, dropped from the system\'s cache before', $big_pages / 131072);
	my %files = map { my $file = $node{$_}->data_dir . '/' . $node{$_}->safe_psql('postgres', "SELECT pg_relation_filepath('big')"); ($_ => [ $file, glob("$file.[0-9]*") ]) } @sides;
	if (grep { !dropped(@{ $files{$_} }) } @sides) {
		say_line('  not measured: this file system keeps the files in memory');
	} else {
		my ($cpu, $clock) = compare([ 's of processor time', 's by the clock' ], \@sides, sub {
			my ($side) = @_;
			dropped(@{ $files{$side} }) or die 'the files are in the cache again';
			statement_seconds($side, 'SELECT count(*) FROM big');
		});
		say_line('  encrypted to plain, by the clock %.3f; the disk gave the plain server %.2f GB/s', $clock->{encrypted} / $clock->{plain}, $big_pages * 8192 / 1e9 / $clock->{plain});
		figure('time by the clock, encrypted/plain', $clock->{encrypted} / $clock->{plain}, 1.0);
	}
}
if ($only{load}) {
	say_part('CREATE TABLE AS of %.2f GB, WAL logged', $big_pages / 131072);
	my @wal;
	my ($cpu, $clock) = compare([ 's of processor time', 's by the clock' ], \@sides, sub {
		my ($side) = @_;
		my $from = $node{$side}->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
		my @s = statement_seconds($side, 'CREATE TABLE copied AS SELECT * FROM big');
		push @wal, $node{$side}->safe_psql('postgres', "SELECT ceil((pg_current_wal_insert_lsn() - '$from') / 8192)");
		$node{$side}->safe_psql('postgres', 'DROP TABLE copied; CHECKPOINT');
		return @s;
	});
	say_floor($cpu, $clock, 2 * $big_pages, median(@wal), 1.25);    # each page is read, and written
}
if ($only{wal}) {
	say_part('WAL-only load: 10,000 logical messages of 64 kB, asynchronous commit');
	my ($cpu, $clock) = compare([ 's of processor time', 's by the clock' ], \@sides, sub {
		my ($side) = @_;
		my @s = statement_seconds($side, "SET synchronous_commit = off; SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 65536))) FROM generate_series(1, 10000)");
		$node{$side}->safe_psql('postgres', 'CHECKPOINT');
		return @s;
	});
	say_floor($cpu, $clock, 0, 10000 * 8);
}
if ($only{sort}) {
	say_part('sort of %.2f GB that spills to temporary files, work_mem 64 MB', $big_pages / 131072);
	my @temp;
	my ($cpu, $clock) = compare([ 's of processor time', 's by the clock' ], \@sides, sub {
		my ($side) = @_;
		my $bytes = 'SELECT temp_bytes FROM pg_stat_database WHERE datname = \'postgres\'';
		my $before = $node{$side}->safe_psql('postgres', $bytes);
		my @s = statement_seconds($side, 'SELECT count(*) FROM (SELECT * FROM big ORDER BY hashint4(aid) OFFSET 0) x');
		push @temp, ($node{$side}->safe_psql('postgres', $bytes) - $before) / 8192;
		return @s;
	});
	say_floor($cpu, $clock, $big_pages + 2 * median(@temp), 0);    # temporary pages are XTS too, written and read once
}
if ($only{within}) {
	for my $side (@sides) {
		$node{$side}->append_conf('postgresql.conf', "shared_buffers = 1GB\n");
		$node{$side}->restart;
		$node{$side}->safe_psql('postgres', "CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_prewarm('pgbench_accounts'), pg_prewarm('pgbench_accounts_pkey')");
		ready($side);
	}
	say_part("pgbench SELECT-only, scale $scale, 8 clients, $seconds s a run, 1 GB of shared buffers: all data within them");
	pgbench('-S', 0.98);
}
$_->stop for values %node;
ok(1, 'measured');
done_testing();
